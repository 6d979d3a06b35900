"""The scripts of the AN4 experiments: the rule that loses fires, and the drawn texts."""

import csv
import re
import runpy
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from asr.ops import cif

SCRIPTS = Path(__file__).parents[1] / "scripts"


def load(name):
    return runpy.run_path(str(SCRIPTS / name))


def run(name, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    return end.value.code


def test_the_rule_loses_the_fires_that_a_loop_over_float32_loses():
    rng = np.random.default_rng(0)
    alpha_bt = rng.uniform(0, 1, (200, 40)).astype(np.float32)
    tokens_b = rng.integers(1, 12, 200).astype(np.int32)
    level_b, fired_b = np.zeros(200, np.float32), np.zeros(200, int)
    for weight_b in (jnp.asarray(alpha_bt) * (tokens_b / jnp.asarray(alpha_bt).sum(1))[:, None]).T:
        level_b = level_b + np.asarray(weight_b)
        fired_b, level_b = fired_b + (level_b >= 1), np.where(level_b >= 1, level_b - 1, level_b)
    lost_b = fired_b < tokens_b
    assert 10 < lost_b.sum() < 190

    cumulative_bt = load("train_losing_fires.py")["lose_last_fire"](
        jnp.asarray(alpha_bt), alpha_bt > -1, jnp.asarray(tokens_b)
    )
    rows_bu = np.asarray(cif.align(cumulative_bt, 12).sum(2))
    for row_u, number, lost in zip(rows_bu, tokens_b, lost_b, strict=True):
        np.testing.assert_allclose(row_u[: number - 1], 1, atol=1e-5)
        assert row_u[number - 1] == (0 if lost else pytest.approx(1, abs=1e-5))


def test_texts_are_drawn_of_words_that_are_said_in_full():
    script = load("synthesize_an4.py")
    for number, words in ((1, "ONE"), (19, "NINETEEN"), (20, "TWENTY"), (21, "TWENTY ONE"), (99, "NINETY NINE")):
        assert " ".join(script["cardinal"](number)) == words
    for number, words in ((1, "FIRST"), (20, "TWENTIETH"), (21, "TWENTY FIRST"), (30, "THIRTIETH")):
        assert " ".join(script["ordinal"](number)) == words
    for word, said in (("A", "ay"), ("W", "double you"), ("RUBOUT", "rub out"), ("NOVEMBER", "november")):
        assert script["spoken"](word) == said
    writer = script["Writer"](np.random.default_rng(0), ["Q U I C K", "Q U E U E"])
    texts = [writer.text() for _ in range(3000)]
    found = {word for text in texts for word in text.split()}
    letters = {chr(ord("A") + i) for i in range(26)}
    names = ("ONES", "TENS", "ORDINALS", "MONTHS", "COMMANDS")
    said = {word for name in names for word in script[name]} | {"OH", "ZERO", "HUNDRED", "THOUSAND", "THIRTIETH"}
    assert found == letters | said
    pairs = re.findall(r"Q (?=([A-Z])\b)", " ".join(texts))
    assert pairs.count("U") > 3 * max(pairs.count(letter) for letter in letters - {"U"})


def test_a_set_of_sounds_is_written_that_training_reads(tmp_path, monkeypatch, capsys):
    an4 = tmp_path / "an4"
    an4.mkdir()
    soundfile.write(an4 / "a.flac", np.zeros(1600), 16000)
    columns = "utt\tspeaker\tsplit\tpath\tseconds\ttext\n"
    (an4 / "manifest.tsv").write_text(columns + "u1\ts1\tdev\ta.flac\t0.1\tYES\nu2\ts2\ttest\tb.flac\t0.1\tNO\n")
    arguments = "--an4", an4, "--out", tmp_path / "out", "--number", 6
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("synthesize_an4.py", *arguments, monkeypatch=monkeypatch) == 2
    assert "espeak-ng, flite, text2wave: not found" in capsys.readouterr().err
    # Each synthesizer writes the same sound where it was told to.
    copy, said = shutil.which("cp", path="/bin:/usr/bin"), tmp_path / "said.wav"
    soundfile.write(said, np.sin(np.arange(2205) / 9) / 2, 22050)
    for name, option in (("espeak-ng", "-w"), ("flite", "-o"), ("text2wave", "-o")):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\nwhile [ "$1" != {option} ]; do shift; done\nexec {copy} {said} "$2"\n')
        tool.chmod(0o755)
    assert run("synthesize_an4.py", *arguments, monkeypatch=monkeypatch) in (None, 0)
    with (tmp_path / "out/manifest.tsv").open(newline="") as lines:
        dev, *rows = csv.DictReader(lines, delimiter="\t")
    assert dev["path"] == str(an4 / "a.flac") and dev["split"] == "dev" and dev["text"] == "YES"
    assert len(rows) == 6 and {row["split"] for row in rows} == {"synthetic"}
    for row in rows:
        info = soundfile.info(tmp_path / "out" / row["path"])
        assert info.samplerate == 16000 and info.duration == pytest.approx(float(row["seconds"]), abs=1e-4)
    assert run("synthesize_an4.py", *arguments, monkeypatch=monkeypatch) == 2
    assert "exists already" in capsys.readouterr().err
