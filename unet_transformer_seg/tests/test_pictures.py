"""Pictures: the colours are those of the classes, ignored pixels stay visible as such, grids fit together."""

import numpy as np
import pytest
from PIL import ImageFont

from seg import pictures
from seg.classes import default_palette, make_class_table
from seg.data.image_file import read_image
from seg.pictures import (
    colour_mask,
    draw_comparison,
    draw_errors,
    draw_overlay,
    error_colours,
    fit_cell,
    place_legend,
    shorten,
)

CLASSES = make_class_table(("sky", "road", "tree"), ((10, 20, 30), (200, 0, 0), (0, 200, 0)))
MASK = np.array([[0, 1], [2, 255]], np.uint8)


def test_a_mask_takes_the_colours_of_its_classes():
    expected = [[(10, 20, 30), (200, 0, 0)], [(0, 200, 0), (255, 255, 255)]]
    coloured = colour_mask(MASK, CLASSES)
    assert coloured.dtype == np.uint8
    np.testing.assert_array_equal(coloured, expected)


def test_an_overlay_mixes_and_leaves_ignored_pixels():
    image = np.full((2, 2, 3), 100, np.uint8)
    overlay = draw_overlay(image, MASK, CLASSES, opacity=0.25)
    np.testing.assert_array_equal(overlay[0, 1], [125, 75, 75])
    np.testing.assert_array_equal(overlay[1, 1], [100, 100, 100])
    np.testing.assert_array_equal(draw_overlay(image, MASK, CLASSES, opacity=0.0), image)
    assert overlay.dtype == np.uint8


def test_errors_and_right_pixels_have_their_colours_and_ignored_ones_are_white():
    errors = draw_errors(MASK, np.array([[0, 2], [2, 0]], np.uint8), CLASSES)
    assert errors.dtype == np.uint8
    right, wrong = error_colours(CLASSES)
    np.testing.assert_array_equal(errors, [[right, wrong], [right, (255, 255, 255)]])


@pytest.mark.parametrize("palette", [default_palette(k) for k in (2, 3, 7, 12, 40)] + [((0, 0, 0), (255, 0, 255))])
def test_the_colours_of_errors_are_no_class_colours(palette):
    classes = make_class_table(tuple(f"c{i}" for i in range(len(palette))), palette)
    colours = np.array([*palette, (255, 255, 255)], float)
    for colour in error_colours(classes):
        assert np.linalg.norm(colours - colour, axis=1).min() > (60 if len(palette) < 20 else 20)


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    sizes = [(16, 16), (10, 20), (30, 15)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    return images, [rng.integers(0, 3, size).astype(np.uint8) for size in sizes]


def contains(page, part):
    """Return whether `part` stands somewhere in `page`, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(page, part.shape)
    return (windows[..., 0, :, :, :] == part).all((-1, -2, -3)).any()


def test_a_comparison_holds_every_picture(samples, tmp_path):
    images, masks = samples
    predictions = [np.roll(mask, 3, axis=1) for mask in masks]
    masks[0][:4] = 255
    draw_comparison(images, masks, predictions, CLASSES, tmp_path / "a.png", ["first", "second", "third"], cell=30)
    page = read_image(tmp_path / "a.png")
    for image, mask, predicted in zip(images, masks, predictions, strict=True):
        masks_hwc = [colour_mask(mask, CLASSES), colour_mask(predicted, CLASSES)]
        for part in [image, *masks_hwc, draw_errors(mask, predicted, CLASSES)]:
            assert contains(page, np.asarray(fit_cell(part, 30)))


def test_without_predictions_the_overlay_is_drawn(samples, tmp_path):
    images, masks = samples
    draw_comparison(images[:1], masks[:1], None, CLASSES, tmp_path / "a.png", cell=32)
    page = read_image(tmp_path / "a.png")
    for part in (images[0], colour_mask(masks[0], CLASSES), draw_overlay(images[0], masks[0], CLASSES)):
        assert contains(page, np.asarray(fit_cell(part, 32)))


def test_lists_of_unequal_length_are_refused(samples, tmp_path):
    images, masks = samples
    with pytest.raises(ValueError, match="zip"):
        draw_comparison(images, masks[:2], None, CLASSES, tmp_path / "a.png")
    with pytest.raises(ValueError, match="zip"):
        draw_comparison(images, masks, None, CLASSES, tmp_path / "a.png", names=["only one"])


def test_the_legend_shows_ignored_pixels_only_where_there_are_some():
    assert [name for name, _ in pictures.legend_entries(CLASSES, has_ignored=True)] == [
        "sky",
        "road",
        "tree",
        "ignored",
    ]
    assert len(pictures.legend_entries(CLASSES, has_ignored=False)) == 3


def test_a_long_legend_breaks_into_rows_within_the_page():
    font = ImageFont.load_default(size=pictures.FONT_SIZE)
    legend = [(f"class number {i}" * (1 + 5 * (i == 7)), (0, 0, 0)) for i in range(30)]
    places = place_legend(legend, 400, font)
    assert len(places) == 30 and max(place.row for place in places) > 3
    spans = [(p.row, p.x, p.x + pictures.FONT_SIZE + 5 + font.getlength(p.name)) for p in places]
    assert all(end <= 400 for _, _, end in spans)
    for (row, _, end), (next_row, start, _) in zip(spans[:-1], spans[1:], strict=True):
        assert next_row == row + 1 or (next_row == row and start > end)


def test_a_long_name_keeps_its_end():
    font = ImageFont.load_default(size=14)
    short = shorten("folder/" * 40 + "name", 200, font)
    assert short.startswith("…") and short.endswith("name") and font.getlength(short) <= 200
    assert shorten("name", 200, font) == "name"


def test_cells_grow_by_repeating_and_shrink_by_averaging():
    grown = np.asarray(fit_cell(colour_mask(MASK, CLASSES), 10))
    assert grown.shape == (10, 10, 3)
    np.testing.assert_array_equal(grown[::5, ::5], colour_mask(MASK, CLASSES))
    stripes = np.tile(np.array([0, 200], np.uint8)[None, :, None], (40, 20, 3))
    np.testing.assert_array_equal(np.asarray(fit_cell(stripes, 20)), 100)
    assert fit_cell(np.zeros((1, 500, 3), np.uint8), 20).size == (20, 1)
