"""Objects in a mask: found, cut where they touch, scored against numbered truth, and written."""

import csv
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seg.config import Config, DataConfig, InstancesConfig
from seg.config.reader import override_config
from seg.data import build_dataset
from seg.errors import UserError
from seg.instances.matching import THRESHOLDS, score_objects, summarise
from seg.instances.object_files import save_numbers, save_table
from seg.instances.objects import Objects, find_objects

pytest.importorskip("skimage")
NAMES = ("background", "cell", "dust")
COMPONENTS, WATERSHED = (InstancesConfig(method=method) for method in ("components", "watershed"))


def disc(shape, centre, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def test_components_are_counted_by_class_and_small_ones_are_dropped():
    labels_hw = np.zeros((8, 12), np.uint8)
    labels_hw[1:3, 1:3] = labels_hw[3, 3] = 1  # a corner connects
    labels_hw[6, 1] = 1
    labels_hw[1:4, 6:9] = 2
    found = find_objects(labels_hw, COMPONENTS, NAMES)
    assert found.labels.tolist() == [1, 1, 2] and found.areas.tolist() == [5, 1, 9]
    assert (found.numbers > 0).sum() == (labels_hw > 0).sum()
    large = find_objects(labels_hw, InstancesConfig(method="components", min_area=5, classes=("cell",)), NAMES)
    assert large.labels.tolist() == [1] and set(np.unique(large.numbers)) == {0, 1}


def test_the_watershed_cuts_touching_discs_and_leaves_a_single_one_whole():
    shape, centres = (40, 60), [(20, 15), (20, 33), (20, 50)]
    masks = [disc(shape, centre, radius) for centre, radius in zip(centres, (10, 10, 6), strict=True)]
    labels_hw = np.any(masks, axis=0).astype(np.uint8)
    assert len(find_objects(labels_hw, COMPONENTS, NAMES)) == 1
    found = find_objects(labels_hw, WATERSHED, NAMES)
    assert len(found) == 3 and ((found.numbers > 0) == (labels_hw > 0)).all()
    assert len({found.numbers[centre] for centre in centres}) == 3
    at_the_edge = disc(shape, (0, 30), 12).astype(np.uint8)
    assert len(find_objects(at_the_edge, WATERSHED, NAMES)) == 1


def test_a_predicted_border_separates_objects_and_is_then_given_to_them():
    labels_hw = np.ones((6, 9), np.uint8)
    labels_hw[:, 4] = 2
    found = find_objects(labels_hw, COMPONENTS, ("background", "object", "border"))
    assert found.labels.tolist() == [1, 1] and (found.numbers > 0).all() and found.areas.sum() == 54


def slow_score(true_hw, predicted_hw):
    """Return (true, predicted, hits at each threshold), pair by pair."""
    trues, predictions = (sorted(set(x.ravel().tolist()) - {0}) for x in (true_hw, predicted_hw))
    ious = [
        ((true_hw == a) & (predicted_hw == b)).sum() / ((true_hw == a) | (predicted_hw == b)).sum()
        for a, b in itertools.product(trues, predictions)
    ]
    return len(trues), len(predictions), [sum(iou > t for iou in ious) for t in THRESHOLDS]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_scores_are_those_of_every_pair(seed, num_true, num_predicted):
    rng = np.random.default_rng(seed)
    # Blocks of 3 × 3 pixels, the prediction a noisy copy or something else.
    true_hw = rng.integers(0, num_true + 1, (4, 4)).repeat(3, 0).repeat(3, 1)
    other_hw = rng.integers(0, num_predicted + 1, (12, 12)) * 7
    predicted_hw = np.where(rng.random((12, 12)) < rng.choice([0.05, 0.3, 1]), other_hw, true_hw + 50 * (true_hw > 0))
    score = score_objects(true_hw, predicted_hw)
    assert (score.num_true, score.num_predicted, score.hits.tolist()) == slow_score(true_hw, predicted_hw)
    assert score.overlap == ((true_hw > 0) & (predicted_hw > 0)).sum()


def test_average_precision_of_a_shifted_square_and_of_empty_images():
    true_hw, predicted_hw = np.zeros((2, 12, 12), np.int64)
    true_hw[:10, :10], predicted_hw[:10, 2:12] = 1, 5  # IoU 80/120: right at 0.5, 0.55, 0.6 and 0.65
    one, nothing = score_objects(true_hw, predicted_hw), np.zeros((3, 3), np.int64)
    assert one.average_precision == pytest.approx(0.4)
    assert score_objects(true_hw, 0 * true_hw).average_precision == 0
    empty = score_objects(nothing, nothing)
    assert np.isnan(empty.average_precision)
    both = summarise([one, empty, score_objects(true_hw, true_hw)])
    assert both["average_precision"] == pytest.approx(0.7) and both["f1_50"] == 1
    assert both["dice"] == pytest.approx((2 * 80 + 200) / 400)
    assert summarise([empty])["average_precision"] is None


def write_objects(root, numbers_hw):
    for folder in ("images", "labels"):
        (root / "train" / folder).mkdir(parents=True)
    Image.new("RGB", numbers_hw.shape[::-1]).save(root / "train" / "images" / "a.png")
    Image.fromarray(numbers_hw.astype(np.uint16)).save(root / "train" / "labels" / "a.png")
    return DataConfig(dataset="image_folder", root=str(root), masks="objects")


def test_masks_of_object_numbers_are_classes_for_training_and_numbers_for_counting(tmp_path):
    numbers_hw = np.zeros((9, 11), int)
    numbers_hw[1:5, 1:5], numbers_hw[1:5, 5:9], numbers_hw[7, 1:4], numbers_hw[0, 10] = 300, 7, 65_000, 9_999
    data = write_objects(tmp_path, numbers_hw)
    dataset = build_dataset(override_config(Config(data=data), ["data.ignore_value=9999"]).data, "train", 0)
    sample = dataset[0]
    assert dataset.classes.names == ("background", "object")
    assert (sample.mask == np.where(numbers_hw == 9999, 255, numbers_hw > 0)).all()
    assert (dataset.read_objects(0) == np.where(numbers_hw == 9999, 0, numbers_hw)).all()


def slow_border(numbers_hw, radius):
    labels_hw = (numbers_hw > 0).astype(int)
    for y, x in np.argwhere(numbers_hw):
        around = numbers_hw[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        labels_hw[y, x] = 2 if len(set(around.ravel().tolist()) - {0}) > 1 else 1
    return labels_hw


@pytest.mark.parametrize("radius", [1, 2])
def test_the_border_class_is_where_objects_touch(tmp_path, radius):
    numbers_hw = np.random.default_rng(0).integers(0, 4, (5, 6)).repeat(3, 0).repeat(3, 1)
    data = override_config(Config(data=write_objects(tmp_path, numbers_hw)), [f"data.object_border={radius}"]).data
    dataset = build_dataset(data, "train", 0)
    assert dataset.classes.names == ("background", "object", "border")
    assert (dataset[0].mask == slow_border(numbers_hw, radius)).all()


def test_objects_are_written_as_numbers_and_as_a_table(tmp_path):
    numbers_hw = np.zeros((5, 7), np.int32)
    numbers_hw[1:3, 2:6], numbers_hw[4, 6] = 1, 2
    objects = Objects(numbers_hw, np.array([1, 2]), NAMES)
    save_numbers(tmp_path / "a.tif", objects)
    save_table(tmp_path / "a.csv", objects)
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "I;16" and (np.asarray(image) == numbers_hw).all()
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [list(row.values()) for row in rows] == [
        ["1", "cell", "8", "1.5", "3.5", "1", "2", "3", "6"],
        ["2", "dust", "1", "4.0", "6.0", "4", "6", "5", "7"],
    ]
    many = Objects(np.arange(1, 70_001, dtype=np.int32).reshape(100, 700), np.ones(70_000, int), NAMES)
    save_numbers(tmp_path / "many.tif", many)
    with Image.open(tmp_path / "many.tif") as image:
        assert (np.asarray(image) == many.numbers).all()
    assert find_objects(np.zeros((3, 3), np.uint8), WATERSHED, NAMES).table() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.object_border=1"], "data.object_border needs data.masks: objects"),
        (["data.masks=objects", "data.threshold=1"], "data.threshold: data.masks: objects reads every value"),
        (["data.masks=objects", "data.class_names=[a, b, c]"], r"data.class_names: .* found a, b, c"),
    ],
)
def test_settings_that_contradict_numbered_objects_are_refused(tmp_path, settings, message):
    write_objects(tmp_path, np.zeros((4, 4)))
    root = [f"data.root={tmp_path}", "data.dataset=image_folder"]
    with pytest.raises(UserError, match=message):
        build_dataset(override_config(Config(), [*root, *settings]).data, "train", 0)


def test_what_cannot_be_counted_is_refused(monkeypatch):
    with pytest.raises(UserError, match="instances.classes: expected some of background, cell, dust, found 'nucleus'"):
        find_objects(np.zeros((3, 3), np.uint8), InstancesConfig("components", ("nucleus",)), NAMES)
    monkeypatch.setattr("seg.instances.objects.MAX_PIXELS", 8)
    with pytest.raises(UserError, match="9 pixels are more than the 8"):
        find_objects(np.zeros((3, 3), np.uint8), COMPONENTS, NAMES)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "skimage" else object())
    with pytest.raises(UserError, match=r"needs skimage, not installed here: pip install .*\[instances\]"):
        find_objects(np.zeros((2, 2), np.uint8), WATERSHED, NAMES)
