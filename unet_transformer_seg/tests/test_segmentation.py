"""What a caller passes to `predict`, and what is returned: one rule for files and arrays, bit for bit."""

import contextlib
import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import seg
from seg import infer
from seg.cli import run_command
from seg.inference.model_folder import save_model_folder
from seg.models import abstract_variables

CLASSES = seg.make_class_table(("sky", "road", "tree"))
CONFIG = seg.Config(
    model=seg.ModelConfig(name="unet", num_classes=3, base_width=4, depth=1),
    data=seg.DataConfig(size=(16, 16), fit="crop"),
    inference=seg.InferenceConfig(batch_size=2),
)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (20, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("segmentation") / "model", np.random.default_rng(1)
    draw = lambda leaf: rng.uniform(0.2, 1, leaf.shape).astype(np.float32) * rng.choice([-1, 1], leaf.shape)  # noqa: E731
    variables = jax.tree.map(lambda leaf: draw(leaf).astype(np.float32), abstract_variables(CONFIG.model))
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    save_model_folder(path, CONFIG, CLASSES, variables)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return seg.load(folder)


def encoded(image, suffix):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format=suffix)
    return file.getvalue()


def saved_array(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


INPUTS = {
    "jax array": lambda path: jnp.asarray(IMAGE),
    "channels first": lambda path: IMAGE.transpose(2, 0, 1),
    "with transparency": lambda path: np.dstack([IMAGE, np.full((20, 24), 255, np.uint8)]),
    "floats": lambda path: IMAGE.astype(np.float64) / 255,
    "16 bits": lambda path: IMAGE.astype(np.uint16) << 8,
    "path": lambda path: path,
    "string": str,
    "bytes": lambda path: path.read_bytes(),
    "bytes of an array": lambda path: saved_array(IMAGE),
    "open file": lambda path: path.open("rb"),
    "in memory": lambda path: io.BytesIO(path.read_bytes()),
    "Pillow image": lambda path: Image.fromarray(IMAGE),
    "Pillow image of a file": Image.open,
    "Pillow image with a palette": lambda path: Image.fromarray(IMAGE).convert("RGBA"),
}


class Elsewhere:
    """An array on another device."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("use .cpu() first")


def closed_file():
    file = io.BytesIO(b"png")
    file.close()
    return file


def read_file():
    file = io.BytesIO(b"png")
    file.read()
    return file


def closed_picture():
    picture = Image.open(io.BytesIO(encoded(IMAGE, "png")))
    picture.close()
    return picture


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_input_gives_the_answer_for_the_array(model, tmp_path, kind):
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    image = INPUTS[kind](path)
    with image if hasattr(image, "close") else contextlib.nullcontext():
        expected, result = model.predict(IMAGE), model.predict(image)
    np.testing.assert_array_equal(result.image, IMAGE)
    np.testing.assert_array_equal(result.labels, expected.labels)
    assert result.labels.dtype == np.uint8 and len(np.unique(result.labels)) > 1


def test_short_floats_are_read_as_floats(model):
    white_hwc = (IMAGE > 127).astype(np.float32)
    np.testing.assert_array_equal(model.predict(jnp.asarray(white_hwc, jnp.bfloat16)).image, 255 * white_hwc)


def test_grey_is_repeated_and_an_orientation_is_followed(model, tmp_path):
    grey_hw = IMAGE[..., 0]
    np.testing.assert_array_equal(model.predict(grey_hw).image, np.repeat(grey_hw[..., None], 3, axis=2))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(IMAGE).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        for image in (tmp_path / "turned.png", picture):
            np.testing.assert_array_equal(model.predict(image).image, np.rot90(IMAGE, -1))


def test_a_list_gives_a_list_in_its_order(model):
    images = [IMAGE, IMAGE[:7], IMAGE[::-1], IMAGE[:, :9]]
    results = model.predict(images)
    assert model.predict([]) == []
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(result.labels, model.predict(image).labels)


def test_probabilities_are_of_the_labels_and_sum_to_one(model):
    result = model.predict(IMAGE, probabilities=True)
    assert model.predict(IMAGE).probabilities is None
    np.testing.assert_allclose(result.probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(result.probabilities.argmax(-1), result.labels)
    np.testing.assert_array_equal(result.labels, model.predict(IMAGE).labels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5, 2), np.uint8), r"image: an array \[5, 5, 2\]; expected \[h, w\]"),
        (np.full((4, 4), 3.5), r"image: float64 values from 3.5 to 3.5; .* data.value_range=\[3.5,3.5\]"),
        (np.full((4, 4), np.nan), "image: 16 of 16 values are NaN"),
        (np.zeros((0, 4, 3), np.uint8), r"image: expected an array of numbers, found uint8\[0, 4, 3\]"),
        (np.array([["a"]]), "image: expected an array of numbers, found <U1"),
        (b"no image", "^image: .*expected an image"),
        (io.StringIO("text"), "image: expected a file opened as binary"),
        ("nowhere.png", "nowhere.png: no such file"),
        (3, "image: expected a path, bytes, an open file, a Pillow image or an array, found int"),
        (Elsewhere(), r"image: cannot be read \(TypeError: use .cpu\(\) first\)"),
        (closed_file(), "image: cannot be read .*closed file"),
        (read_file(), r"image: nothing is left to read .*seek\(0\)"),
        (closed_picture(), "image: cannot be read .*closed image"),
        (Image.open(io.BytesIO(encoded(IMAGE, "png")[:600])), "image: cannot be read .*truncated"),
        (Image.new("LA", (4, 4)).convert("La"), "image: cannot be read .*La"),
        ([IMAGE, None], "image 1: expected a path.* found NoneType"),
    ],
)
def test_bad_input_is_refused_by_name(model, image, message):
    with pytest.raises(ValueError, match=message) as error:
        model.predict(image)
    assert isinstance(error.value, seg.UserError)


def test_the_command_writes_what_the_library_returns(folder, model, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(IMAGE, "png"))
    arguments = ["--model", folder, "--out", tmp_path / "out", "--probabilities", tmp_path / "a.png"]
    monkeypatch.setattr(sys, "argv", ["infer", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(infer.main)
    assert not end.value.code
    result = model.predict(tmp_path / "a.png", probabilities=True)
    result.save(tmp_path / "labels.png")
    assert (tmp_path / "labels.png").read_bytes() == (tmp_path / "out/a.png").read_bytes()
    with Image.open(tmp_path / "out/a_overlay.png") as overlay:
        np.testing.assert_array_equal(overlay, result.overlay())
    stored_hwk = np.load(tmp_path / "out/a_probabilities.npz")["probabilities"]
    np.testing.assert_array_equal(stored_hwk, result.probabilities.astype(np.float16))


def test_a_mask_is_saved_without_loss_only(model, tmp_path):
    with pytest.raises(seg.UserError, match=r"labels.jpg: expected a name that ends in .png"):
        model.predict(IMAGE).save(tmp_path / "labels.jpg")


@pytest.mark.parametrize("opacity", [2, -0.1, float("nan"), "0.5", None])
def test_an_opacity_is_a_share(opacity):
    result = seg.Segmentation(np.zeros((1, 1), np.uint8), CLASSES, np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(seg.UserError, match="opacity: expected a number from 0 to 1, found "):
        result.overlay(opacity)


def test_an_ignored_pixel_has_no_share():
    labels_hw = np.array([[0, 255], [2, 255]], np.uint8)
    result = seg.Segmentation(labels_hw, CLASSES, np.zeros((2, 2, 3), np.uint8))
    np.testing.assert_array_equal(result.shares_k, [0.25, 0, 0.25])
    assert repr(result) == "Segmentation(2×2: sky 25.0%, tree 25.0%)" and result._repr_png_()


def test_a_notebook_shows_a_picture_and_a_terminal_the_shares():
    labels_hw = np.zeros((10, 20), np.uint8)
    labels_hw[:, 15:] = 2
    result = seg.Segmentation(labels_hw, CLASSES, np.zeros((10, 20, 3), np.uint8))
    assert repr(result) == "Segmentation(10×20: sky 75.0%, tree 25.0%)"
    picture = np.asarray(Image.open(io.BytesIO(result._repr_png_())))
    colours = {tuple(colour) for colour in picture.reshape(-1, 3)}
    assert {CLASSES.palette[0], CLASSES.palette[2]} <= colours and CLASSES.palette[1] not in colours
