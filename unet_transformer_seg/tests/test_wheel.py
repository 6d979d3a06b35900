"""The wheel, installed without the checkout: all that the README shows works from an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from seg.checkpoints.arrays import named_arrays
from seg.config import ModelConfig
from seg.models import abstract_variables
from seg.published.mapping import export_arrays
from seg.published.milesial import milesial_pairs, with_counters
from seg.published.torch_writer import write_torch_file

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python|yaml)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHORTER = {
    "toy_unet_transformer": "training.num_epochs=1 data.toy.num_train=8 data.toy.num_val=8 data.toy.num_test=8 "
    "model.base_width=4 model.depth=1 model.transformer.num_layers=1",
    "my_config.yaml": "training.num_epochs=1 data.size=[32,32] model.base_width=4 model.depth=1",
    "plan.yaml": "data.num_folds=2",
}
"""By config: settings that make its training short, and its model small."""
SMALL_PLAN = "training.num_epochs=1 data.size=[32,32] model.base_width=4 model.depth=1 inference.tile=[32,32]"
"""Settings that a plan keeps."""
IN_ONE_PROCESS = """
import glob, json, runpy, sys

def run_all(commands):
    for command in commands:
        sys.argv = [path for word in command for path in sorted(glob.glob(word)) or [word]]
        try:
            seg = sys.argv[0] == "seg"
            runpy.run_module("seg", run_name="__main__") if seg else runpy.run_path(sys.argv[-1], run_name="__main__")
        except SystemExit as end:
            assert not end.code, (command, end.code)

if __name__ == "__main__":  # the worker processes of the service import this file
    run_all(json.loads(sys.argv[1]))
"""
"""Runs commands of `seg` and scripts in one process: what takes longest in each of them is importing the libraries."""


def build_wheel(folder):
    source = folder / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if name.startswith(("src/", "configs/", "pyproject", "README")) and (PROJECT / name).exists():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (PROJECT / name).is_symlink():
                target.symlink_to((PROJECT / name).readlink())
            else:
                target.write_bytes((PROJECT / name).read_bytes())
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def pip(*arguments):
    subprocess.run([sys.executable, "-m", "pip", "-q", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """An environment with the wheel and the installed libraries of this one, and a folder to work in."""
    folder = tmp_path_factory.mktemp("wheel")
    venv.create(folder / "venv")
    python = folder / "venv/bin/python"
    (place,) = (folder / "venv/lib").glob("python*/site-packages")
    libraries = sysconfig.get_path("purelib")
    (place / "libraries.pth").write_text(f"{libraries}\n")
    pip("--python", python, "install", "--no-deps", "--no-index", build_wheel(folder))
    work = folder / "empty"
    work.mkdir()
    write_inputs(work)
    return python.parent, work


def write_inputs(folder):
    """Write what a user of the README brings along: a photo, a data set, and published weights."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(folder / "photo.jpg")
    (folder / "photos").mkdir()
    (folder / "photos/photo.jpg").write_bytes((folder / "photo.jpg").read_bytes())
    for split, number in (("train", 8), ("val", 2)):
        for part, high, shape in (("images", 255, (24, 32, 3)), ("labels", 3, (24, 32))):
            (folder / "my_data" / split / part).mkdir(parents=True)
            for i in range(number):
                picture = Image.fromarray(rng.integers(0, high, shape, np.uint8))
                picture.save(folder / "my_data" / split / part / f"{i}.{'png' if part == 'labels' else 'jpg'}")
    for part in ("cells/images", "cells/masks", "more_cells"):
        (folder / part).mkdir(parents=True)
    for i in range(20):
        numbers_hw = np.kron(np.pad(np.arange(1, 10).reshape(3, 3), 1), np.ones((7, 7))).astype(np.uint8)
        numbers_hw[numbers_hw > 3 + i % 7] = 0
        cells_hw = (40 + 150 * (numbers_hw > 0) + rng.integers(0, 20, numbers_hw.shape)).astype(np.uint8)
        Image.fromarray(cells_hw).save(folder / f"cells/images/{i}.png")
        Image.fromarray(numbers_hw).save(folder / f"cells/masks/{i}.png")
    Image.fromarray(cells_hw).save(folder / "more_cells/new.png")
    model = ModelConfig(name="unet", num_classes=2, base_width=4, depth=2)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    arrays = named_arrays(jax.tree.map(draw, abstract_variables(model)))
    write_torch_file(folder / "unet_carvana.pth", with_counters(export_arrays(milesial_pairs(model), arrays)))


def run(desk, command):
    scripts, work = desk
    environment = {"PATH": f"{scripts}:/usr/bin:/bin", "HOME": str(work), "JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("XLA_", "JAX_"))}
    done = subprocess.run(["bash", "-c", command], cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_wheel_is_what_is_imported(desk):
    origin = run(desk, "python -c 'import seg; print(seg.__file__)'")
    assert Path(origin.strip()).is_relative_to(desk[0].parent)
    assert "toy_unet_transformer" in run(desk, "seg configs") and "train" in run(desk, "seg --help")


def test_all_that_the_readme_shows_works_in_an_empty_folder(desk):
    commands = []
    for number, (kind, text) in enumerate(BLOCKS):
        if kind == "yaml":
            name = re.match(r"# (\S+)", text)[1]
            (desk[1] / name).write_text(text, encoding="utf-8")
        elif kind == "python":
            (desk[1] / f"example{number}.py").write_text(text, encoding="utf-8")
            commands.append(["python", f"example{number}.py"])
        else:
            lines = (line.partition(" #")[0] for line in text.splitlines() if not line.startswith("pip install"))
            commands += [shlex.split(shortened(line)) for line in lines]
    assert {command[0] for command in commands} == {"python", "seg"}
    (desk[1] / "commands.py").write_text(IN_ONE_PROCESS, encoding="utf-8")
    run(desk, f"python commands.py {shlex.quote(json.dumps(commands))}")
    results = ("labels.png", "overlay.png", "masks/photo.png", "carvana_masks/photo.png", "check.png")
    for name in (*results, "counted/new.png", "counted/new_objects.csv"):
        assert (desk[1] / name).exists(), name


def shortened(command):
    """Return a command of the README; one that trains takes a step or two, one that serves a few requests."""
    words = shlex.split(command)
    if words[:2] == ["seg", "serve"]:
        return f"{command} --selftest --batch-sizes 1 inference.batch_size=1"
    if words[:2] == ["seg", "plan"]:
        return f"{command} {SMALL_PLAN}"
    if words[:2] != ["seg", "train"]:
        return command
    return f"{command} {SHORTER[words[words.index('--config') + 1]]}"
