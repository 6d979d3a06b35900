"""Images of any number of channels and any precision, from the file to the mask."""

import dataclasses

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image

import seg
from seg.classes import make_class_table
from seg.config import Config, DataConfig, InferenceConfig, ModelConfig
from seg.config.rules import check_config
from seg.data.dataset import Sample, SegmentationDataset
from seg.data.fit import fit_sample, resize_image
from seg.data.image_file import read_image
from seg.data.settlement import settle_images
from seg.data.transforms import jitter_colour, make_augment
from seg.errors import UserError
from seg.inference.predictor import Predictor
from seg.models import build_model, init_variables
from seg.pictures import as_picture

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
GREY = COLOURS[..., 0]


def read(path, channels, **settings):
    """Return the image and the kinds of the remarks."""
    remarks = []
    config = DataConfig(channels=channels, **settings)
    return read_image(path, config, lambda kind, *_: remarks.append(kind)), remarks


@pytest.mark.parametrize(
    ("stored", "remarks"),
    [(GREY, []), (np.dstack([GREY] * 3), []), (np.dstack([*[GREY] * 3, GREY]), ["transparency"])],
    ids=["grey", "equal colours", "with alpha"],
)
def test_one_channel_of_grey(stored, remarks, tmp_path):
    Image.fromarray(stored).save(tmp_path / "a.png")
    image, noted = read(tmp_path / "a.png", 1)
    np.testing.assert_array_equal(image, GREY[..., None])
    assert image.dtype == np.uint8 and noted == remarks


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_colours_become_their_luma_with_a_remark(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(path) if suffix == "png" else np.save(path, COLOURS)
    image, noted = read(path, 1)
    assert noted == ["colours"]
    np.testing.assert_allclose(image[..., 0], COLOURS @ [0.299, 0.587, 0.114], atol=0.51)


def test_alpha_is_kept_by_four_channels_and_bands_as_they_are(tmp_path):
    four = np.dstack([COLOURS, GREY])
    Image.fromarray(four).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png", 4)[0], four)
    twelve = np.random.default_rng(1).random((12, 6, 7), np.float32)  # channels first
    np.save(tmp_path / "a.npy", twelve)
    image, noted = read(tmp_path / "a.npy", 12, precision="float32")
    np.testing.assert_array_equal(image, np.moveaxis(twelve, 0, -1))
    assert not noted


@pytest.mark.parametrize(
    ("stored", "channels", "setting"),
    [(COLOURS, 4, "data.channels=3"), (GREY, 4, "data.channels=1"), (np.dstack([COLOURS] * 4), 3, "data.channels=7")],
    ids=["rgb", "grey", "twelve"],
)
def test_another_number_of_channels_names_the_setting(stored, channels, setting, tmp_path):
    np.save(tmp_path / "a.npy", stored)
    setting = setting.replace("7", str(min(stored.shape))) if channels == 3 else setting
    with pytest.raises(UserError, match=setting):
        read(tmp_path / "a.npy", channels)


def test_floats_keep_what_bytes_would_round(tmp_path):
    deep = np.arange(42, dtype=np.uint16).reshape(6, 7) * 97
    Image.fromarray(deep).save(tmp_path / "a.png")
    image, _ = read(tmp_path / "a.png", 1, precision="float32", value_range=(0, 4095))
    np.testing.assert_allclose(image[..., 0], deep / 4095, atol=1e-6)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(
        read(tmp_path / "a.png", 3, precision="float32", value_range=(0, 4095))[0], image[..., [0] * 3]
    )


def test_channels_are_resized_one_by_one():
    """As Pillow resizes an RGB image: three channels among others get equal values."""
    rgb = resize_image(COLOURS, (4, 5))
    five = resize_image(np.dstack([COLOURS, COLOURS[..., :2]]), (4, 5))
    np.testing.assert_array_equal(five, np.dstack([rgb, rgb[..., :2]]))
    floats = resize_image(COLOURS.astype(np.float32), (4, 5))
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, rgb, atol=1)
    sample = Sample(COLOURS[..., :1].astype(np.float32), GREY, "a")
    assert fit_sample(sample, DataConfig(size=(9, 8))).image.shape == (9, 8, 1)


@pytest.mark.parametrize(("key", "value"), [("saturation", 0.2), ("hue", 0.1)])
def test_what_needs_colours_is_refused(key, value):
    augment = dataclasses.replace(DataConfig().augment, **{key: value})
    data = DataConfig(dataset="custom", channels=4, augment=augment)
    with pytest.raises(UserError, match=f"data.augment.{key}: .*data.channels = 4"):
        check_config(Config(data=data))
    check_config(Config(data=dataclasses.replace(data, channels=3)))


def test_brightness_and_contrast_of_any_channels_are_those_of_grey_colours():
    grey = jax.random.uniform(jax.random.key(1), (3, 5, 5, 1))
    settings = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.0, "hue": 0.0}
    colours = jitter_colour(jax.random.key(0), np.repeat(grey, 3, axis=-1), **settings)
    for channels in (1, 4):
        changed = jitter_colour(jax.random.key(0), np.repeat(grey, channels, axis=-1), **settings)
        np.testing.assert_allclose(changed, np.repeat(colours[..., :1], channels, axis=-1), atol=1e-5)


def test_a_picture_of_any_image():
    assert as_picture(COLOURS) is COLOURS
    np.testing.assert_array_equal(as_picture(GREY[..., None]), np.dstack([GREY] * 3))
    np.testing.assert_array_equal(as_picture(COLOURS[..., :2]), np.dstack([COLOURS[..., :2], GREY * 0]))
    five = np.dstack([COLOURS, COLOURS[..., ::-1]])
    np.testing.assert_array_equal(as_picture(five), COLOURS)
    np.testing.assert_array_equal(as_picture(five, (2, 1, 0)), COLOURS[..., ::-1])
    np.testing.assert_array_equal(as_picture(five, (1,)), COLOURS[..., [1] * 3])
    dark = np.array([[[0.1], [0.15], [0.2]]], np.float32)
    np.testing.assert_array_equal(as_picture(dark)[0, :, 0], [0, 128, 255])


class Bands(SegmentationDataset):
    """Four float channels, the first of them twice as bright where the class is 1."""

    classes = make_class_table(("ground", "thing"))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        mask_hw = np.zeros((16, 16), np.uint8)
        mask_hw[4:12, index : index + 8] = 1
        image_hwc = rng.normal(0.2, 0.05, (16, 16, 4)).clip(0, 1).astype(np.float32)
        image_hwc[..., 0] += 0.4 * mask_hw
        return Sample(image_hwc, mask_hw, f"band {index}")


MODEL = ModelConfig(name="unet", base_width=4, depth=1, norm="group", norm_groups=2, num_classes=2)


def test_a_run_takes_precision_and_statistics_from_its_images():
    data = settle_images(DataConfig(dataset="custom", channels=4), Bands())
    assert data.precision == "float32"
    pixels = np.concatenate([Bands()[i].image.reshape(-1, 4) for i in range(4)])
    np.testing.assert_allclose(data.mean, pixels.mean(0), rtol=1e-4)
    np.testing.assert_allclose(data.std, pixels.std(0), rtol=1e-4)
    settled_again = settle_images(data, Bands())
    assert settled_again == data
    normal, labels = jax.jit(make_augment(dataclasses.replace(data, size=(16, 16))))(
        jax.random.key(0), np.stack([Bands()[i].image for i in range(4)]), np.stack([Bands()[i].mask for i in range(4)])
    )
    np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(normal.std((0, 1, 2)), 1, atol=1e-2)


@pytest.mark.parametrize(("channels", "precision"), [(1, "uint8"), (4, "float32")])
def test_predictor_and_exported_program_take_the_channels(channels, precision, tmp_path):
    data = DataConfig(size=(16, 16), fit="crop", channels=channels, precision=precision)
    config = Config(model=MODEL, data=data, inference=InferenceConfig(batch_size=2))
    variables = init_variables(build_model(MODEL), (16, 16), jax.random.key(0), channels)
    predictor = Predictor(config, Bands.classes, variables)
    noise = np.random.default_rng(0).random((16, 16, channels), np.float32)
    image_hwc = noise if precision == "float32" else (noise * 255).astype(np.uint8)
    result = predictor.predict(image_hwc, probabilities=True)
    assert result.image.shape == (16, 16, 3) and result.overlay().size == (16, 16)
    seg.save(predictor, tmp_path / "model")
    program = jax.export.deserialize(bytearray((tmp_path / "model/model.stablehlo").read_bytes()))
    assert program.in_avals[-1].dtype == precision and program.in_avals[-1].shape[1:] == (16, 16, channels)
    assert f"{precision}[b, 16, 16, {channels}]" in (tmp_path / "model/README.txt").read_text()
    loaded = seg.load(tmp_path / "model")
    again = loaded.predict(image_hwc, probabilities=True)
    np.testing.assert_allclose(again.probabilities, result.probabilities, atol=1e-5)
    with pytest.raises(UserError, match=f"data.channels={channels + 5}"):
        loaded.predict(np.zeros((16, 16, channels + 5), np.uint8))
