"""The service of a model whose classes overlap: formats, refusals, and the page."""

import dataclasses
import io
import json

import numpy as np
import pytest
import tifffile
from PIL import Image

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("websockets", reason="the DevTools protocol needs websockets")

from seg.classes import make_class_table
from seg.inference.predictor import Predictor
from serve.conftest import tiny_config
from serve.headless_chromium import PROGRAM, open_chromium
from tiny_model import random_variables

PIXEL = "[...document.getElementById('picture').getContext('2d').getImageData({x}, {y}, 1, 1).data]"


def make_model(names):
    config = tiny_config()
    model = dataclasses.replace(config.model, labels="overlapping", num_classes=len(names))
    config = dataclasses.replace(config, model=model)
    return Predictor(config, make_class_table(names, overlapping=True), random_variables(model, (32, 24)))


@pytest.fixture(scope="module", params=[("road", "tree", "rain"), ("car",)], ids=["several", "single"])
def model(request):
    return make_model(request.param)


@pytest.fixture(scope="module")
def own_client(serving, model):
    with serving(model) as client:
        yield client


@pytest.fixture(scope="module")
def picture(tmp_path_factory, random_image):
    path = tmp_path_factory.mktemp("picture") / "photo.png"
    Image.fromarray(random_image(40, 30)).save(path)
    return path


def test_the_mask_has_a_band_for_each_class_or_is_that_of_the_only_one(own_client, model, picture):
    labels, content = model.predict(picture).labels, picture.read_bytes()
    answer = own_client.post("/v1/segment", content=content)
    if len(model.classes) == 1:
        np.testing.assert_array_equal(Image.open(io.BytesIO(answer.content)), labels[..., 0])
        assert own_client.post("/v1/segment?format=tiff", content=content).status_code == 400
    else:
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(answer.content)), labels * 255)
        refusal = own_client.post("/v1/segment?format=png", content=content)
        assert refusal.status_code == 400 and "overlap; expected one of tiff" in refusal.json()["error"]["message"]
    pixels = {str(label): number for label, number in enumerate(labels.sum((0, 1)).tolist()) if number}
    assert json.loads(answer.headers["x-class-pixels"]) == pixels


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium on this machine")
def test_the_page_shows_the_classes(own_client, model, picture):
    labels, image_hwc = model.predict(picture).labels, np.asarray(Image.open(picture))
    with open_chromium() as browser:
        browser.open(f"http://127.0.0.1:{own_client.port}/")
        browser.choose_file("#file", picture)
        browser.wait("document.getElementById('status').textContent.includes('pixels in')", "the mask")
        for y, x in ((0, 0), (20, 15), (39, 29)):
            palette_n3 = np.array(model.classes.palette)[labels[y, x] == 1]
            mixed = 0.5 * image_hwc[y, x] + 0.5 * palette_n3.mean(0) if len(palette_n3) else image_hwc[y, x]
            np.testing.assert_allclose(browser.evaluate(PIXEL.format(x=x, y=y))[:3], mixed, atol=1.5)
        hidden = browser.evaluate("document.querySelector('button[data-format=png]').hidden")
        assert hidden == (len(model.classes) > 1) and browser.complaints == []
