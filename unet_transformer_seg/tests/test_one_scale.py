"""Training's validation, `seg.eval` and `seg.infer` bring images to a model in one way, and score masks of one size."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from seg.compiler import CompiledStep
from seg.config import Config, DataConfig, InferenceConfig, ModelConfig, TrainingConfig
from seg.config.reader import load_config, save_config
from seg.data.fit import fit_sample, fitted_shape, labels_at, predicted_shape, resize_bands
from seg.inference.model_settings import explain_old_scale
from seg.inference.predictor import Predictor
from seg.inference.scoring import score_samples
from seg.labels import Exclusive
from seg.training.evaluate import evaluate
from seg.training.setup import build_setup
from seg.watch.interruption import Interruption
from seg.watch.supervisor import Supervisor

decide_planes = Exclusive(3).decide_planes
SIZE = (16, 24)
SHAPES = [(16, 24), (48, 72), (40, 40), (9, 7), (16, 10), (30, 24), (16, 24)]
"""Of the data size, larger, of another aspect, smaller, to be filled up only, higher only."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set of images of many sizes, smooth enough that pixels are not decided by chance."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split in ("train", "val"):
        for number, (height, width) in enumerate(SHAPES):
            for folder in ("images", "labels"):
                (root / split / folder).mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
            coarse.resize((width, height), Image.Resampling.BICUBIC).save(root / split / f"images/{number}.png")
            mask_hw = rng.integers(0, 3, (height, width)).astype(np.uint8)
            Image.fromarray(mask_hw).save(root / split / f"labels/{number}.png")
    return root


def config_for(root, fit="resize", size=SIZE, **inference):
    return Config(
        model=ModelConfig(name="unet", base_width=4, depth=1),
        data=DataConfig(
            dataset="image_folder",
            root=str(root),
            class_names=("sky", "road", "tree"),
            size=size,
            fit=fit,
            num_threads=0,
        ),
        training=TrainingConfig(batch_size=2, num_sample_pictures=3),
        inference=InferenceConfig(**inference),
    )


def drawn(tree):
    """Return arrays of these shapes, such that every class is predicted somewhere."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        if "heads" in jax.tree_util.keystr(path):  # the largest of the first channels
            kernel = np.broadcast_to(np.eye(*leaf.shape[-2:]), leaf.shape) if leaf.ndim > 1 else np.zeros(leaf.shape)
            return kernel.astype(np.float32)
        base = 1.0 if str(path[-1].key) in ("scale", "var") else 0.0
        return (base + rng.uniform(-0.5, 0.5, leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, tree)


def validate(config):
    """Return what training's validation finds, the variables, and the setup."""
    setup = build_setup(config)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), setup.abstract_state)
    state = state.replace(params=drawn(state.params), batch_stats=drawn(state.batch_stats))
    with Interruption() as interruption:
        supervisor = Supervisor(interruption)
        found = evaluate(setup, state, supervisor, CompiledStep(setup.eval_step), Predictor)
    return found, state.variables, setup


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": (40, 64)},
        {"fit": "crop", "mirror": True},
        {"scales": (0.5, 1.0), "mirror": True, "logit_shift": (0.0, 0.2, -0.1)},
        {"tile": (8, 16)},
        {"scale": 0.5, "tile": (8, 8)},
        {"scale": "native", "whole_up_to": 200},
    ],
    ids=str,
)
def test_validation_and_eval_count_the_same_pixels(root, settings):
    found, variables, setup = validate(config_for(root, **settings))
    predictor = Predictor(setup.config, setup.classes, variables)
    confusion_kk = sum(score.counts for score in score_samples(predictor, setup.val_set))
    assert found.metrics.num_pixels == confusion_kk.sum() == sum(height * width for height, width in SHAPES)
    hits_k, true_k, predicted_k = np.diag(confusion_kk), confusion_kk.sum(1), confusion_kk.sum(0)
    assert predicted_k.min() > 100  # else the comparison says little
    np.testing.assert_array_equal(found.metrics.iou, hits_k / (true_k + predicted_k - hits_k))
    for index, (image_hwc, mask_hw, prediction_hw) in enumerate(found.samples):
        np.testing.assert_array_equal(image_hwc, setup.val_set[index].image)
        np.testing.assert_array_equal(mask_hw, setup.val_set[index].mask)
        np.testing.assert_array_equal(prediction_hw, predictor.predict(image_hwc).labels)


def test_the_network_sees_an_image_in_prediction_as_it_did_in_training(root):
    """The windows themselves are compared: resized by the same function, filled up with the same black."""
    for fit in ("resize", "crop"):
        seen = []

        def look(windows_bhwc, seen=seen):
            seen.append(windows_bhwc[0])
            return np.zeros((*windows_bhwc.shape[:3], 3), np.float32)

        config = config_for(root, fit)
        setup = build_setup(config)
        predictor = Predictor(config, setup.classes, None, look)
        for index, shape in enumerate(SHAPES):
            if fit == "crop" and (shape[0] > SIZE[0] or shape[1] > SIZE[1]):
                continue  # windows overlap
            sample = setup.val_set[index]
            assert predictor.predict(sample.image).labels.shape == shape
            np.testing.assert_array_equal(seen.pop(), fit_sample(sample, config.data).image)
            assert not seen


def test_shapes():
    config = Config(data=DataConfig(size=(64, 96)))
    for shape, expected in (((256, 256), (64, 64)), ((10, 30), (32, 96)), ((64, 96), (64, 96)), ((1000, 1), (64, 1))):
        assert fitted_shape(shape, config.data) == predicted_shape(shape, config) == expected
    crop = dataclasses.replace(config, data=dataclasses.replace(config.data, fit="crop"))
    assert fitted_shape((256, 50), crop.data) == (64, 50) and predicted_shape((256, 50), crop) == (256, 50)
    for scale, expected in (("native", (7, 300)), (0.5, (4, 150)), (3.0, (21, 900)), (0.01, (1, 3))):
        inference = InferenceConfig(scale=scale)
        assert predicted_shape((7, 300), dataclasses.replace(config, inference=inference)) == expected


@pytest.mark.parametrize("target", [(90, 120), (91, 47), (7, 9), (1, 1), (30, 40)], ids=str)
def test_probabilities_in_bands_are_those_resized_in_one_piece(target, monkeypatch):
    rng = np.random.default_rng(0)
    probabilities_hwk = rng.dirichlet(np.ones(3), (30, 40)).astype(np.float32)
    size = target[1], target[0]
    planes = [Image.fromarray(np.ascontiguousarray(probabilities_hwk[..., k])) for k in range(3)]
    expected_khw = np.stack([np.asarray(plane.resize(size, Image.Resampling.BILINEAR)) for plane in planes])
    monkeypatch.setattr("seg.data.fit.BAND_VALUES", 3 * target[1] * 4)
    bands = list(resize_bands(np.array_split(probabilities_hwk, 7), (30, 40), target))
    assert len(bands) == -(-target[0] // 4) and all(band.shape[1] <= 4 for band in bands)
    found_khw = np.concatenate(bands, axis=1)
    np.testing.assert_allclose(found_khw, expected_khw, atol=2e-6)
    np.testing.assert_allclose(found_khw.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(labels_at(probabilities_hwk, target, decide_planes), decide_planes(found_khw))


def test_of_equal_probabilities_the_first_class_is_taken():
    probabilities_khw = np.array([[[0.2, 0.4, 0.3]], [[0.4, 0.4, 0.3]], [[0.4, 0.2, 0.4]]], np.float32)
    assert decide_planes(probabilities_khw).tolist() == [[1, 0, 2]]


def test_a_model_from_before_the_setting_says_how_it_is_read_now(tmp_path):
    file = tmp_path / "config.yaml"
    save_config(Config(data=DataConfig(size=(48, 64))), file)
    assert explain_old_scale(tmp_path, load_config(file)) == ""
    file.write_text(file.read_text().replace("  scale: trained\n", ""))
    line = explain_old_scale(tmp_path, load_config(file))
    assert "resized into 48×64" in line and "inference.scale=native" in line
    assert explain_old_scale(tmp_path, load_config(file, ["inference.scale=native"])) == ""
    assert explain_old_scale(tmp_path, load_config(file, ["data.fit=crop"])) == ""
