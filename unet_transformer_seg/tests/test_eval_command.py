import csv
import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from seg import eval as eval_command
from seg.checkpoints import CheckpointStore
from seg.classes import make_class_table
from seg.cli import run_command
from seg.config import Config, DataConfig, InferenceConfig, InstancesConfig, ModelConfig
from seg.data import build_dataset
from seg.inference.eval_report import draw_confusion
from seg.inference.predictor import Predictor
from seg.inference.scoring import SampleScore, pick_extremes
from seg.instances.matching import score_objects, summarise
from seg.instances.objects import find_objects
from seg.metrics import compute_metrics, confusion_matrix, count_pairs
from seg.record.run_dir import create_run_dir
from tiny_model import random_variables

CLASSES = make_class_table(("sky", "road", "tree"))
SIZES = [(16, 24), (10, 24), (16, 24), (40, 30)]


def write_split(root, split, seed):
    """Write images of several sizes with random masks in which some pixels are ignored."""
    rng, samples = np.random.default_rng(seed), []
    for kind in ("images", "labels"):
        (root / split / kind).mkdir(parents=True)
    for i, size in enumerate(SIZES):
        image_hwc = rng.integers(0, 256, (*size, 3), np.uint8)
        mask_hw = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
        Image.fromarray(image_hwc).save(root / split / "images" / f"{i}.png")
        Image.fromarray(mask_hw).save(root / split / "labels" / f"{i}.png")
        samples.append((image_hwc, mask_hw))
    return samples


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run with an untrained model, and the samples of its splits."""
    folder = tmp_path_factory.mktemp("eval")
    data = DataConfig(
        dataset="image_folder",
        root=str(folder / "data"),
        size=(16, 24),
        fit="crop",
        class_names=CLASSES.names,
        ignore_value=255,
    )
    config = Config(
        runs_dir=str(folder / "runs"),
        model=ModelConfig(name="unet", num_classes=3, base_width=8, depth=1),
        data=data,
        inference=InferenceConfig(batch_size=2),
    )
    samples = {split: write_split(folder / "data", split, i) for i, split in enumerate(("val", "test"))}
    run, variables = create_run_dir(config, CLASSES), random_variables(config.model, (16, 24))
    CheckpointStore(run.checkpoints).save(1, jax.device_put(variables), {}, best=True)
    return run.path, Predictor(config, CLASSES, variables), samples


def run_eval(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(eval_command.main)
    return end.value.code


def count_slowly(predictor, samples):
    matrix_kk = np.zeros((3, 3), np.int64)
    for image_hwc, mask_hw in samples:
        for true, predicted in zip(mask_hw.ravel(), predictor.predict(image_hwc).labels.ravel(), strict=True):
            if true != 255:
                matrix_kk[true, predicted] += 1
    return matrix_kk


def test_the_numbers_are_those_of_one_matrix_at_native_resolution(evaluated, monkeypatch, capsys):
    run, predictor, samples = evaluated
    monkeypatch.setattr("seg.metrics.warn_never_predicted", lambda _, names: [f"never predicted: {names[0]}"])
    assert run_eval(monkeypatch, "--run", run, "--split", "test") == 0
    folder = run / "eval_test"
    assert {f.name for f in folder.iterdir()} == {
        "metrics.json",
        "results.csv",
        "samples.csv",
        "confusion_matrix.png",
        "extremes.png",
    }
    found = json.loads((folder / "metrics.json").read_text())
    expected_kk = count_slowly(predictor, samples["test"])
    np.testing.assert_array_equal(found["confusion_matrix"], expected_kk)
    metrics = compute_metrics(expected_kk)
    assert found["mean_iou"] == pytest.approx(metrics.mean_iou)
    assert (found["split"], found["num_samples"]) == ("test", 4)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES.names)
    np.testing.assert_allclose([float(row["iou"]) for row in rows], metrics.iou, atol=1e-6)
    with (folder / "samples.csv").open() as file:
        accuracies = [float(row["pixel_accuracy"]) for row in csv.DictReader(file)]
    expected = [compute_metrics(count_slowly(predictor, [s])).pixel_accuracy for s in samples["test"]]
    np.testing.assert_allclose(accuracies, expected, atol=1e-6)
    output = capsys.readouterr().out
    assert "mean IoU" in output and f"never predicted: {CLASSES.names[0]}" in output
    assert str(folder) in output


def test_split_mirror_and_folder_follow_the_arguments(evaluated, monkeypatch, tmp_path):
    run, predictor, samples = evaluated
    assert run_eval(monkeypatch, "--run", run, "--mirror", "--out", tmp_path / "deep/out") == 0
    found = json.loads((tmp_path / "deep/out/metrics.json").read_text())
    assert (found["split"], found["mirror"]) == ("val", True)
    assert not (run / "eval_val").exists()
    matrix_kk = np.array(found["confusion_matrix"])
    plain_kk = count_slowly(predictor, samples["val"])
    np.testing.assert_array_equal(matrix_kk.sum(axis=1), plain_kk.sum(axis=1))
    assert (matrix_kk != plain_kk).any()


def test_objects_are_counted_and_scored_on_request(evaluated, monkeypatch, capsys, tmp_path):
    run, predictor, samples = evaluated
    command = ("--run", run, "--split", "test", "--out", tmp_path, "--instances", "components", "instances.min_area=3")
    assert run_eval(monkeypatch, *command) == 0
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["class"] for row in content["objects"]] == ["road", "tree"]
    road = content["objects"][0]
    settings = InstancesConfig("components", ("road",), min_area=3)
    pairs = []
    for image_hwc, mask_hw in samples["test"]:
        prediction_hw = np.where(mask_hw == 255, 0, predictor.predict(image_hwc).labels)
        truth_hw = np.where(mask_hw == 255, 0, mask_hw)
        true = find_objects(truth_hw, InstancesConfig("components", ("road",)), CLASSES.names)
        pairs.append(score_objects(true.numbers, find_objects(prediction_hw, settings, CLASSES.names).numbers))
    assert road == {"class": "road", **summarise(pairs)} and road["true_objects"] > 4
    with (tmp_path / "samples.csv").open() as file:
        assert [int(row["road: true"]) for row in csv.DictReader(file)] == [pair.num_true for pair in pairs]
    assert "objects" in capsys.readouterr().out


def test_a_model_folder_is_evaluated_like_a_run(evaluated, monkeypatch, tmp_path):
    """What reads the folder has its own tests; here the predictor, which is compiled already, takes its place."""
    run, predictor, samples = evaluated
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    asked = []
    load = "seg.inference.predictor.load_predictor"
    monkeypatch.setattr(load, lambda folder, *_: asked.append(folder) or predictor)
    assert run_eval(monkeypatch, "--model", tmp_path, "--split", "test") == 2  # nobody said where to write
    assert run_eval(monkeypatch, "--model", tmp_path, "--split", "test", "--out", tmp_path / "scores") == 0
    found = json.loads((tmp_path / "scores/metrics.json").read_text())
    assert asked == [tmp_path] and found["run"] == str(tmp_path)
    np.testing.assert_array_equal(found["confusion_matrix"], count_slowly(predictor, samples["test"]))
    assert run_eval(monkeypatch, "--model", tmp_path, "--run", run) == 2
    assert run_eval(monkeypatch, "--split", "test") == 2


def test_other_classes_are_refused(evaluated, monkeypatch, capsys):
    run, *_ = evaluated
    assert run_eval(monkeypatch, "--run", run, "data.class_names=[sky, tree, road]") == 2
    assert "sky, tree, road" in capsys.readouterr().err
    assert run_eval(monkeypatch, "--run", run, "data.rot=x") == 2
    assert "did you mean 'data.root'" in capsys.readouterr().err


def test_counting_on_the_host_equals_counting_on_the_device():
    rng = np.random.default_rng(0)
    mask_hw = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (20, 30))
    prediction_hw = rng.integers(0, 4, (20, 30)).astype(np.uint8)
    on_device_kk = confusion_matrix(prediction_hw[None].astype(np.int32), mask_hw[None].astype(np.int32), 4)
    counted_kk = count_pairs(mask_hw, prediction_hw, 4)
    np.testing.assert_array_equal(counted_kk, on_device_kk)
    assert counted_kk.dtype == np.int64
    assert count_pairs(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), 2).tolist() == [[0, 0], [0, 0]]


def test_best_and_worst_are_disjoint_and_leave_out_the_uncounted():
    ious = [0.3, float("nan"), 0.9, 0.1, 0.5]
    scores = [SampleScore(i, f"s{i}", np.zeros((2, 2), np.int64), iou, 0.0) for i, iou in enumerate(ious)]

    def picked(number):
        return [(kind, score.index) for kind, score in pick_extremes(scores, number)]

    assert picked(1) == [("best", 2), ("worst", 3)]
    assert picked(4) == [("best", 2), ("best", 4), ("worst", 0), ("worst", 3)]
    assert pick_extremes(scores[1:2], 4) == []


@pytest.mark.parametrize("num_classes", [2, 26])
def test_the_confusion_matrix_can_be_drawn(num_classes, tmp_path):
    matrix_kk = np.diag(np.arange(num_classes)).astype(np.int64)  # class 0 does not occur
    draw_confusion(matrix_kk, make_class_table(tuple(f"class {i}" for i in range(num_classes))), tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 250


def test_images_that_the_run_was_trained_on_are_told(tmp_path, capsys):
    write_split(tmp_path, "train", 0)
    settings = {"dataset": "image_folder", "root": str(tmp_path), "class_names": CLASSES.names, "ignore_value": 255}
    trained = DataConfig(**settings, val_fraction=0.25)
    eval_command.warn_of_trained_images(build_dataset(trained, "val"), trained, tmp_path)
    assert capsys.readouterr().out == ""
    more = build_dataset(dataclasses.replace(trained, val_fraction=0.5), "val")
    eval_command.warn_of_trained_images(more, trained, tmp_path)
    assert f"warning: {tmp_path} was trained on 1 of these 2 images" in capsys.readouterr().out
