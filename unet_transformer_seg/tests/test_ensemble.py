"""Models that predict together: the mean of their probabilities, and what cannot be averaged."""

import sys

import jax
import numpy as np
import pytest
from PIL import Image

import seg
from seg import eval as eval_command
from seg import infer as infer_command
from seg.checkpoints import CheckpointStore
from seg.classes import make_class_table
from seg.cli import run_command
from seg.config import Config, DataConfig, InferenceConfig, ModelConfig
from seg.errors import UserError
from seg.inference.done_record import digest_predictor
from seg.inference.ensemble import Ensemble
from seg.inference.segment_files import Options
from seg.models import build_model, init_variables
from seg.record.run_dir import create_run_dir

CLASSES = make_class_table(("background", "cell"))


def make_run(folder, seed, classes=CLASSES, **data):
    settings = {"dataset": "image_folder", "root": str(folder / "data"), "size": (16, 16), "fit": "crop"}
    data = DataConfig(**settings | {"class_names": classes.names, "num_folds": 2, "fold": seed % 2} | data)
    model = ModelConfig(name="unet", num_classes=len(classes), base_width=4, depth=1)
    inference = InferenceConfig(batch_size=2, overlap=0.25)
    config = Config(name=f"r{seed}", runs_dir=str(folder / "runs"), model=model, data=data, inference=inference)
    run = create_run_dir(config, classes)
    variables = init_variables(build_model(model), (16, 16), jax.random.key(seed))
    CheckpointStore(run.checkpoints).save(1, jax.device_put(variables), {}, best=True)
    return run.path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("folds"), np.random.default_rng(0)
    for i in range(4):
        for name, array in (("images", rng.integers(0, 256, (20, 24, 3))), ("labels", rng.integers(0, 2, (20, 24)))):
            (folder / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(folder / "data" / name / f"{i}.png")
    return folder, [make_run(folder, 0), make_run(folder, 1)]


def test_probabilities_are_averaged_and_labels_follow_from_the_mean(runs):
    folder, (first, second) = runs
    image_hwc = np.random.default_rng(1).integers(0, 256, (20, 24, 3), np.uint8)
    single = [seg.load(path).predict(image_hwc, probabilities=True).probabilities for path in (first, second)]
    together = seg.load([first, second])
    answer = together.predict(image_hwc, probabilities=True)
    np.testing.assert_allclose(answer.probabilities, np.mean(single, axis=0), atol=1e-6)
    np.testing.assert_array_equal(answer.labels, answer.probabilities.argmax(-1))
    np.testing.assert_array_equal(together.predict(image_hwc).labels, answer.labels)
    assert (single[0].argmax(-1) != single[1].argmax(-1)).any()  # else the mean shows nothing
    assert isinstance(together, Ensemble) and "Ensemble of 2" in repr(together)
    assert not isinstance(seg.load([first]), Ensemble)


def test_results_of_other_members_are_not_taken_for_done(runs):
    _, (first, second) = runs
    digests = {digest_predictor(seg.load(paths), Options()) for paths in ([first, second], [first, first], first)}
    assert len(digests) == 3


def test_models_that_do_not_fit_together_are_refused(runs):
    folder, (first, _) = runs
    other = make_run(folder, 2, make_class_table(("background", "dust")))
    with pytest.raises(UserError, match="their classes are background, dust, and background, cell"):
        seg.load([first, other])
    with pytest.raises(UserError, match=r"their data.size is \[32, 32\], and \[16, 16\]"):
        seg.load([first, make_run(folder, 3, size=(32, 32))])
    with pytest.raises(UserError, match="expected at least one model"):
        seg.load([])
    with pytest.raises(UserError, match="holds one model, found 2"):
        seg.save(seg.load([first, first]), folder / "out")


def run(monkeypatch, command, *arguments):
    monkeypatch.setattr(sys, "argv", ["seg", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(command.main)
    return end.value.code


def test_eval_and_infer_take_several_models_before_settings_and_images(runs, monkeypatch, capsys, tmp_path):
    folder, (first, second) = runs
    assert run(monkeypatch, eval_command, "--run", first, second, "data.num_threads=1") == 0
    assert (first.parent / "eval_val/metrics.json").is_file()
    assert f"{second} was trained on 2 of these 2 images" in capsys.readouterr().out
    image = folder / "data/images/0.png"
    assert run(monkeypatch, infer_command, "--out", tmp_path, "--run", first, second, image) == 0
    expected = seg.load([first, second]).predict(image).labels
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "0.png")), expected)
    assert run(monkeypatch, infer_command, "--out", tmp_path, "--run", first, second) == 2
    assert "expected images or folders, found none" in capsys.readouterr().err
