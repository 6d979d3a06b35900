"""Confusions of spelled letters: counted from the tables of evaluations, and drawn."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image

from asr.cli import run_command

SCRIPT = Path(__file__).parents[1] / "scripts" / "draw_letter_confusions.py"


@pytest.fixture
def letters():
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("draw_letter_confusions", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_scores(folder, *pairs):
    folder.mkdir()
    with (folder / "utterances.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "reference", "hypothesis"])
        writer.writerows((f"utterance {i}", *pair) for i, pair in enumerate(pairs))
    return folder


def draw(letters, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["draw", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(letters.main)
    return end.value.code


def test_letters_are_counted_by_what_was_understood(letters):
    counts = letters.count_letters([("A B seven", "a P seven"), ("C D", "C"), ("E F", "E fifty"), ("one", "W")])
    found = {("A", "A"): 1, ("B", "P"): 1, ("C", "C"): 1, ("D", "nothing"): 1, ("E", "E"): 1, ("F", "other word"): 1}
    assert counts == found
    assert letters.share_among_rhymes(counts) == (1, 1)
    assert letters.share_among_rhymes(letters.count_letters([("A M É", "O N E")])) == (1, 3)


def test_letters_that_rhyme_stand_side_by_side(letters):
    assert letters.order_letters("ABCKFÉ") == ["B", "C", "A", "K", "F", "É"]


def test_several_runs_are_added_up_and_drawn(letters, tmp_path, monkeypatch, capsys):
    first = write_scores(tmp_path / "seed0", ("F M", "S N"), ("A", "A"))
    second = write_scores(tmp_path / "seed1", ("F M", "S M"), ("A", "O"))
    assert draw(letters, monkeypatch, "--out", tmp_path / "letters.png", first, second) == 0
    shown = capsys.readouterr().out
    assert "6 spelled letters, 2 understood; 4 taken for another, 3 of them rhyme" in shown
    assert "    2  F → S" in shown
    with Image.open(tmp_path / "letters.png") as picture:
        assert picture.width > 300
    assert {path.name for path in tmp_path.iterdir()} == {"seed0", "seed1", "letters.png"}


def test_what_cannot_be_counted_is_refused(letters, tmp_path, monkeypatch, capsys):
    words = write_scores(tmp_path / "words", ("one two", "one"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "utterances.csv").write_text("a,b\n1,2\n")
    for folder, out, message in [
        (words, "x.png", "no reference holds a word of one letter"),
        (tmp_path / "missing", "x.png", "utterances.csv: No such file or directory; expected a folder that"),
        (tmp_path / "other", "x.png", "expected the table with reference and hypothesis"),
        (words, "x.jpg", "expected a .png file in a folder that is there"),
    ]:
        assert draw(letters, monkeypatch, "--out", tmp_path / out, folder) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))
