"""Masks and predictions as pictures: colours, overlays, error maps, and grids with a legend (numpy and Pillow).

Letters: h w pixels, c colours, k classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seg.classes import IGNORE_LABEL, ClassTable, Colour
from seg.files import replacing
from seg.untrusted import harmless

IGNORED_COLOUR = (255, 255, 255)
RIGHT_COLOURS = ((60, 60, 60), (0, 0, 0), (120, 120, 120), (180, 180, 180))
WRONG_COLOURS = ((230, 40, 40), (255, 0, 255), (255, 220, 0), (0, 230, 255), (120, 255, 0), (255, 130, 0))
"""Candidate colours of right and wrong pixels; those unlike every class's are used."""

FAR = 90.0  # Euclidean distance at which two colours are easily distinguished

PAPER, INK = (250, 250, 250), (20, 20, 20)
FONT_SIZE, MARGIN = 14, 8

Legend = Sequence[tuple[str, Colour]]  # (name, colour) of each entry


def colour_mask(mask_hw: np.ndarray, classes: ClassTable) -> np.ndarray:
    """Return uint8[h, w, 3], each label in the colour of its class, ignored pixels white.

    Where classes overlap, uint8[h, w, k], a pixel has the mean of their colours, and black without a class.
    """
    if mask_hw.ndim == 3:
        present_hwk = (mask_hw == 1).astype(np.float32)
        number_hw1 = np.maximum(present_hwk.sum(-1, keepdims=True), 1)
        colours_hwc = np.round(present_hwk @ np.array(classes.palette, np.float32) / number_hw1).astype(np.uint8)
        return np.where(is_ignored(mask_hw)[..., None], np.uint8(IGNORED_COLOUR), colours_hwc)
    palette = np.full((IGNORE_LABEL + 1, 3), IGNORED_COLOUR, np.uint8)
    palette[: len(classes)] = classes.palette
    return palette[mask_hw]


def as_picture(
    image_hwc: np.ndarray, shown_channels: Sequence[int] = (), limits: tuple[float, float] | None = None
) -> np.ndarray:
    """Return uint8[h, w, 3], an image of any number of channels and any precision as a picture.

    `shown_channels` names the one shown as grey, or those shown as red, green and blue. By default one channel is grey,
    two are red and green, and of more the first three are shown. Floats are shown between `limits`, by default the
    smallest and the largest value of these channels.
    """
    shown = shown_channels or range(min(image_hwc.shape[2], 3))
    if image_hwc.dtype == np.uint8 and tuple(shown) == tuple(range(image_hwc.shape[2])) == (0, 1, 2):
        return image_hwc
    values_hwc = image_hwc[..., list(shown)]
    if values_hwc.dtype != np.uint8:
        low, high = limits or (values_hwc.min(), values_hwc.max())
        levels_hwc = (values_hwc - low) * (255 / max(high - low, 1e-12))
        values_hwc = np.rint(np.clip(levels_hwc, 0, 255)).astype(np.uint8)
    if len(shown) == 2:
        return np.concatenate([values_hwc, np.zeros_like(values_hwc[..., :1])], axis=-1)
    return np.broadcast_to(values_hwc, (*values_hwc.shape[:2], 3))


def is_ignored(mask_hw: np.ndarray) -> np.ndarray:
    """Return bool[h, w], whether all labels of a pixel are ignored."""
    ignored = mask_hw == IGNORE_LABEL
    return ignored.all(-1) if mask_hw.ndim == 3 else ignored


def draw_overlay(image_hwc: np.ndarray, mask_hw: np.ndarray, classes: ClassTable, opacity: float = 0.5) -> np.ndarray:
    """Return uint8[h, w, 3], the image blended with the mask's colours; pixels without a label show the image."""
    colours_hwc = colour_mask(mask_hw, classes)
    mixed_hwc = np.round((1 - opacity) * image_hwc + opacity * colours_hwc).astype(np.uint8)
    is_bare_hw = ~(mask_hw == 1).any(-1) if mask_hw.ndim == 3 else is_ignored(mask_hw)
    return np.where(is_bare_hw[..., None], image_hwc, mixed_hwc)


def error_colours(classes: ClassTable) -> tuple[Colour, Colour]:
    """Return the colours of right and wrong pixels: the first far from all classes', or the farthest."""
    used = np.array([*classes.palette, IGNORED_COLOUR], float)

    def distance(colour: Colour) -> float:
        return min(float(np.linalg.norm(used - colour, axis=1).min()), FAR)

    return max(RIGHT_COLOURS, key=distance), max(WRONG_COLOURS, key=distance)


def draw_errors(mask_hw: np.ndarray, prediction_hw: np.ndarray, classes: ClassTable) -> np.ndarray:
    """Return uint8[h, w, 3]: right and wrong pixels in their `error_colours`, ignored ones white."""
    right, wrong = error_colours(classes)
    is_right = (mask_hw == prediction_hw) | (mask_hw == IGNORE_LABEL)
    is_right_hw = is_right.all(-1) if mask_hw.ndim == 3 else is_right
    colours_hwc = np.where(is_right_hw[..., None], right, wrong)
    return np.where(is_ignored(mask_hw)[..., None], IGNORED_COLOUR, colours_hwc).astype(np.uint8)


def draw_comparison(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray] | None,
    classes: ClassTable,
    path: Path,
    names: Sequence[str] = (),
    cell: int = 240,
) -> None:
    """Write a grid with one row for each sample and a legend of the classes.

    The columns are image, truth, prediction and errors; without predictions image, mask and overlay. The sizes of the
    samples may differ.

    Args:
        images: uint8[h, w, 3] each.
        masks: uint8[h, w] each, or uint8[h, w, k] if classes overlap.
        predictions: likewise, or None.
        classes: names and colours.
        path: of the picture; its suffix chooses the format.
        names: titles of the rows; optional.
        cell: pixels of the longer side of each picture.
    """
    if predictions is None:
        titles = ("image", "mask", "overlay")
        rows = [(i, colour_mask(m, classes), draw_overlay(i, m, classes)) for i, m in zip(images, masks, strict=True)]
    else:
        titles = ("image", "truth", "prediction", "errors")
        rows = [
            (image, colour_mask(mask, classes), colour_mask(predicted, classes), draw_errors(mask, predicted, classes))
            for image, mask, predicted in zip(images, masks, predictions, strict=True)
        ]
    legend = legend_entries(classes, has_ignored=any(is_ignored(mask).any() for mask in masks))
    if predictions is not None:
        legend += zip(("errors: right", "errors: wrong"), error_colours(classes), strict=True)
    save_picture(draw_grid(rows, titles, list(names) or [""] * len(rows), legend, cell), path)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture atomically; the suffix of `path` chooses the format."""
    Image.init()
    with replacing(path) as aside:
        picture.save(aside, format=Image.EXTENSION[path.suffix.lower()])


def legend_entries(classes: ClassTable, has_ignored: bool) -> list[tuple[str, Colour]]:
    """Return (name, colour) of each class and, if there are any, of ignored pixels."""
    entries = list(zip(classes.names, classes.palette, strict=True))
    return entries + [("ignored", IGNORED_COLOUR)] if has_ignored else entries


def draw_grid(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], names: Sequence[str], legend: Legend, cell: int
) -> Image.Image:
    """Return rows of pictures with titles and names, and the legend below."""
    font = ImageFont.load_default(size=FONT_SIZE)
    line = FONT_SIZE + MARGIN
    cells = [[fit_cell(picture, cell) for picture in row] for row in rows]
    width = MARGIN + len(titles) * (cell + MARGIN)
    places = place_legend(legend, width, font)
    heights = [max(picture.height for picture in row) + line for row in cells]
    legend_top = line + MARGIN + sum(heights) + MARGIN
    page = Image.new("RGB", (width, legend_top + (places[-1].row + 1 if places else 0) * line + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        draw.text((MARGIN + column * (cell + MARGIN), MARGIN), title, INK, font)
    top = line + MARGIN
    for row, name, height in zip(cells, names, heights, strict=True):
        draw.text((MARGIN, top), shorten(name, width - 2 * MARGIN, font), INK, font)
        for column, picture in enumerate(row):
            page.paste(picture, (MARGIN + column * (cell + MARGIN), top + line - 4))
        top += height
    for place in places:
        y = legend_top + place.row * line
        draw.rectangle((place.x, y + 2, place.x + FONT_SIZE, y + 2 + FONT_SIZE), place.colour, INK)
        draw.text((place.x + FONT_SIZE + 5, y), place.name, INK, font)
    return page


def fit_cell(picture_hwc: np.ndarray, cell: int) -> Image.Image:
    """Return the picture with a longer side of `cell` pixels: repeated pixels when enlarged, averages when shrunk."""
    height, width = picture_hwc.shape[:2]
    factor = cell / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    resampling = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    return Image.fromarray(picture_hwc).resize(size, resampling)


class LegendPlace(NamedTuple):
    """Position of a legend entry: x in pixels, and its row."""

    name: str
    colour: Colour
    x: int
    row: int


def place_legend(legend: Legend, width: int, font: ImageFont.FreeTypeFont) -> list[LegendPlace]:
    """Return the positions of the entries, side by side in as many rows as `width` requires."""
    places, x, row = [], MARGIN, 0
    for name, colour in legend:
        name = shorten(name, width // 2, font)
        length = FONT_SIZE + 5 + round(font.getlength(name)) + 2 * MARGIN
        if x + length > width and x > MARGIN:
            x, row = MARGIN, row + 1
        places.append(LegendPlace(name, colour, x, row))
        x += length
    return places


def shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Return the text, its start replaced by … if it is wider than `width` pixels."""
    text = harmless(text.replace("\n", " "))
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
