"""The page at `/`, used in Chromium: drop, choose, look, hide a class, download, copy, and read an error."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("websockets", reason="the DevTools protocol needs websockets")

from serve.headless_chromium import PROGRAM, open_chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium on this machine"),
]

KEEP_DOWNLOADS = """globalThis.saved = []; URL.createObjectURL = (blob) => { globalThis.blob = blob; return "#kept"; };
    HTMLAnchorElement.prototype.click = function () { saved.push([this.download, blob.size, blob.type]); }"""
PIXEL = "[...document.getElementById('picture').getContext('2d').getImageData({x}, {y}, 1, 1).data]"
IS_DONE = "document.getElementById('status').textContent.includes('pixels in')"


@pytest.fixture(scope="module")
def browser(client):
    with open_chromium() as browser:
        browser.open(f"http://127.0.0.1:{client.port}/")
        yield browser


@pytest.fixture(scope="module")
def picture(tmp_path_factory, random_image):
    path = tmp_path_factory.mktemp("picture") / "my photo.png"
    Image.fromarray(random_image(60, 80)).save(path)
    return path


@pytest.fixture
def shown(browser, picture):
    """The page after an image was chosen."""
    browser.evaluate("say('')")
    browser.choose_file("#file", picture)
    browser.wait(IS_DONE, "the mask")
    return browser


def test_a_file_that_is_chosen_is_shown_with_its_classes(shown, picture, predictor):
    labels_hw = predictor.predict(picture).labels
    image_hwc, palette = np.asarray(Image.open(picture)), np.array(predictor.classes.palette)
    shown.evaluate("element('opacity').value = 100; element('opacity').dispatchEvent(new Event('input'))")
    for x, y in ((0, 0), (40, 30), (79, 59)):
        assert shown.evaluate(PIXEL.format(x=x, y=y))[:3] == palette[labels_hw[y, x]].tolist()
    shown.evaluate("element('opacity').value = 0; element('opacity').dispatchEvent(new Event('input'))")
    assert shown.evaluate(PIXEL.format(x=40, y=30))[:3] == image_hwc[30, 40].tolist()
    assert shown.evaluate("element('percent').value") == "0 %"
    shown.evaluate("element('opacity').value = 50; element('opacity').dispatchEvent(new Event('input'))")
    legend = shown.evaluate("[...document.querySelectorAll('#legend li')].map((item) => item.innerText.split(/\\s+/))")
    shares = {name: float(share) for name, share, _ in (entry[:3] for entry in legend)}
    expected = np.bincount(labels_hw.ravel(), minlength=3) / labels_hw.size * 100
    assert shares == {
        name: round(share, 1) for name, share in zip(predictor.classes.names, expected, strict=True) if share
    }
    assert shown.complaints == []


def test_a_class_can_be_hidden(shown, picture, predictor):
    labels_hw, image_hwc = predictor.predict(picture).labels, np.asarray(Image.open(picture))
    label = int(labels_hw[30, 40])
    before = shown.evaluate(PIXEL.format(x=40, y=30))[:3]
    name = predictor.classes.names[label]
    box = f"[...document.querySelectorAll('#legend label')].find((row) => row.textContent.includes('{name}')).click()"
    shown.evaluate(box)
    assert shown.evaluate(PIXEL.format(x=40, y=30))[:3] == image_hwc[30, 40].tolist() != before
    shown.evaluate(box)
    assert shown.evaluate(PIXEL.format(x=40, y=30))[:3] == before


def test_every_format_is_downloaded_under_the_name_of_the_image(shown):
    shown.evaluate(KEEP_DOWNLOADS)
    for number, format in enumerate(("png", "overlay", "geojson", "coco", "npz"), 1):
        shown.click(f"button[data-format={format}]")
        shown.wait(f"saved.length === {number}", format)
    saved = shown.evaluate("saved")
    assert [name for name, _, _ in saved] == [
        "my photo.png",
        "my photo_overlay.png",
        "my photo.geojson",
        "my photo_coco.json",
        "my photo.npz",
    ]
    assert all(size > 100 for _, size, _ in saved)


def test_the_line_for_a_shell_does_the_same(shown, client):
    line = shown.evaluate("element('curl').textContent")
    assert line == f"curl -F file=@'my photo.png' -F format=png http://127.0.0.1:{client.port}/v1/segment -o mask.png"
    shown.evaluate("element('key').value = 'k'; element('key').dispatchEvent(new Event('input'))")
    assert '-H "Authorization: Bearer $SEG_API_KEY"' in shown.evaluate("element('curl').textContent")
    shown.evaluate("element('key').value = ''")


def test_it_is_used_by_keyboard(shown):
    shown.evaluate("document.querySelector('header a').focus()")
    names = []
    for _ in range(9):
        shown.press("Tab", 9)
        names.append(shown.evaluate("(({id, type, dataset}) => id || dataset.format || type)(document.activeElement)"))
    assert names[:3] == ["file", "opacity", "checkbox"] and names[-1] in ("png", "overlay", "geojson", "coco")
    shown.evaluate("document.querySelector('#legend input').focus()")
    shown.press(" ", 32)
    assert shown.evaluate("shown.hidden.size") == 1


def test_an_error_is_shown_in_the_words_of_the_server(browser, tmp_path):
    (tmp_path / "notes.png").write_text("no image at all")
    browser.choose_file("#file", tmp_path / "notes.png")
    browser.wait("element('status').className === 'bad'", "the error")
    assert "the upload is text that starts with 'no image at all'" in browser.evaluate("element('status').textContent")
    browser.complaints.clear()  # the browser itself reports the status 415


def test_it_fits_a_phone_and_sends_to_its_own_server_only(shown, client, tmp_path):
    shown.look(tmp_path / "phone.png", 390, 800, phone=True)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    own = f"http://127.0.0.1:{client.port}/"
    assert all(url.startswith((own, "blob:", "data:")) for _, url in shown.requests)
