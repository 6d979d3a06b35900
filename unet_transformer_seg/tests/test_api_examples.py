"""The examples of docs/api.md run as they are printed, and a run with parts from outside is recognised as such."""

import contextlib
import json
import re
import sys
import threading
from pathlib import Path

import jax.export
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import seg
from seg import infer
from seg.cli import run_command
from seg.inference.model_folder import save_model_folder
from seg.models import abstract_variables

TEXT = (Path(__file__).parents[1] / "docs/api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
DISC = seg.make_class_table(("background", "disc"))


SMALLER = "name: toy_unet\nmodel: {name: unet, depth: 1}\ndata: {size: [16, 16]}\ntraining: {batch_size: 8}\n"
"""A file of the name of a packaged config, which goes first: the examples train a smaller model."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Run the examples in order in one folder; return their names, and the folder."""
    folder, names = tmp_path_factory.mktemp("api"), {}
    config = seg.Config(model=seg.ModelConfig(name="unet", num_classes=2, base_width=4, depth=1))
    weights = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), abstract_variables(config.model))
    with contextlib.chdir(folder):
        Path("toy_unet").write_text(SMALLER)
        save_model_folder(Path("model_folder"), config, DISC, weights)
        Image.fromarray(np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)).save("photo.jpg")
        for number, example in enumerate(EXAMPLES):
            exec(compile(example, f"docs/api.md, example {number}", "exec"), names)
        yield names, folder


def test_the_examples_run_and_leave_what_they_say(page):
    names, folder = page
    assert (folder / "labels.png").exists() and (folder / "overlay.png").exists()
    assert names["certain"].probabilities.shape == (48, 64, 2) and len(names["many"]) == 2
    losses = names["losses"].values
    assert len(losses) > 1 and all(np.isfinite(losses))
    assert names["run"].finished and names["logits_bhwk"].shape == (1, 32, 32, 2)


def test_the_page_lists_the_names_of_the_package():
    table = TEXT[TEXT.index("## All names") :]
    listed = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(seg.__all__)


def test_parts_from_outside_are_written_down_and_needed_again(page):
    names, _ = page
    path = names["run"].path
    config = seg.load_config(path / "config.yaml")
    assert (config.model.name, config.loss.name, config.data.dataset) == ("custom",) * 3
    assert json.loads((path / "metrics.json").read_text())[-1]["worst_iou"] >= 0
    with pytest.raises(seg.UserError, match=r"model.name: custom.*seg\.load\(folder, model=\.\.\.\)"):
        seg.load(path)
    parts = parts_of(names)
    for missing, message in [
        ("model", "model.name: custom.*model=..."),
        ("loss", "loss.name: custom.*loss=..."),
        ("val_set", "train_set and val_set belong together"),
    ]:
        rest = {name: part for name, part in parts.items() if name != missing}
        with pytest.raises(seg.UserError, match=message):
            seg.train(resume=path, **rest)
    with pytest.raises(seg.UserError, match="data.dataset: custom.*train_set=..."):
        seg.train(resume=path, model=parts["model"], loss=parts["loss"])
    with pytest.raises(seg.UserError, match="with another image"):
        seg.train(resume=path, **parts | {"train_set": names["Gradients"](5)})
    assert seg.train(resume=path, **parts).finished
    again = f"To train on: seg.train(resume={str(path)!r}, model=…, loss=…, train_set=…, val_set=…)"
    assert again in (path / "train.log").read_text()


def test_a_model_from_outside_is_refused_where_the_folder_has_its_own(page):
    names, _ = page
    with pytest.raises(seg.UserError, match="model_folder: its model is unet.*leave model=... out"):
        seg.load("model_folder", model=names["TwoConvolutions"](2))


def test_the_class_of_a_model_is_given_the_number_of_classes(page):
    names, _ = page
    loaded = seg.load(names["run"].path, model=lambda settings: names["TwoConvolutions"](settings.num_classes))
    image_hwc = names["Gradients"](0)[0].image
    np.testing.assert_array_equal(loaded.predict(image_hwc).labels, names["model"].predict(image_hwc).labels)


def test_a_model_from_outside_is_exported_with_its_program(page):
    names, folder = page
    image_hwc = names["Gradients"](0)[0].image
    exported = seg.load("exported", model=names["TwoConvolutions"](2))
    expected = names["model"].predict(image_hwc, probabilities=True).probabilities
    np.testing.assert_array_equal(exported.predict(image_hwc, probabilities=True).probabilities, expected)
    program = jax.export.deserialize(bytearray((folder / "exported/model.stablehlo").read_bytes()))
    weights = load_file(folder / "exported/weights.safetensors")
    np.testing.assert_allclose(program.call(weights, image_hwc[None])[0], expected, atol=1e-5)


def test_commands_refuse_a_run_with_parts_from_outside(page, monkeypatch, capsys):
    names, _ = page
    monkeypatch.setattr(sys, "argv", ["infer", "--run", str(names["run"].path), "--out", "out", "photo.jpg"])
    with pytest.raises(SystemExit) as end:
        run_command(infer.main)
    assert end.value.code == 2 and "model.name: custom" in capsys.readouterr().err


def test_parts_that_do_not_fit_are_refused_before_training(page):
    names, folder = page

    class Wrong(names["Gradients"]):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return seg.Sample(*self.change(sample.image, sample.mask), sample.name)

    def train(change=None, model=None, dataset=None):
        dataset = Wrong(0) if dataset is None else dataset
        dataset.change = change
        seg.train(names["config"], model=model, train_set=names["Gradients"](0), val_set=dataset)

    with pytest.raises(
        seg.UserError, match=r"val_set: Wrong\[0\]: expected an image uint8 or float32\[h, w, c\].*found float64"
    ):
        train(lambda image, mask: (image / 255, mask))
    with pytest.raises(seg.UserError, match=r"val_set: Wrong\[0\]: expected labels 0…1, or 255 to ignore, found 2"):
        train(lambda image, mask: (image, mask + 1))
    with pytest.raises(seg.UserError, match="val_set: expected a subclass of seg.SegmentationDataset, found Event"):
        train(dataset=threading.Event())
    with pytest.raises(seg.UserError, match=r"model: expected logits .*2\] of .*found float32\[1, 32, 32, 3\]"):
        train(lambda *sample: sample, names["TwoConvolutions"](3))
    assert len(list((folder / "runs").glob("*own_parts*"))) == 1


def test_a_hook_listens_to_the_steps(page):
    names, _ = page
    steps = []

    class Steps(seg.Hook):
        def on_step(self, info):
            steps.append(info.step)

    seg.train(resume=names["run"].path, overrides=["training.num_epochs=2"], hooks=[Steps()], **parts_of(names))
    assert steps == [3, 4]


def parts_of(names):
    """Return the parts that the run of the page was trained with."""
    sets = {"train_set": names["Gradients"](0), "val_set": names["Gradients"](100)}
    return sets | {"model": names["TwoConvolutions"](2), "loss": names["brier_loss"]}
