"""A damaged record of a run is named, whichever file it is: it resumes with a line, or a message says what to do."""

import os
import shutil
import sys

import pytest

import seg.train as command
from seg.errors import UserError
from seg.record.report import COLUMNS
from seg.record.results import read_rows
from seg.record.run_dir import APPENDED, FOLDERS, READ_OR_REPLACED

CONFIG = """
name: small
model: {name: unet, base_width: 4, depth: 1}
data: {size: [16, 16], num_threads: 0, toy: {num_train: 8, num_val: 4}}
optimizer: {name: sgd}
training: {batch_size: 4, num_epochs: 3, num_sample_pictures: 1, log_every_steps: 1}
"""

NOT_NEEDED = {"train.log", "environment.json", "results.csv", "metrics.json", "curves.png", "lock"}
"""Files without which a run resumes; most of them are missed with a line."""

CAN_BE_MISSING = {"record.json"}

SILENT = {("curves.png", None), ("lock", None), ("train.log", "truncated"), ("train.log", "garbage")}
"""What is drawn or written anew by itself, and what may say anything."""


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["seg.train", *map(str, arguments)])
        return command.main()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    (folder / "c.yaml").write_text(CONFIG)
    assert call("--config", folder / "c.yaml", f"runs_dir={folder / 'runs'}") == 0
    (run,) = (folder / "runs").iterdir()
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def fill_with_garbage(path):
    path.write_bytes(bytes(range(256)) * 4)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path):
    target = path.parent.parent / f"target of {path.name}"
    path.rename(target)
    path.symlink_to(target)


def remove(path):
    path.unlink()


DAMAGES = {
    "truncated": truncate,
    "emptied": empty,
    "garbage": fill_with_garbage,
    "a folder": replace_by_folder,
    "a pipe": replace_by_pipe,
    "missing": remove,
}
FILES = sorted({*READ_OR_REPLACED, *APPENDED} - {"stacks.txt"})


def test_these_are_the_files_of_a_run(finished):
    assert sorted(path.name for path in finished.iterdir() if path.is_file()) == FILES
    assert {path.name for path in finished.iterdir() if path.is_dir()} <= set(FOLDERS)


def bytes_of(run, without):
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in {"lock", "train.log", without})
    return {path.relative_to(run): path.read_bytes() for path in files}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_each_damaged_file_is_named(run, name, damage, capsys, caplog):
    DAMAGES[damage](run / name)
    before = bytes_of(run, name)
    try:
        assert call("--resume", run) == 0
    except UserError as error:
        assert str(run / name) in str(error)
        assert any(advice in str(error) for advice in ("put the file back", "put it back", "Put it back", "move")), (
            error
        )
        assert bytes_of(run, name) == before, "nothing may be lost or changed"
        assert name not in NOT_NEEDED or damage in ("a folder", "a pipe", "garbage", "truncated", "emptied")
        return
    assert name in NOT_NEEDED or (name in CAN_BE_MISSING and damage == "missing")
    told = capsys.readouterr().out + caplog.text
    if (name, None) not in SILENT and (name, damage) not in SILENT:
        assert name in told.replace("the record is in", ""), told
    left = bytes_of(run, name)
    for path in before:
        if path.name not in ("results.csv", "metrics.json"):  # written anew with the same content
            assert left[path] == before[path], path


@pytest.mark.parametrize("name", APPENDED)
def test_nothing_is_written_through_a_link(run, name):
    (run / name).touch()
    replace_by_link(run / name)
    target = (run.parent / f"target of {name}").read_bytes()
    with pytest.raises(UserError, match=f"{name}: "):
        call("--resume", run)
    assert (run.parent / f"target of {name}").read_bytes() == target


@pytest.mark.parametrize("name", ["checkpoints", "samples"])
def test_a_file_in_place_of_a_folder_is_named(run, name):
    shutil.rmtree(run / name)
    (run / name).write_text("x")
    with pytest.raises(UserError, match=f"{name}: expected a folder"):
        call("--resume", run)


def test_lost_checkpoints_do_not_begin_a_run_anew(run):
    rows = (run / "results.csv").read_bytes()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match=r"checkpoints: there is no checkpoint, although .* 3 times, last after step 6"):
        call("--resume", run)
    assert (run / "results.csv").read_bytes() == rows


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damaged_file_of_the_only_checkpoint_is_named(run, damage):
    steps = sorted((run / "checkpoints").iterdir())
    for folder in steps[:-1]:
        shutil.rmtree(folder)
    for path in [steps[-1] / "manifest.json", next(p for p in sorted(steps[-1].rglob("*")) if p.name == "_METADATA")]:
        kept = path.read_bytes()
        DAMAGES[damage](path)
        with pytest.raises(UserError, match="no checkpoint is intact"):
            call("--resume", run)
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(kept)
    assert call("--resume", run) == 0


def test_rows_that_are_missing_are_said(run, capsys):
    lines = (run / "results.csv").read_text().splitlines(keepends=True)
    (run / "results.csv").write_text("".join([lines[0], lines[3]]))
    assert call("--resume", run) == 0
    assert f"{run / 'results.csv'}: 2 earlier evaluations are missing, after the steps 2, 4" in capsys.readouterr().out
    assert [row["step"] for row in read_rows(run / "results.csv", COLUMNS)] == ["6"]
