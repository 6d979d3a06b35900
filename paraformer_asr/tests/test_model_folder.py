import dataclasses
import hashlib
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from asr import export
from asr.checkpoints import CheckpointStore
from asr.cli import run_command
from asr.config import (
    Config,
    DecoderConfig,
    EncoderConfig,
    FeaturesConfig,
    InferenceConfig,
    ModelConfig,
)
from asr.errors import UserError
from asr.inference.checksums import CheckedFolder
from asr.inference.exported_program import num_samples
from asr.inference.model_folder import load_weights, save_model_folder
from asr.inference.shapes import Shape
from asr.inference.transcriber import Transcriber, load_transcriber
from asr.record.run_dir import create_run_dir
from tiny_model import CMVN, NUM_MELS, RATE_HZ, TOKENIZER, random_variables

CONFIG = Config(
    features=FeaturesConfig(num_mels=NUM_MELS, sample_rate_hz=RATE_HZ),
    model=ModelConfig(
        vocab_size=TOKENIZER.vocab_size,
        encoder=EncoderConfig(num_layers=1, width=16, num_heads=2, ffn_width=16, kernel_size=3, attention="xla"),
        decoder=DecoderConfig(num_layers=1, num_ffn_layers=0, num_heads=2, ffn_width=16, kernel_size=3),
    ),
    inference=InferenceConfig(batch_size=3, max_segment_s=2),
)
VARIABLES = random_variables(CONFIG.model)


def random_waves():
    """Three sounds: one that fills the program's length, one with few tokens, one without a frame."""
    rng = np.random.default_rng(0)
    return [(0.2 * rng.standard_normal(n)).astype(np.float32) for n in (num_samples(CONFIG), 3000, 100)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    save_model_folder(folder, CONFIG, TOKENIZER, CMVN, VARIABLES)
    return folder


def copy(folder, target):
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_loaded_folder_gives_back_what_was_saved(model_folder):
    loaded = load_transcriber(model_folder)
    assert loaded.config == CONFIG
    assert loaded.tokenizer == TOKENIZER
    np.testing.assert_array_equal(loaded.cmvn.shift, CMVN.shift)
    np.testing.assert_array_equal(loaded.cmvn.scale, CMVN.scale)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, VARIABLES)
    assert {file.name for file in model_folder.iterdir()} == {
        "README.txt",
        "checksums.txt",
        "cmvn.txt",
        "config.yaml",
        "model.stablehlo",
        "tokenizer.json",
        "weights.safetensors",
    }


PLAIN_SCRIPT = """
import sys
import numpy
given = numpy.load("given.npz")
waves, lengths = given["waves"], given["lengths"]
{lines}
assert not [name for name in sys.modules if name.split(".")[0] in ("asr", "flax")]
numpy.savez("found.npz", tokens=tokens, confidence=confidence, start=start, end=end, counts=counts)
"""


def test_the_lines_of_the_readme_run_in_a_plain_jax_program(model_folder, tmp_path, monkeypatch):
    folder = copy(model_folder, tmp_path / "model")
    readme = (folder / "README.txt").read_text()
    lines = [line.strip() for line in readme.splitlines() if line.startswith("    ")][3:]
    assert len(lines) == 7
    assert lines[4] == "waves, lengths = numpy.zeros((1, 16000), numpy.float32), numpy.array([8000], numpy.int32)"
    lines.pop(4)
    waves = random_waves()  # three sounds: the batch size is free
    padded_bn = np.stack([np.pad(wave, (0, 16000 - len(wave))) for wave in waves])
    np.savez(folder / "given.npz", waves=padded_bn, lengths=np.array([len(wave) for wave in waves], np.int32))
    script = PLAIN_SCRIPT.format(lines="\n".join(lines))
    printed = subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, capture_output=True, text=True)
    monkeypatch.setattr("asr.inference.programs.row_counts", lambda *_: (34,))  # the program has three numbers
    transcriber = Transcriber(CONFIG, TOKENIZER, CMVN, VARIABLES)
    transcriber.warm_up([Shape(3, 16000)])
    texts = []
    with np.load(folder / "found.npz") as found:
        for row, (_, expected) in enumerate(transcriber.recognise_many(enumerate(waves))):
            real = slice(found["counts"][row])
            np.testing.assert_array_equal(found["tokens"][row, real], expected.ids)
            np.testing.assert_allclose(found["confidence"][row, real], expected.confidence, atol=1e-3)
            np.testing.assert_allclose(found["start"][row, real], expected.start_s, atol=1e-3)
            np.testing.assert_allclose(found["end"][row, real], expected.end_s, atol=1e-3)
            texts.append([TOKENIZER.tokens[i] for i in expected.ids])
        assert list(map(len, texts)) == found["counts"].tolist()
    assert printed.stdout == f"{texts}\n"
    assert len(texts[0]) > 10 > len(texts[1]) > 0 == len(texts[2])  # else the comparison says little


def test_a_changed_byte_is_found(model_folder, tmp_path):
    weights = copy(model_folder, tmp_path / "model") / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.safetensors.*SHA-256 differs"):
        load_transcriber(weights.parent)


SMALL = ["config.yaml", "tokenizer.json", "cmvn.txt", "model.stablehlo", "README.txt"]


@pytest.mark.parametrize("name", SMALL)
def test_every_file_is_held_against_its_checksum_and_a_meant_change_can_be_noted(model_folder, tmp_path, name):
    path = copy(model_folder, tmp_path / "model") / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UserError, match=f"{path}: is not as it was written") as error:
        load_transcriber(path.parent)
    command = re.search("`(sha256sum .*)`", str(error.value))[1].split()
    line = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=True).stdout
    lines = (path.parent / "checksums.txt").read_text().splitlines(keepends=True)
    (path.parent / "checksums.txt").write_text("".join(line if name in old else old for old in lines))
    load_transcriber(path.parent)


@pytest.mark.parametrize("name", SMALL)
def test_a_listed_file_that_is_missing_and_a_file_that_is_not_listed_are_named(model_folder, tmp_path, name):
    folder = copy(model_folder, tmp_path / "model")
    lines = (folder / "checksums.txt").read_text().splitlines(keepends=True)
    (folder / "checksums.txt").write_text("".join(line for line in lines if name not in line))
    if name in ("model.stablehlo", "README.txt"):
        load_transcriber(folder)  # nobody reads it
    else:
        with pytest.raises(UserError, match=f"checksums.txt: has no checksum of {name}"):
            load_transcriber(folder)
    (folder / "checksums.txt").write_text("".join(lines))
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        load_transcriber(folder)


def test_a_file_that_is_not_read_does_no_harm(model_folder, tmp_path):
    folder = copy(model_folder, tmp_path / "model")
    (folder / "notes of mine.txt").write_text("good")
    (folder / "samples").mkdir()
    load_transcriber(folder)


@pytest.mark.parametrize("name", [*SMALL, "checksums.txt"])
def test_a_pipe_in_the_place_of_a_file_is_named_at_once(model_folder, tmp_path, name):
    folder = copy(model_folder, tmp_path / "model")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=name):
        load_transcriber(folder)


def test_checksums_without_an_end_and_in_another_form_are_named(model_folder, tmp_path):
    folder = copy(model_folder, tmp_path / "model")
    path = folder / "checksums.txt"
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    with pytest.raises(UserError, match=f"{path}: expected at most"):
        load_transcriber(folder)
    for line in ("0" * 64 + "  ../../etc/passwd", "0" * 64 + " ..", "0" * 63 + "  config.yaml", "\x1b[2J"):
        path.write_text(line + "\n")
        with pytest.raises(UserError, match=f"{path}:1: expected the SHA-256") as error:
            load_transcriber(folder)
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
        load_transcriber(folder)
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
        weights["params/encoder/block1/moved"] = weights.pop("params/decoder/output/bias")
        weights["params/decoder/output/kernel"] = weights["params/decoder/output/kernel"].astype(np.float16)

    forge(folder, change)
    with pytest.raises(UserError) as error:
        load_transcriber(folder)
    found = {line.strip().split(":")[0] for line in str(error.value).splitlines() if line.startswith("  params")}
    assert found == {
        "params/surplus",
        "params/encoder/block1/moved",
        "params/decoder/output/bias",
        "params/decoder/output/kernel",
    }
    assert str(folder) in str(error.value)
    assert "float16" in str(error.value)


@pytest.mark.parametrize("name", ["params/encoder/block0/qkv/kernel/more", "params", "", "a//b", "x\x1b[2J/"])
def test_arrays_whose_names_make_no_tree_are_named(name, model_folder, tmp_path):
    folder = copy(model_folder, tmp_path / "model")
    forge(folder, lambda weights: weights.update({name: np.zeros(2, np.float32)}))
    with pytest.raises(UserError, match=r"weights\.safetensors: .* the array .* does not fit into a tree") as error:
        load_weights(CheckedFolder(folder), CONFIG)
    assert str(error.value).isprintable()


def test_a_dtype_that_numpy_has_not_is_named(model_folder, tmp_path):
    folder = copy(model_folder, tmp_path / "model")
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"U32"', 1))
    renew_checksums(folder)
    with pytest.raises(UserError, match=r"model"):
        load_weights(CheckedFolder(folder), CONFIG)


def test_a_damaged_file_or_a_missing_checksum_is_a_user_error(model_folder, tmp_path):
    folder = copy(model_folder, tmp_path / "model")
    (folder / "weights.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{garbage")
    (folder / "checksums.txt").unlink()
    with pytest.raises(UserError, match=r"checksums\.txt"):
        load_transcriber(folder)
    renew_checksums(folder)
    with pytest.raises(UserError, match=r"weights\.safetensors: cannot be read as safetensors"):
        load_transcriber(folder)


def test_an_exported_model_has_nothing_to_average(model_folder):
    with pytest.raises(UserError, match="--average 2: .* is an exported model"):
        load_transcriber(model_folder, average=2)


def run_export(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(export.main)
    return end.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose averaged weights differ from the others; its last checkpoint differs from its best."""
    config = dataclasses.replace(CONFIG, runs_dir=str(tmp_path_factory.mktemp("runs")))
    run = create_run_dir(config, TOKENIZER, CMVN)
    store = CheckpointStore(run.checkpoints)
    for step, (seed, score) in enumerate([(1, 0.1), (2, 0.2)]):
        state = {
            **random_variables(CONFIG.model, seed + 10),
            "ema_params": random_variables(CONFIG.model, seed)["params"],
        }
        store.save(step, jax.device_put(state), {}, score=(score,))
    return run.path


@pytest.fixture
def without_program(monkeypatch):
    """Leave the program of an exported model empty; it takes longest, and is the same as in `model_folder`."""
    monkeypatch.setattr("asr.inference.model_folder.export_program", lambda *_: b"")


def test_the_command_exports_the_averaged_weights_of_the_best_checkpoint(
    run, without_program, tmp_path, monkeypatch, capsys
):
    assert run_export(monkeypatch, "--run", run, "--out", tmp_path / "model", "inference.batch_size=1") == 0
    assert str(tmp_path / "model") in capsys.readouterr().out
    loaded = load_transcriber(tmp_path / "model")
    assert loaded.config.inference.batch_size == 1
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, VARIABLES)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_existing_folder_is_replaced_with_force_only(
    run, model_folder, without_program, tmp_path, monkeypatch, capsys
):
    folder = copy(model_folder, tmp_path / "model")
    (folder / "old").touch()
    assert run_export(monkeypatch, "--run", run, "--out", folder) == 2
    assert "--force" in capsys.readouterr().err
    assert (folder / "old").exists()
    assert run_export(monkeypatch, "--run", run, "--out", folder, "--checkpoint", "last", "--force") == 0
    assert not (folder / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    jax.tree.map(np.testing.assert_array_equal, load_transcriber(folder).variables, random_variables(CONFIG.model, 2))


def test_force_does_not_replace_what_is_no_exported_model(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.txt").touch()
    assert run_export(monkeypatch, "--run", run, "--out", tmp_path, "--force") == 2
    assert "which this is not" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_a_failed_export_leaves_nothing(without_program, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("asr.inference.model_folder.save_config", fail)
    with pytest.raises(UserError, match="No space left"):
        save_model_folder(tmp_path / "model", CONFIG, TOKENIZER, CMVN, VARIABLES)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_weights_are_not_finite_does_not_predict(tmp_path):
    run, variables = (
        create_run_dir(dataclasses.replace(CONFIG, runs_dir=str(tmp_path)), TOKENIZER, CMVN),
        random_variables(CONFIG.model, 1),
    )
    leaves, structure = jax.tree.flatten(variables)
    leaves[0] = np.full_like(leaves[0], np.nan)
    CheckpointStore(run.checkpoints).save(1, jax.device_put(structure.unflatten(leaves)), {}, score=(1.0,))
    with pytest.raises(UserError, match=f"{run.path}: weights are NaN or infinite in "):
        load_transcriber(run.path)
