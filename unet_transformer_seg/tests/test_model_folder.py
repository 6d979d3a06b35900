import dataclasses
import hashlib
import os
import re
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from seg import export
from seg.checkpoints import CheckpointStore
from seg.classes import make_class_table
from seg.cli import run_command
from seg.config import Config, DataConfig, InferenceConfig, ModelConfig, TransformerConfig
from seg.errors import UserError
from seg.inference.model_folder import describe_model, save_model_folder
from seg.inference.predictor import Predictor, load_predictor
from seg.models import build_model
from seg.record.run_dir import create_run_dir

CLASSES = make_class_table(("sky", "road", "tree"))
CONFIG = Config(
    model=ModelConfig(
        name="unet_transformer",
        num_classes=3,
        base_width=8,
        depth=2,
        transformer=TransformerConfig(num_layers=2, num_heads=4),
    ),
    data=DataConfig(size=(16, 24)),
    inference=InferenceConfig(batch_size=2, mirror=True, scales=(1.5,), logit_shift=(0.0, 0.5, -0.5)),
)


def random_variables(seed):
    model, rng = build_model(CONFIG.model), np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), np.zeros((1, 16, 24, 3)))

    def draw(path, leaf):
        base = 1.0 if path[-1].key in ("scale", "var") else 0.0
        return (base + rng.uniform(-0.25, 0.25, leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


VARIABLES = random_variables(1)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    save_model_folder(folder, CONFIG, CLASSES, VARIABLES)
    return folder


def copy(folder, target):
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def probabilities(predictor):
    whole = [np.concatenate([b.probabilities for b in predictor.predict_bands(image)]) for image in IMAGES]
    return np.stack(whole)


def test_a_loaded_folder_gives_back_what_was_saved(model_folder):
    loaded = load_predictor(model_folder)
    assert loaded.config == CONFIG
    assert loaded.classes == CLASSES
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, VARIABLES)


PLAIN_SCRIPT = """
import sys
import numpy
images = numpy.load("images.npy")
{lines}
assert not [name for name in sys.modules if name.split(".")[0] in ("seg", "flax")]
numpy.save("probabilities.npy", numpy.asarray(probabilities))
"""


def test_the_readme_names_the_values_of_masks_that_are_no_class_numbers():
    classes = dataclasses.replace(CLASSES, mask_values=tuple(range(0, 10 * len(CLASSES), 10)))
    stated = ", ".join(f"{name} {10 * label}" for label, name in enumerate(CLASSES.names))
    assert stated in describe_model(CONFIG, classes) and "--values" not in describe_model(CONFIG, CLASSES)


def test_the_lines_of_the_readme_run_in_a_plain_jax_program(model_folder, tmp_path):
    folder = copy(model_folder, tmp_path / "model")
    readme = (folder / "README.txt").read_text()
    lines = [line.strip() for line in readme.splitlines() if line.startswith("    ")][2:]
    assert len(lines) == 5
    assert lines[-2] == "images = numpy.zeros((1, 16, 24, 3), numpy.uint8)"
    lines.pop(-2)
    np.save(folder / "images.npy", IMAGES)  # three images: the batch size is free
    script = PLAIN_SCRIPT.format(lines="\n".join(lines))
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    expected_bhwk = probabilities(Predictor(CONFIG, CLASSES, VARIABLES))
    np.testing.assert_allclose(np.load(folder / "probabilities.npy"), expected_bhwk, atol=1e-5)
    assert expected_bhwk.std() > 0.05  # else the comparison says little


PICTURE_SCRIPT = """
import jax.export, numpy, sys
weights, program = None, jax.export.deserialize(bytearray(open("program", "rb").read()))
{lines}
assert not [name for name in sys.modules if name.split(".")[0] in ("seg", "flax")]
numpy.save("mask.npy", mask)
"""


@pytest.mark.parametrize(
    ("fit", "inference"),
    [("resize", {}), ("crop", {}), ("resize", {"scale": "native"}), ("resize", {"scale": 0.5})],
    ids=str,
)
def test_the_readme_brings_a_picture_to_the_program_as_the_predictor_does(tmp_path, fit, inference):
    """With a program that answers each pixel for itself, windows without overlap say what blended ones say."""
    data = dataclasses.replace(CONFIG.data, fit=fit)
    config = dataclasses.replace(CONFIG, data=data, inference=InferenceConfig(batch_size=1, **inference))

    def probabilities_of(weights, windows_bhwc):
        scores_bhwc = windows_bhwc.astype("float32") + 1
        return scores_bhwc / scores_bhwc.sum(-1, keepdims=True)

    shape = jax.ShapeDtypeStruct((1, 16, 24, 3), np.uint8)
    program = jax.export.export(jax.jit(probabilities_of))(None, shape)
    (tmp_path / "program").write_bytes(program.serialize())
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8))
    picture = coarse.resize((70, 41), Image.Resampling.BILINEAR)
    picture.save(tmp_path / "photo.png")
    lines = [line[2:] for line in describe_model(config, CLASSES).splitlines() if line[:2] == "  " and line[2] != " "]
    script = PICTURE_SCRIPT.format(lines="\n".join(lines))
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    predictor = Predictor(config, CLASSES, None, jax.jit(lambda windows: probabilities_of(None, windows)))
    expected_hw = predictor.predict(np.array(picture)).labels
    found_hw = np.load(tmp_path / "mask.npy")
    assert found_hw.shape == expected_hw.shape == (41, 70) and len(np.unique(expected_hw)) == 3
    assert (found_hw != expected_hw).mean() < 0.005  # ties


def test_a_changed_byte_is_found(model_folder, tmp_path):
    weights = copy(model_folder, tmp_path / "model") / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.safetensors.*SHA-256 differs"):
        load_predictor(weights.parent)


SMALL = ["config.yaml", "classes.json", "model.stablehlo", "README.txt"]


@pytest.mark.parametrize("name", SMALL)
def test_every_file_is_held_against_its_checksum_and_a_meant_change_can_be_noted(model_folder, tmp_path, name):
    path = copy(model_folder, tmp_path / "model") / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UserError, match=f"{path}: is not as it was written") as error:
        load_predictor(path.parent)
    command = re.search("`(sha256sum .*)`", str(error.value))[1].split()
    line = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=True).stdout
    lines = (path.parent / "checksums.txt").read_text().splitlines(keepends=True)
    (path.parent / "checksums.txt").write_text("".join(line if name in old else old for old in lines))
    load_predictor(path.parent)


@pytest.mark.parametrize("name", SMALL)
def test_a_listed_file_that_is_missing_and_a_file_that_is_not_listed_are_named(model_folder, tmp_path, name):
    folder = copy(model_folder, tmp_path / "model")
    lines = (folder / "checksums.txt").read_text().splitlines(keepends=True)
    (folder / "checksums.txt").write_text("".join(line for line in lines if name not in line))
    if name in ("model.stablehlo", "README.txt"):
        load_predictor(folder)  # nobody reads it
    else:
        with pytest.raises(UserError, match=f"checksums.txt: has no checksum of {name}"):
            load_predictor(folder)
    (folder / "checksums.txt").write_text("".join(lines))
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        load_predictor(folder)


def test_a_file_that_is_not_read_does_no_harm(model_folder, tmp_path):
    folder = copy(model_folder, tmp_path / "model")
    (folder / "notes of mine.txt").write_text("good")
    (folder / "samples").mkdir()
    load_predictor(folder)


@pytest.mark.parametrize("name", [*SMALL, "checksums.txt"])
def test_a_pipe_in_the_place_of_a_file_is_named_at_once(model_folder, tmp_path, name):
    folder = copy(model_folder, tmp_path / "model")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=name):
        load_predictor(folder)


def test_checksums_without_an_end_and_in_another_form_are_named(model_folder, tmp_path):
    folder = copy(model_folder, tmp_path / "model")
    path = folder / "checksums.txt"
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    with pytest.raises(UserError, match=f"{path}: expected at most"):
        load_predictor(folder)
    for line in ("0" * 64 + "  ../../etc/passwd", "0" * 64 + " ..", "0" * 63 + "  config.yaml", "\x1b[2J"):
        path.write_text(line + "\n")
        with pytest.raises(UserError, match=f"{path}:1: expected the SHA-256") as error:
            load_predictor(folder)
        assert str(error.value).isprintable()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(model_folder, tmp_path, value):
    folder = copy(model_folder, tmp_path / "model")
    name = []

    def change(weights):
        name.append(sorted(weights)[3])
        weights[name[0]] = weights[name[0]].copy()
        weights[name[0]].reshape(-1)[-1] = value

    forge(folder, change)
    with pytest.raises(UserError, match="weights are NaN or infinite in ") as error:
        load_predictor(folder)
    assert name[0] in str(error.value)


def renew_checksums(folder):
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in folder.iterdir()]
    (folder / "checksums.txt").write_text("".join(lines))


def forge(folder, change):
    """Change the arrays of a model folder, with a checksum that fits."""
    weights = load_file(folder / "weights.safetensors")
    change(weights)
    save_file(weights, folder / "weights.safetensors")
    renew_checksums(folder)


def test_weights_that_contradict_the_config_are_listed(model_folder, tmp_path):
    folder = copy(model_folder, tmp_path / "model")

    def change(weights):
        weights["params/surplus"] = np.zeros(2, np.float32)
        weights["params/encoder/stage1/moved"] = weights.pop("params/heads/pixel/bias")
        weights["params/heads/pixel/kernel"] = weights["params/heads/pixel/kernel"].astype(np.float16)

    forge(folder, change)
    with pytest.raises(UserError) as error:
        load_predictor(folder)
    found = {line.strip().split(":")[0] for line in str(error.value).splitlines() if line.startswith("  params")}
    assert found == {
        "params/surplus",
        "params/encoder/stage1/moved",
        "params/heads/pixel/bias",
        "params/heads/pixel/kernel",
    }
    assert str(folder) in str(error.value)
    assert "float16" in str(error.value)


def test_a_damaged_file_or_a_missing_checksum_is_a_user_error(model_folder, tmp_path):
    folder = copy(model_folder, tmp_path / "model")
    (folder / "weights.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{garbage")
    (folder / "checksums.txt").unlink()
    with pytest.raises(UserError, match=r"checksums\.txt"):
        load_predictor(folder)
    renew_checksums(folder)
    with pytest.raises(UserError, match=r"weights\.safetensors: cannot be read as safetensors"):
        load_predictor(folder)


def run_export(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(export.main)
    return end.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose averaged weights differ from the others; its last checkpoint differs from its best."""
    run = create_run_dir(Config(**{**vars(CONFIG), "runs_dir": str(tmp_path_factory.mktemp("runs"))}), CLASSES)
    store = CheckpointStore(run.checkpoints)
    for step, (seed, best) in enumerate([(1, True), (2, False)]):
        averaged = random_variables(seed)
        plain = random_variables(seed + 10)
        state = {**plain, "ema_params": averaged["params"], "ema_batch_stats": averaged["batch_stats"]}
        store.save(step, jax.device_put(state), {}, best=best)
    return run.path


def test_the_command_exports_the_averaged_weights_of_the_best_checkpoint(run, tmp_path, monkeypatch, capsys):
    assert run_export(monkeypatch, "--run", run, "--out", tmp_path / "model", "inference.batch_size=1") == 0
    assert str(tmp_path / "model") in capsys.readouterr().out
    loaded = load_predictor(tmp_path / "model")
    assert loaded.config.inference.batch_size == 1
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, VARIABLES)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_existing_folder_is_replaced_with_force_only(run, model_folder, tmp_path, monkeypatch, capsys):
    folder = copy(model_folder, tmp_path / "model")
    (folder / "old").touch()
    assert run_export(monkeypatch, "--run", run, "--out", folder) == 2
    assert "--force" in capsys.readouterr().err
    assert (folder / "old").exists()
    assert run_export(monkeypatch, "--run", run, "--out", folder, "--checkpoint", "last", "--force") == 0
    assert not (folder / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    jax.tree.map(np.testing.assert_array_equal, load_predictor(folder).variables, random_variables(2))


def test_force_does_not_replace_what_is_no_exported_model(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.txt").touch()
    assert run_export(monkeypatch, "--run", run, "--out", tmp_path, "--force") == 2
    assert "which this is not" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seg.inference.model_folder.save_config", fail)
    with pytest.raises(UserError, match="No space left"):
        save_model_folder(tmp_path / "model", CONFIG, CLASSES, VARIABLES)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_weights_are_not_finite_does_not_predict(tmp_path):
    run, variables = create_run_dir(Config(**{**vars(CONFIG), "runs_dir": str(tmp_path)}), CLASSES), random_variables(1)
    leaves, structure = jax.tree.flatten(variables)
    leaves[0] = np.full_like(leaves[0], np.nan)
    CheckpointStore(run.checkpoints).save(1, jax.device_put(structure.unflatten(leaves)), {}, best=True)
    with pytest.raises(UserError, match=f"{run.path}: weights are NaN or infinite in "):
        load_predictor(run.path)
