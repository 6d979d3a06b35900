"""A run with overlapping labels: training, thresholds kept with the model, prediction, files, service, export."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import seg
from seg.config import AugmentConfig, Config, DataConfig, LossConfig, ModelConfig, ToyConfig, TrainingConfig
from seg.config.rules import check_config
from seg.errors import UserError
from seg.inference import scoring
from seg.inference.done_record import DoneRecord
from seg.inference.model_settings import read_settings
from seg.inference.output import plan_jobs
from seg.inference.segment_files import Options, Outcome, segment_files
from seg.labels import GRID
from seg.record.run_dir import load_run
from seg.serve.formats import Drawing, draw, formats_of
from seg.training.state import Progress, read_progress

NAMES = ("circle", "rectangle", "star")


def config_for(folder, **data):
    return Config(
        runs_dir=str(folder),
        model=ModelConfig(name="unet", labels="overlapping", base_width=4, depth=1, norm="group", norm_groups=2),
        data=DataConfig(size=(16, 16), toy=ToyConfig(num_train=4, num_val=3, num_test=2, overlap=True), **data),
        training=TrainingConfig(batch_size=2, num_epochs=1, num_sample_pictures=1),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    augment = AugmentConfig(flip=0.5, scale=(0.8, 1.2), rotate_degrees=10)
    return seg.train(config_for(tmp_path_factory.mktemp("runs"), augment=augment))


@pytest.fixture(scope="module")
def model(run):
    return seg.load(run.path)


@pytest.fixture(scope="module")
def image_hwc():
    return np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)


def test_the_run_keeps_the_kind_of_labels_and_the_model_the_thresholds_of_its_evaluation(run, model):
    config, classes = load_run(run.path)
    assert classes.overlapping and classes.names == NAMES and config.model.num_classes == 3
    assert not config.inference.thresholds  # stated ones would win
    (record,) = json.loads((run.path / "metrics.json").read_text())
    assert model.config.inference.thresholds == tuple(record["thresholds"]) and len(record["thresholds"]) == 3
    assert set(record["thresholds"]) <= set(GRID)
    assert (run.path / "samples").is_dir() and list((run.path / "samples").glob("*.png"))


def test_a_model_scores_as_its_evaluation_did(run, model):
    dataset = seg.build_dataset(model.config.data, "val", model.config.seed, "overlapping")
    counts = sum(score.counts for score in scoring.score_samples(model, dataset))
    assert counts.shape == (3, 2, 2)
    assert seg.compute_metrics(counts).mean_iou == pytest.approx(run.best_score, nan_ok=True)


def test_a_stated_threshold_wins(run, image_hwc):
    everything = seg.load(run.path, overrides=["inference.thresholds=[0,0,0]"])
    nothing = seg.load(run.path, overrides=["inference.thresholds=[1,1,1]"])
    assert everything.predict(image_hwc).labels.all() and not nothing.predict(image_hwc).labels.any()
    with pytest.raises(UserError, match="thresholds: expected a number for each of 3 classes, found 1"):
        seg.load(run.path, overrides=["inference.thresholds=[0.5]"])


def test_labels_are_what_the_thresholds_make_of_the_probabilities(model, image_hwc):
    segmentation = model.predict(image_hwc, probabilities=True)
    assert segmentation.labels.shape == (20, 24, 3) and segmentation.labels.dtype == np.uint8
    expected = segmentation.probabilities >= np.float32(model.config.inference.thresholds)
    np.testing.assert_array_equal(segmentation.labels, expected)
    np.testing.assert_array_equal(model.predict(image_hwc).labels, expected)
    np.testing.assert_allclose(segmentation.shares_k, expected.mean((0, 1)))
    assert abs(segmentation.probabilities.sum(-1) - 1).max() > 0.01  # each class by itself
    assert "Segmentation(20×24" in repr(segmentation) and segmentation._repr_png_()
    assert np.asarray(segmentation.overlay()).shape == (20, 24, 3)


def test_a_saved_mask_has_a_band_for_each_class(model, image_hwc, tmp_path):
    segmentation = model.predict(image_hwc)
    segmentation.save(tmp_path / "mask.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif"), segmentation.labels * 255)
    with pytest.raises(UserError, match=r"ends in .tif, as classes overlap"):
        segmentation.save(tmp_path / "mask.png")


def test_infer_writes_the_bands_and_counts_the_pixels(model, image_hwc, tmp_path):
    Image.fromarray(image_hwc).save(tmp_path / "photo.png")
    jobs, options = plan_jobs([tmp_path / "photo.png"], tmp_path / "out", has_bands=True), Options(probabilities=True)
    outcome = Outcome()
    segment_files(model, jobs, options, DoneRecord(tmp_path / "out", ""), outcome)
    assert outcome.num_done == 1
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "out" / "photo.tif"), model.predict(image_hwc).labels * 255
    )
    assert (tmp_path / "out" / "photo_overlay.png").is_file()
    assert np.load(tmp_path / "out" / "photo_probabilities.npz")["probabilities"].shape == (20, 24, 3)


def test_an_exported_model_predicts_alike_and_says_what_its_numbers_are(model, image_hwc, tmp_path):
    seg.save(model, tmp_path / "model")
    exported = seg.load(tmp_path / "model")
    assert exported.config.inference.thresholds == model.config.inference.thresholds
    np.testing.assert_array_equal(exported.predict(image_hwc).labels, model.predict(image_hwc).labels)
    text = (tmp_path / "model" / "README.txt").read_text()
    assert "a pixel may have several" in text and "argmax" not in text


def test_the_service_offers_the_formats_that_hold_overlaps(model, image_hwc):
    labels = np.zeros((4, 6, 3), np.uint8)
    labels[:2, :, 0] = labels[1:3, :, 2] = 1
    assert formats_of(model.classes) == ("tiff", "overlay", "geojson", "coco", "npz")
    content = {
        form: draw(Drawing(form, labels, image_hwc[:4, :6]), model.classes) for form in formats_of(model.classes)
    }
    features = json.loads(content["geojson"])["features"]
    assert [(f["properties"]["label"], f["properties"]["pixels"]) for f in features] == [(0, 12), (2, 12)]
    annotations = json.loads(content["coco"])["annotations"]
    assert [a["bbox"] for a in annotations] == [[0, 0, 6, 2], [0, 1, 6, 2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": LossConfig(label_smoothing=0.1)}, "loss.label_smoothing=0"),
        ({"loss": LossConfig(class_weighting="given", class_weights=(1.0, 0.0))}, "leave the class out"),
        ({"data": DataConfig(augment=AugmentConfig(copy_paste=0.5))}, "augment.copy_paste=0"),
        ({"data": DataConfig()}, "data.toy.overlap: true"),
        ({"model": ModelConfig()}, "model.labels: overlapping"),
    ],
)
def test_settings_of_the_other_kind_are_refused_with_the_setting_to_use(changes, message):
    config = dataclasses.replace(config_for("runs"), **changes)
    if "augment" in message:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, toy=ToyConfig(overlap=True)))
    with pytest.raises(UserError, match=message):
        check_config(config)


def test_a_checkpoint_keeps_the_thresholds_and_an_older_one_has_none():
    progress = Progress(best_iou=0.5, thresholds=(0.5, 0.35))
    stored = json.loads(json.dumps(dataclasses.asdict(progress)))
    assert read_progress(stored, Path("run")) == progress
    del stored["thresholds"]
    assert read_progress(stored, Path("run")).thresholds == ()
    for bad in ("0.5", ["a"], 0.5):
        with pytest.raises(UserError, match="not written by this program"):
            read_progress(stored | {"thresholds": bad}, Path("run"))


def test_a_model_whose_classes_and_config_are_of_two_kinds_is_refused(model, tmp_path):
    seg.save(model, tmp_path / "model")
    with pytest.raises(UserError, match="overlapping classes, and config.yaml has model.labels: exclusive"):
        read_settings(
            tmp_path / "model", ["model.labels=exclusive", "data.toy.overlap=false", "inference.thresholds=[]"]
        )
