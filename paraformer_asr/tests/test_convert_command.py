"""The command that opens a model of FunASR and publishes one: files, answers, and what it says to wrong input."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
import yaml

from asr import convert, infer
from asr.cli import run_command
from asr.inference.loading import load_parts
from asr.published.funasr import load_funasr, save_funasr
from asr.published.torch_file import read_torch_file

RECORDED = Path(__file__).parent / "recorded" / "funasr_tiny"
SMALL = ["inference.batch_size=1", "inference.max_segment_s=1"]


def run(main, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code


@pytest.fixture
def run_convert(monkeypatch):
    return lambda *arguments: run(convert.main, monkeypatch, *arguments)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The model folder that the command makes of FunASR's."""
    folder = tmp_path_factory.mktemp("opened") / "model"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(convert.main, monkeypatch, "--from", "funasr", RECORDED, "--out", folder, *SMALL) == 0
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder that `save_funasr` wrote, with the content of the recorded one."""
    folder = tmp_path_factory.mktemp("published") / "model"
    folder.mkdir()
    save_funasr(folder, *load_funasr(RECORDED))
    return folder


def same_files(folder, other):
    assert {file.name for file in folder.iterdir()} == {file.name for file in other.iterdir()}
    for file in folder.iterdir():
        assert (other / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_opened_model_is_that_of_funasr(opened):
    """As `asr.infer --model` reads both folders, and the same arrays, tokens and normalisation are in them."""
    config, tokenizer, cmvn, variables = load_parts(opened)
    theirs, *others, their_variables = load_parts(RECORDED, overrides=SMALL)
    assert (config.model, config.inference) == (theirs.model, theirs.inference)
    assert (config.inference.batch_size, config.inference.max_segment_s) == (1, 1)
    assert tokenizer == others[0]
    np.testing.assert_array_equal(cmvn.shift, others[1].shift)
    np.testing.assert_array_equal(cmvn.scale, others[1].scale)
    jax.tree.map(np.testing.assert_array_equal, variables, their_variables)
    assert not [path for path in opened.parent.iterdir() if path != opened]


def test_sound_gives_the_text_that_funasr_gave(opened, tmp_path, monkeypatch, capsys):
    with np.load(RECORDED / "answers.npz") as answers:
        soundfile.write(tmp_path / "a.wav", answers["wave"], 16000)
        expected = str(answers["wave_text"])
    assert len(expected) > 5
    monkeypatch.setattr("asr.inference.programs.row_counts", lambda *_: (8,))  # one program spells
    assert run(infer.main, monkeypatch, "--model", opened, tmp_path / "a.wav") == 0
    assert capsys.readouterr().out == f"{expected}\n"


@pytest.mark.parametrize("source", ["opened", "published"])
def test_the_way_back_gives_the_same_files(source, request, published, tmp_path, run_convert, capsys):
    folder = tmp_path / published.name
    assert run_convert("--to", "funasr", request.getfixturevalue(source), "--out", folder) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: 0.1 MB")
    same_files(folder, published)
    found, expected = (read_torch_file(place / "model.pt").tensors for place in (folder, RECORDED))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_what_funasr_cannot_hold_is_refused_before_anything_is_made(opened, tmp_path, run_convert, capsys):
    out = tmp_path / "new" / "folder"
    assert run_convert("--to", "funasr", opened, "--out", out, "model.encoder.causal=true") == 2
    assert capsys.readouterr().err == "error: model.encoder.causal: FunASR's Paraformer has False, this model True\n"
    assert not out.parent.exists()


# Wrong input: one message, exit code 2, nothing run, nothing written.


def evil(folder):
    marker = folder / "marker"
    program = b"\x80\x02}X\x01\x00\x00\x00wcposix\nsystem\nX" + len(f"touch {marker}").to_bytes(4, "little")
    program += f"touch {marker}".encode() + b"\x85Rs."
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", program)


def cut(folder):
    content = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(content[: len(content) // 2])


def contradict(folder):
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["encoder_conf"]["num_blocks"] = 3
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def lengthen(folder):
    tokens = json.loads((folder / "tokens.json").read_text())
    (folder / "tokens.json").write_text(json.dumps([*tokens[:-1], "more", "<unk>"]))


def flip(folder):
    content = bytearray((folder / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.pt").write_bytes(content)


MISTAKES = {
    evil: "model.pt: refused without running any of it: its pickle asks for posix.system",
    cut: "model.pt: the file is truncated or damaged",
    contradict: "model.pt: 13 of its tensors do not fit the model:\n  encoder.encoders.1.feed_forward",
    lengthen: "tokens.json: 17 tokens, but model.pt was trained with 16",
    flip: "is damaged (its checksum differs)",
}


@pytest.mark.parametrize("damage", MISTAKES)
@pytest.mark.parametrize("direction", ["--from", "--to"])
def test_wrong_input_is_answered_and_nothing_is_written(damage, direction, tmp_path, run_convert, capsys):
    folder, before = Path(shutil.copytree(RECORDED, tmp_path / "in")), set(RECORDED.iterdir())
    damage(folder)
    assert run_convert(direction, "funasr", folder, "--out", tmp_path / "deep" / "out") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {folder}/")
    assert MISTAKES[damage] in err
    assert err.count("error: ") == 1
    assert {path.name for path in folder.iterdir()} == {path.name for path in before}
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_process_prints_one_message_and_no_traceback(tmp_path):
    """The mistake is found before jax is imported."""
    command = [sys.executable, "-X", "importtime", "-m", "asr.convert", "--from", "funasr", tmp_path, "--out", "x"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 2
    lines = [line for line in found.stderr.splitlines() if not line.startswith("import time:")]
    assert lines == [f"error: {tmp_path}: expected a model folder of FunASR, but it holds no config.yaml"]
    assert not [line for line in found.stderr.splitlines() if line.endswith((" jax", " numpy"))]
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_replaced_with_force_only(published, tmp_path, run_convert, capsys):
    folder = tmp_path / published.name
    folder.mkdir()
    (folder / "thesis.txt").touch()
    assert run_convert("--to", "funasr", RECORDED, "--out", folder) == 2
    assert "exists already; choose another --out, or replace it with --force" in capsys.readouterr().err
    assert run_convert("--to", "funasr", RECORDED, "--out", folder, "--force") == 2
    assert "which this is not" in capsys.readouterr().err
    assert run_convert("--from", "funasr", RECORDED, "--out", folder, "--force") == 2
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    shutil.rmtree(folder)
    shutil.copytree(RECORDED, folder)
    assert run_convert("--to", "funasr", RECORDED, "--out", folder, "--force") == 0
    same_files(folder, published)


def test_a_folder_may_be_replaced_by_its_own_model(published, tmp_path, run_convert):
    """The arrays are views of the file that is replaced."""
    folder = Path(shutil.copytree(RECORDED, tmp_path / published.name))
    assert run_convert("--to", "funasr", folder, "--out", folder, "--force") == 0
    same_files(folder, published)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "espnet", "x", "--out", "y"], "expected funasr, found 'espnet'"),
        (["--from", "funasr", "x", "--to", "funasr", "x", "--out", "y"], "not allowed with"),
        (["--out", "y"], "one of the arguments --from --to is required"),
        (["--from", "funasr", "x"], "--out"),
        (["--from", "funasr", RECORDED, "--out", "y", "inference.batch=1"], "did you mean 'inference.batch_size'"),
        (["--to", "funasr", "none", "--out", "y"], "none: no such folder"),
        (["--to", "funasr", RECORDED, "--out", "y", "features.preemphasis=0.9"], "features.preemphasis: FunASR's"),
        (
            ["--to", "funasr", RECORDED, "--out", "y", "features.utterance_mean=true"],
            "features.utterance_mean: FunASR's",
        ),
    ],
    ids=range(8),
)
def test_a_wrong_command_line_is_answered(arguments, said, tmp_path, run_convert, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_convert(*arguments) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
