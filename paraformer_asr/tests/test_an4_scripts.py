"""The scripts of the AN4 experiments: the rule that loses fires, texts, spliced utterances, and their rates drawn."""

import csv
import json
import re
import runpy
import shutil
import sys
import types
import unittest.mock
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from PIL import Image

import asr
from asr.ops import cif

SCRIPTS = Path(__file__).parents[1] / "scripts"


def load(name):
    with unittest.mock.patch.object(sys, "path", [str(SCRIPTS), *sys.path]):
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


TONES_HZ = {"ONE": 400, "TWO": 900, "SIX": 1700, "YES": 2600}


def speak(words, pause_s=0.2):
    """Return a sound in which each word is a tone of 0.3 s, and the words with times inside their tones."""
    silence = np.zeros(round(pause_s * 16000))
    parts, timed, time_s = [silence], [], pause_s
    for word in words:
        parts += [np.sin(2 * np.pi * TONES_HZ[word] * np.arange(4800) / 16000) / 3, silence]
        timed.append(types.SimpleNamespace(text=word, start_s=time_s + 0.05, end_s=time_s + 0.25))
        time_s += 0.3 + pause_s
    return np.concatenate(parts).astype(np.float32), timed


def hear(wave):
    """Return the words whose tones follow one another in a sound; one said twice is heard once."""
    heard = []
    for start in range(0, len(wave) - 799, 800):
        spectrum = np.abs(np.fft.rfft(wave[start : start + 800]))
        near = [word for word, tone_hz in TONES_HZ.items() if abs(spectrum.argmax() * 20 - tone_hz) < 30]
        if spectrum.max() > 100 and near:
            heard += near
    return once(heard)


def once(words):
    return [word for word, before in zip(words, [None, *words], strict=False) if word != before]


def test_a_recording_is_cut_at_its_pauses_only():
    script = load("splice_an4.py")
    recording = script["cut_recording"](*speak(["ONE", "TWO", "SIX"]))
    assert recording.words == [["ONE"], ["TWO"], ["SIX"]]
    assert [hear(piece) for piece in recording.pieces] == recording.words
    np.testing.assert_array_equal(np.concatenate(recording.pieces), speak(["ONE", "TWO", "SIX"])[0])
    run_together = script["cut_recording"](*speak(["ONE", "TWO", "SIX"], pause_s=0))
    assert run_together.words == [["ONE", "TWO", "SIX"]] and len(run_together.pieces) == 1
    wave, (first, second, third) = speak(["ONE", "TWO", "SIX"])
    second.start_s, second.end_s = first.start_s, first.end_s  # times that cannot be: nothing may be lost
    odd = script["cut_recording"](wave, [first, second, third])
    assert sum(odd.words, []) == ["ONE", "TWO", "SIX"] and sum(map(len, odd.pieces)) == len(wave)


def test_a_piece_too_short_to_fade_stays_with_its_neighbour():
    script = load("splice_an4.py")
    wave, (first, third) = speak(["ONE", "SIX"])
    inside = types.SimpleNamespace(text="TWO", start_s=0.51 - 0.1, end_s=0.51 + 0.1)  # a peak where the pause begins
    recording = script["cut_recording"](wave, [first, inside, third])
    assert recording.words == [["ONE"], ["TWO", "SIX"]]
    # 18 ms are left for the last word.
    cut_off, first.end_s, third.start_s = (
        wave[: round(0.708 * 16000)],
        0.69 + 0.1,
        0.705 - 0.1,
    )
    recording = script["cut_recording"](cut_off, [first, third])
    assert recording.words == [["ONE", "SIX"]] and len(recording.pieces[0]) == len(cut_off)


def test_a_new_utterance_says_its_text():
    script = load("splice_an4.py")
    recordings = [script["cut_recording"](*speak(words)) for words in (["ONE", "TWO", "SIX"], ["YES"])]
    texts = set()
    for seed in range(40):
        wave, words = script["draw_utterance"](recordings, 4, np.random.default_rng(seed))
        assert len(words) == 4
        assert hear(wave) == once(words)
        texts.add(" ".join(words))
    assert len(texts) > 20 and any("SIX ONE" in text or "YES ONE" in text for text in texts)
    pieces = [np.ones(400, np.float32), np.ones(500, np.float32)]
    np.testing.assert_allclose(script["join"](pieces), 1, atol=1e-6)
    assert len(script["join"](pieces)) == 400 + 500 - script["FADE"]


def test_spliced_utterances_are_written_beside_those_of_an4(tmp_path, monkeypatch, capsys):
    an4 = tmp_path / "an4"
    an4.mkdir()
    columns, said = "utt\tspeaker\tsplit\tpath\tseconds\ttext\n", (["ONE", "TWO"], ["SIX"], ["YES", "SIX"])
    lines = [f"u{i}\ts{i % 2}\ttrain\t{i}.wav\t1\t{' '.join(words)}\n" for i, words in enumerate(said)]
    (an4 / "manifest.tsv").write_text(columns + "".join(lines) + "u9\ts9\ttest\t9.wav\t1\tNO\n")
    for i, words in enumerate(said):
        soundfile.write(an4 / f"{i}.wav", speak(words)[0], 16000)
    heard = [types.SimpleNamespace(words=speak(words)[1]) for words in said]
    heard[1] = types.SimpleNamespace(words=speak(["YES"])[1])  # misrecognised: not used
    transcriber = types.SimpleNamespace(transcribe=lambda files: heard)
    monkeypatch.setattr(asr, "load", lambda *arguments, **options: transcriber, raising=False)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    arguments = "--an4", an4, "--run", "run", "--out", tmp_path / "out"
    assert run("splice_an4.py", *arguments, "--splits", "train", "--number", 5, monkeypatch=monkeypatch) in (None, 0)
    assert "2 of 3 utterances are recognised, and cut into 4 pieces" in capsys.readouterr().out
    with (tmp_path / "out/manifest.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["path"] for row in rows[:4]] == [str(an4 / f"{i}.wav") for i in (0, 1, 2, 9)]
    assert [row["split"] for row in rows[4:]] == ["spliced"] * 5
    assert {word for row in rows[4:] for word in row["text"].split()} <= {"ONE", "TWO", "YES", "SIX"}
    for row in rows[4:]:
        assert soundfile.info(tmp_path / "out" / row["path"]).duration == pytest.approx(float(row["seconds"]), abs=1e-4)
    for wrong, reason in (
        (["--splits", "train"], "exists already"),
        (["--splits", "train", "evaluation", "--out", tmp_path / "new"], "manifest.tsv is in evaluation"),
        (["--number", 0, "--out", tmp_path / "new"], "expected at least 1, found 0"),
        (["--an4", tmp_path, "--out", tmp_path / "new"], "docs/data.md says how to prepare AN4"),
    ):
        assert run("splice_an4.py", *arguments, *wrong, monkeypatch=monkeypatch) == 2
        assert reason in capsys.readouterr().err
    heard[:] = [types.SimpleNamespace(words=[])] * 3
    words = [*arguments, "--splits", "train", "--out", tmp_path / "new"]
    assert run("splice_an4.py", *words, monkeypatch=monkeypatch) == 2
    assert "recognises none of the 3 utterances" in capsys.readouterr().err


def test_error_rates_are_drawn_with_their_intervals(tmp_path, monkeypatch, capsys):
    for name, decoder, rate in (("a", "cif", 0.2), ("b", "ctc", 0.4), ("c", "cif", 0.9)):
        (tmp_path / name).mkdir()
        words = {"error_rate": rate, "interval_95": [rate - 0.1, rate + 0.1]}
        (tmp_path / name / "metrics.json").write_text(json.dumps({"decoder": decoder, "words": words}))
    script = load("draw_error_rates.py")
    rows = script["read_rows"]([f"one={tmp_path / 'a'},{tmp_path / 'b'}", f"two={tmp_path / 'c'}"])
    assert [[score.decoder for score in scores] for scores in rows.values()] == [["cif", "ctc"], ["cif"]]
    assert rows["one"][1][1:] == pytest.approx((40, 30, 50))
    picture, words = tmp_path / "rates.png", [f"one={tmp_path / 'a'}", f"two={tmp_path / 'c'}"]
    assert run("draw_error_rates.py", "--out", picture, *words, monkeypatch=monkeypatch) in (None, 0)
    with Image.open(picture) as drawn:
        blue = np.all(np.abs(np.asarray(drawn.convert("RGB"), int) - (31, 119, 180)) < 8, axis=2)
    columns = np.flatnonzero(blue[20:].any(axis=0))  # below the legend: from 10 to 30 %, and from 80 to 100 %
    assert np.diff(columns).max() > 0.4 * np.ptp(columns)
    (tmp_path / "a/metrics.json").write_text("{}")
    for wrong, reason in (
        ([f"one={tmp_path / 'none'}"], "expected a folder that python -m asr.eval wrote"),
        ([f"one={tmp_path / 'a'}"], "expected what asr.eval writes (KeyError"),
        ([words[1], words[1]], "each name once"),
        ([str(tmp_path / "c")], "expected NAME=EVAL_FOLDER"),
        (["--out", "rates.pdf", words[1]], "expected a .png file"),
    ):
        assert run("draw_error_rates.py", "--out", picture, *wrong, monkeypatch=monkeypatch) == 2
        assert reason in capsys.readouterr().err
