"""Draw what the transformer at the bottleneck attends to, for chosen pixels of an image.

    python scripts/tutorial_draw_attention.py --run RUN                          (the first test image)
    python scripts/tutorial_draw_attention.py --run RUN --index 3 --at 20 31 --at 50 8 --out three.png
    python scripts/tutorial_draw_attention.py --run RUN photo.jpg

Without --at, a pixel in the middle of each of the largest regions of the prediction is taken. The lines printed here
say how to read the picture.

Letters: l blocks of the transformer, a heads, p pixels, h w (r c) rows and columns of the token grid.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from seg.classes import IGNORE_LABEL, ClassTable
from seg.cli import run_command
from seg.config import ModelConfig
from seg.data import build_dataset
from seg.data.image_file import read_image
from seg.data.transforms import normalise, to_unit
from seg.errors import UserError
from seg.inference.predictor import Predictor, load_predictor
from seg.models import build_model
from seg.models.resnet_v2 import DOWNSAMPLING
from seg.pictures import draw_grid, draw_overlay, legend_entries, save_picture

MAX_TOKENS = 4096
"""Attention of more would take gigabytes."""

NUM_PIXELS = 3
HEAT_COLOUR = np.array([185, 140, 20])

EXPLANATION = """
How to read {path}

A row belongs to one pixel, marked by a cross. The network sees the image as {rows} × {columns} tokens of
{stride} × {stride} pixels when it comes to the transformer. In each of the {blocks} blocks, the token with the cross
gathers from all others, in shares that sum to 1: bright tokens gave much, on one scale for the whole picture. Shown is
the mean over the heads.

It shows where a block gathered from, not what it took from there, nor why the pixel got its class: the convolutions
before have mixed neighbourhoods already, and the skip connections go around the transformer.
"""


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description="Draw the attention of a trained transformer for chosen pixels.")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, help="run directory of a training")
    model.add_argument("--model", type=Path, metavar="FOLDER", help="exported or converted model")
    parser.add_argument("--index", type=int, default=0, help="which image of the test split (default: 0)")
    parser.add_argument("--at", type=int, nargs=2, action="append", metavar=("ROW", "COLUMN"), help="a pixel")
    parser.add_argument("--out", type=Path, default=Path("attention.png"), help="PNG file (default: attention.png)")
    parser.add_argument("inputs", nargs="*", metavar="FILE", help="an image file instead, and settings as key=value")
    return parser.parse_intermixed_args()


def attention_maps(predictor: Predictor, image_hwc: np.ndarray, pixels: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return float32[p, l, a, h, w], the attention of the tokens that contain the pixels; each map sums to 1.

    The image, uint8[h, w, 3], is computed in one piece at its own size; `Predictor.bring` resizes it as prediction
    does. Memory grows with the square of the number of tokens. `pixels` are (row, column).
    """
    size = image_hwc.shape[:2]
    stride, (h, w) = token_grid(predictor.config.model, size)
    for row, column in pixels:
        if not (0 <= row < size[0] and 0 <= column < size[1]):
            raise UserError(f"pixel {row} {column}: the image has {size[0]} rows and {size[1]} columns")
    # Pooling drops an odd last row: its pixels belong to the token before.
    asking_p = [min(row // stride, h - 1) * w + min(column // stride, w - 1) for row, column in pixels]
    maps_plaj = np.moveaxis(_attention(predictor, image_hwc, asking_p), 2, 0)
    return maps_plaj.reshape(*maps_plaj.shape[:3], h, w)


def token_grid(config: ModelConfig, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Return the stride of the tokens in pixels, and their rows and columns in an image of `size`."""
    match config.name:
        case "unet_transformer" if config.transformer.num_layers:
            stride = config.stem_stride * 2**config.depth
            if config.stem_stride == 1:
                return stride, tuple(max(n // stride, 1) for n in size)
        case "transunet":
            stride = DOWNSAMPLING
        case name:
            raise UserError(f"expected a model with a transformer (unet_transformer, transunet), found {name}")
    return stride, tuple(-(-n // stride) for n in size)


def _attention(predictor: Predictor, image_hwc: np.ndarray, asking_p: Sequence[int]) -> np.ndarray:
    """Return weights_lapj: float32[l, a, p, j], the attention of the query tokens of these numbers."""
    config = predictor.config
    model = build_model(config.model)

    @jax.jit
    def weights(variables, image_bhwc):
        x_bhwc = normalise(to_unit(image_bhwc), *config.data.normalisation)
        _, state = model.apply(variables, x_bhwc, train=False, mutable=["attention"])
        (weights_lbasj,) = jax.tree.leaves(state["attention"])
        return weights_lbasj[:, 0][:, :, np.asarray(asking_p)]

    return np.asarray(weights(predictor.variables, image_hwc[None]))


def choose_image(predictor: Predictor, files: list[str], index: int) -> tuple[str, np.ndarray]:
    """Return name and pixels of the image file that was named, or of an image of the test split.

    Raises:
        UserError: more than one file, one that cannot be read or is too large, or no such image.
    """
    if len(files) > 1:
        raise UserError(f"expected one image file, found {len(files)}: {', '.join(files)}")
    if files:
        name, image_hwc = files[0], read_image(Path(files[0]))
    else:
        dataset = build_dataset(predictor.config.data, "test", predictor.config.seed)
        if not 0 <= index < len(dataset):
            raise UserError(f"--index: expected 0 to {len(dataset) - 1}, found {index}")
        name, image_hwc = dataset[index].name, dataset[index].image
    _, (rows, columns) = token_grid(predictor.config.model, predictor.bring(image_hwc).shape[:2])
    if rows * columns > MAX_TOKENS:
        raise UserError(f"{name}: {rows} × {columns} tokens are more than {MAX_TOKENS}; take a smaller image")
    return name, image_hwc


def choose_pixels(mask_hw: np.ndarray, number: int = NUM_PIXELS) -> list[tuple[int, int]]:
    """Return a pixel of each of the largest classes of a prediction, the one nearest to the middle of its class."""
    labels, counts = np.unique(mask_hw, return_counts=True)
    pixels = []
    for label in labels[np.argsort(-counts, kind="stable")][:number]:
        places_n2 = np.argwhere(mask_hw == label)
        nearest = np.square(places_n2 - places_n2.mean(0)).sum(1).argmin()
        pixels.append(tuple(places_n2[nearest].tolist()))
    return pixels


def print_shares(pixels: list[tuple[int, int]], maps_plhw: np.ndarray, stride: int) -> None:
    """Print, for each pixel and block, how much it keeps for itself and where it gathers most."""
    for (row, column), maps_lhw in zip(pixels, maps_plhw, strict=True):
        for number, map_hw in enumerate(maps_lhw, 1):
            rows, columns = map_hw.shape
            own = map_hw[min(row // stride, rows - 1), min(column // stride, columns - 1)]
            top, left = (stride * place for place in np.unravel_index(map_hw.argmax(), map_hw.shape))
            print(
                f"pixel {row} {column}, block {number}: {own:.3f} to its own token, most ({map_hw.max():.3f}) to the "
                f"one at {top} {left}; an even share is {1 / map_hw.size:.3f}"
            )


def draw_attention(
    image_hwc: np.ndarray,
    mask_hw: np.ndarray,
    pixels: Sequence[tuple[int, int]],
    maps_plrc: np.ndarray,
    stride: int,
    classes: ClassTable,
    path: Path,
    cell: int = 200,
) -> None:
    """Write a grid with a row for each pixel: image with the pixel, prediction, and the attention of its token.

    Args:
        image_hwc: uint8[h, w, 3].
        mask_hw: uint8[h, w], the prediction.
        pixels: (row, column) of each, marked by a cross.
        maps_plrc: float[p, l, r, c], at least 0, each map summing to 1. All share one scale, so an even map stays dim.
        stride: pixels from one token to the next.
        classes: names and colours.
        path: of the picture.
        cell: pixels of the longer side of each picture.
    """
    overlay_hwc, rows, names = draw_overlay(image_hwc, mask_hw, classes), [], []
    heat_plrc = maps_plrc / maps_plrc.max()
    for (row, column), maps_lrc, heat_lrc in zip(pixels, maps_plrc, heat_plrc, strict=True):
        marked = [mark_pixel(picture, row, column) for picture in (image_hwc, overlay_hwc)]
        rows.append([*marked, *(lay_heat(image_hwc, heat_rc, stride) for heat_rc in heat_lrc)])
        peaks = ", ".join(f"{map_rc.max() * map_rc.size:.1f}" for map_rc in maps_lrc)
        label = mask_hw[row, column]
        name = "ignored" if label == IGNORE_LABEL else classes.names[label]
        names.append(f"{name} at {row} {column}; peak attention to a token, relative to the mean: {peaks}")
    titles = ("image", "prediction", *(f"block {number + 1}" for number in range(maps_plrc.shape[1])))
    save_picture(draw_grid(rows, titles, names, legend_entries(classes, has_ignored=False), cell), path)


def mark_pixel(picture_hwc: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return a copy with a white, black-rimmed cross at the pixel, about a tenth of the picture long."""
    marked_hwc = picture_hwc.copy()
    height, width = picture_hwc.shape[:2]
    arm, thick = max(max(height, width) // 20, 2), max(max(height, width) // 150, 0)
    for colour, rim in ((0, 1 + thick), (255, thick)):
        for tall, wide in ((arm + rim, rim), (rim, arm + rim)):
            marked_hwc[max(row - tall, 0) : row + tall + 1, max(column - wide, 0) : column + wide + 1] = colour
    return marked_hwc


def lay_heat(image_hwc: np.ndarray, heat_rc: np.ndarray, stride: int) -> np.ndarray:
    """Return uint8[h, w, 3]: the image in grey, coloured by the heat of its tokens, 0 … 1."""
    height, width = image_hwc.shape[:2]
    heat_hw = heat_rc.repeat(stride, axis=0).repeat(stride, axis=1)
    missing = max(height - heat_hw.shape[0], 0), max(width - heat_hw.shape[1], 0)
    heat_hw = np.pad(heat_hw, ((0, missing[0]), (0, missing[1])), mode="edge")[:height, :width]
    grey_hw1 = image_hwc.mean(-1, keepdims=True)
    heat_hw1 = heat_hw[..., None]
    return np.round((1 - heat_hw1) * 0.45 * grey_hw1 + heat_hw1 * (0.25 * grey_hw1 + HEAT_COLOUR)).astype(np.uint8)


def main() -> None:
    """Predict, find the attention, print it in numbers, draw it."""
    arguments = parse_arguments()
    if arguments.out.suffix.lower() != ".png" or not arguments.out.absolute().parent.is_dir():
        raise UserError(f"--out {arguments.out}: expected a .png file in a folder that is there")
    overrides = [text for text in arguments.inputs if "=" in text and not Path(text).exists()]
    files = [text for text in arguments.inputs if text not in overrides]
    predictor = load_predictor(arguments.run or arguments.model, overrides=overrides)
    name, image_hwc = choose_image(predictor, files, arguments.index)
    mask_hw, image_hwc = predictor.predict(image_hwc).labels, predictor.bring(image_hwc)
    if mask_hw.shape != image_hwc.shape[:2]:
        print(f"{name}: segmented and drawn at {image_hwc.shape[0]} × {image_hwc.shape[1]}; pixels are counted there")
        mask = Image.fromarray(mask_hw).resize(image_hwc.shape[1::-1], Image.Resampling.NEAREST)
        mask_hw = np.asarray(mask)
    pixels = [tuple(pixel) for pixel in arguments.at or choose_pixels(mask_hw)]
    maps_plahw = attention_maps(predictor, image_hwc, pixels)
    stride, (rows, columns) = token_grid(predictor.config.model, image_hwc.shape[:2])
    print(f"{name}: {rows} × {columns} tokens, {maps_plahw.shape[1]} blocks of {maps_plahw.shape[2]} heads")
    print_shares(pixels, maps_plahw.mean(2), stride)
    draw_attention(image_hwc, mask_hw, pixels, maps_plahw.mean(2), stride, predictor.classes, arguments.out)
    grid = {"rows": rows, "columns": columns, "stride": stride, "blocks": maps_plahw.shape[1]}
    print(EXPLANATION.format(path=arguments.out, **grid))


if __name__ == "__main__":
    run_command(main)
