"""Each format holds the mask: the files of `seg infer`, polygons, run lengths and arrays."""

import io
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from seg.classes import make_class_table
from seg.inference.output import mask_file, overlay_file
from seg.serve.formats import Drawing, draw

CLASSES = make_class_table(("sky", "road", "tree", "car"))
LABELS = np.random.default_rng(0).choice(3, (12, 17), p=[0.6, 0.3, 0.1]).astype(np.uint8)  # there is no car


def test_a_png_is_the_file_that_infer_writes(tmp_path):
    with mask_file(tmp_path / "a.png", LABELS.shape, CLASSES) as append_rows:
        append_rows(LABELS)
    assert draw(Drawing("png", LABELS), CLASSES) == (tmp_path / "a.png").read_bytes()


def test_an_overlay_is_the_file_that_infer_writes_and_knows_its_opacity(tmp_path):
    image_hwc = np.random.default_rng(1).integers(0, 256, (*LABELS.shape, 3), np.uint8)
    with overlay_file(tmp_path / "a.png", LABELS.shape, CLASSES) as append_rows:
        append_rows(image_hwc, LABELS)
    assert draw(Drawing("overlay", LABELS, image_hwc), CLASSES) == (tmp_path / "a.png").read_bytes()
    for opacity, expected in ((0.0, image_hwc), (1.0, np.array(CLASSES.palette, np.uint8)[LABELS])):
        content = draw(Drawing("overlay", LABELS, image_hwc, opacity=opacity), CLASSES)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), expected)


def test_geojson_has_a_feature_for_each_class_that_occurs():
    content = json.loads(draw(Drawing("geojson", LABELS), CLASSES))
    assert content["type"] == "FeatureCollection" and content["image"] == {"width": 17, "height": 12}
    assert [feature["properties"]["name"] for feature in content["features"]] == ["sky", "road", "tree"]
    for label, feature in enumerate(content["features"]):
        assert feature["properties"]["label"] == label
        assert feature["properties"]["pixels"] == (label == LABELS).sum()
        assert feature["geometry"]["type"] == "MultiPolygon"
        rings = [ring for polygon in feature["geometry"]["coordinates"] for ring in polygon]
        area = sum(x * v - u * y for ring in rings for (x, y), (u, v) in zip(ring, ring[1:], strict=False)) / 2
        assert area == (label == LABELS).sum()


def test_coco_has_an_annotation_for_each_class_that_occurs():
    content = json.loads(draw(Drawing("coco", LABELS), CLASSES))
    assert content["images"] == [{"id": 1, "width": 17, "height": 12}]
    assert [category["name"] for category in content["categories"]] == list(CLASSES.names)
    assert [annotation["category_id"] for annotation in content["annotations"]] == [0, 1, 2]
    for annotation in content["annotations"]:
        mask_hw = annotation["category_id"] == LABELS
        x, y, width, height = annotation["bbox"]
        assert mask_hw[y : y + height, x : x + width].sum() == mask_hw.sum() == annotation["area"]
        assert mask_hw[y].any() and mask_hw[y + height - 1].any() and mask_hw[:, x].any()
        assert annotation["segmentation"]["size"] == [12, 17]


def test_npz_has_labels_and_what_else_is_asked_for():
    with np.load(io.BytesIO(draw(Drawing("npz", LABELS), CLASSES))) as arrays:
        assert sorted(arrays) == ["labels", "names"] and arrays["names"].tolist() == list(CLASSES.names)
        np.testing.assert_array_equal(arrays["labels"], LABELS)
    probabilities_hwk = np.random.default_rng(2).random((*LABELS.shape, 4), np.float32)
    with np.load(io.BytesIO(draw(Drawing("npz", LABELS, None, probabilities_hwk), CLASSES))) as arrays:
        assert arrays["probabilities"].dtype == np.float16
        np.testing.assert_allclose(arrays["probabilities"], probabilities_hwk, atol=1e-3)
