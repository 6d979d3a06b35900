"""Draw what the transformer at the bottleneck attends to, for chosen pixels of an image.

    python scripts/tutorial_draw_attention.py --run RUN                          (the first test image)
    python scripts/tutorial_draw_attention.py --run RUN --index 3 --at 20 31 --at 50 8 --out three.png
    python scripts/tutorial_draw_attention.py --run RUN photo.jpg

Without --at, a pixel in the middle of each of the largest regions of the prediction is taken. The lines printed here
say how to read the picture.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from seg.cli import run_command
from seg.data import build_dataset
from seg.data.image_file import read_image
from seg.errors import UserError
from seg.inference.attention_maps import attention_maps, token_grid
from seg.inference.predictor import Predictor, load_predictor
from seg.pictures import draw_attention

MAX_TOKENS = 4096
"""Attention of more would take gigabytes."""

NUM_PIXELS = 3

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
