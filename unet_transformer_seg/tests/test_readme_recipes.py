"""The recipes of the README and docs/published_models.md, verbatim, on every kind of model: each starts a run."""

import argparse
import dataclasses
import functools
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from seg.api import load_initial
from seg.checkpoints.arrays import named_arrays
from seg.classes import make_class_table
from seg.config import Config, DataConfig, ModelConfig, ResNetUNetConfig, TransformerConfig, TransUNetConfig
from seg.inference.model_folder import save_model_folder
from seg.models import abstract_variables
from seg.published.mapping import export_arrays
from seg.published.milesial import milesial_pairs, with_counters
from seg.published.published_model import open_published
from seg.published.smp import smp_pairs
from seg.published.torch_writer import write_torch_file
from seg.published.transunet import transunet_pairs
from seg.train import read_config
from seg.training.setup import build_setup

PROJECT = Path(__file__).parents[1]
PAGES = "".join((PROJECT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/published_models.md"))
RECIPES = {name: text for text, name in re.findall(r"```yaml\n(# (\w+)\.yaml.*?)```", PAGES, re.DOTALL)}
COMMANDS = re.findall(r"^(?:python -m seg\.|seg )train (.*?)(?:\s+#.*)?$", PAGES, re.MULTILINE)
CLASSES = ("background", "road", "car")
TRANSUNET = TransUNetConfig(
    resnet_width=2,
    resnet_units=(1, 1, 1),
    hidden_width=4,
    num_layers=1,
    num_heads=2,
    mlp_width=6,
    position_grid=(2, 2),
    bridge_width=4,
    decoder_widths=(4, 3, 3, 2),
)
RESNET_UNET = ResNetUNetConfig(units=(1, 1, 1, 1), encoder_width=2, decoder_widths=(4, 3, 3, 2, 2))
SIZES = {
    "unet": ModelConfig(name="unet", num_classes=3, base_width=4, depth=2),
    "unet with auxiliary heads": ModelConfig(name="unet", num_classes=3, base_width=4, depth=2, deep_supervision=True),
    "unet_transformer": ModelConfig(
        num_classes=3, base_width=2, depth=2, transformer=TransformerConfig(num_layers=1, num_heads=1)
    ),
    "transunet": ModelConfig(name="transunet", num_classes=3, transunet=TRANSUNET),
    "resnet_unet": ModelConfig(name="resnet_unet", num_classes=3, resnet_unet=RESNET_UNET),
}
CONVERTED = {
    "milesial": ("unet", milesial_pairs, {}),
    "transunet": ("transunet", transunet_pairs, {"num_heads": 2}),
    "smp": ("resnet_unet", smp_pairs, {}),
}
MODELS = [*SIZES, *(f"converted {kind}" for kind in CONVERTED)]


def filled(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract_variables(model))


def write_model(folder, name, classes):
    """Write a model folder of a kind, a converted one by way of a file of weights."""
    if name in SIZES:
        config = Config(model=SIZES[name], data=DataConfig(size=(32, 32)))
        save_model_folder(folder, config, make_class_table(classes), filled(SIZES[name]))
        return
    kind = name.removeprefix("converted ")
    size, pairs, settings = CONVERTED[kind]
    arrays = {key: np.asarray(array) for key, array in named_arrays(filled(SIZES[size])).items()}
    write_torch_file(folder.with_suffix(".pth"), with_counters(export_arrays(pairs(SIZES[size]), arrays)))
    save_model_folder(folder, *open_published(kind, folder.with_suffix(".pth"), names=classes, **settings))


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """Return a function `(kind, classes) → model folder`, which writes each one once."""

    @functools.cache
    def make(name, classes):
        folder = tmp_path_factory.mktemp("model") / "folder"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("seg.inference.model_folder.export_program", lambda *_: b"")
            write_model(folder, name, classes)
        return folder

    return make


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder to work in, with images and masks in my_data, where the README's commands are typed."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for part in ("images", "labels"):
            (tmp_path / "my_data" / split / part).mkdir(parents=True)
        for number in range(8 if split == "train" else 2):
            folder = tmp_path / "my_data" / split
            Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(folder / f"images/{number}.jpg")
            Image.fromarray(rng.integers(0, 3, (24, 32), np.uint8)).save(folder / f"labels/{number}.png")
    for name, text in RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def begin(*overrides, config, init=None):
    """Return the setup of a run as `seg.train` builds it."""
    given = argparse.Namespace(config=Path(config), init=init, resume=None, overrides=list(overrides))
    config = read_config(given)
    return build_setup(config, initial=load_initial(config.init) if config.init else None)


def test_the_recipes_and_their_commands_are_those_of_the_pages():
    assert {"my_config", "tune"} <= set(RECIPES)
    assert "--config my_config.yaml" in COMMANDS and "--config tune.yaml --init model_folder" in COMMANDS


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("classes", [CLASSES, ("a", "b", "c")], ids=["same classes", "other classes"])
def test_fine_tuning_begins_on_every_kind_of_model(desk, model_of, name, classes):
    shutil.copytree(model_of(name, classes), desk / "model_folder")
    setup = begin("training.batch_size=2", config="tune.yaml", init="model_folder")
    taken, *others = setup.warm_start.lines
    number, total = map(int, re.search(r"(\d+) of (\d+) arrays", taken).groups())
    assert number == total if classes == CLASSES else number < total
    assert [line.split(":")[0] for line in others] == ([] if classes == CLASSES else ["new"])
    assert setup.classes.names == CLASSES


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("groups", ["freeze: [encoder]", "rate_factors: {encoder: 0.1, heads: 2}", "layer_decay: 0.8"])
def test_the_groups_that_the_readme_names_are_there_in_every_model(desk, model_of, name, groups):
    assert groups in PAGES.replace("optimizer.", "")
    shutil.copytree(model_of(name, CLASSES), desk / "model_folder")
    text = re.sub("freeze: .*]", groups, RECIPES["tune"])
    (desk / "tune.yaml").write_text(text, encoding="utf-8")
    setup = begin("training.batch_size=2", config="tune.yaml", init="model_folder")
    assert setup.config.optimizer != dataclasses.replace(Config().optimizer, learning_rate=1e-4)


def test_own_data_in_five_lines_begin(desk):
    assert begin("training.num_epochs=1", config="my_config.yaml").num_steps >= 1
