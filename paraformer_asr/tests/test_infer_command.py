import dataclasses
import io
import json
import os
import shutil
import struct
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from asr import infer
from asr.checkpoints import CheckpointStore
from asr.cli import run_command
from asr.config import (
    Config,
    DataConfig,
    FeaturesConfig,
    InferenceConfig,
    LossConfig,
)
from asr.errors import UserError
from asr.inference import transcript
from asr.inference.output import Job, plan_jobs
from asr.inference.punctuation import load_punctuator
from asr.inference.recognition import NOTHING
from asr.inference.segmentation import split_at_silences
from asr.inference.shapes import Shape
from asr.inference.transcribe_files import Totals, transcribe_files
from asr.inference.transcriber import Transcriber, load_transcriber
from asr.inference.transcript import FORMATS
from asr.record.run_dir import create_run_dir
from asr.untrusted import HARMFUL
from recorded_punctuation import write_folder
from tiny_model import CMVN, NUM_MELS, TOKENIZER, random_variables, tiny_model
from tiny_model import RATE_HZ as RATE

CONFIG = Config(
    features=FeaturesConfig(num_mels=NUM_MELS, sample_rate_hz=RATE),
    model=tiny_model(ctc_head=True),
    loss=LossConfig(ctc_weight=0.3),
    inference=InferenceConfig(batch_size=2, max_segment_s=2, decoder="ctc"),
)


VARIABLES = random_variables(CONFIG.model)


@pytest.fixture(scope="module")
def transcriber():
    transcriber = Transcriber(CONFIG, TOKENIZER, CMVN, VARIABLES)
    transcriber.warm_up([Shape(2, 2 * RATE)])
    transcriber.warm_up = lambda shapes, hotwords: None
    return transcriber


@pytest.fixture
def infer_with(transcriber, tmp_path, monkeypatch):
    """Run the command with a transcriber that is compiled already; return its exit code."""
    run_path = create_run_dir(dataclasses.replace(CONFIG, runs_dir=str(tmp_path / "runs")), TOKENIZER, CMVN).path

    def run(*arguments):
        monkeypatch.setattr("asr.inference.transcriber.load_transcriber", lambda *_: transcriber)
        monkeypatch.setattr(sys, "argv", ["infer", "--run", str(run_path), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_command(infer.main)
        return end.value.code

    return run


def burst(seconds, rate=RATE, seed=0):
    """Tones of 0.1 s each, at random pitches."""
    tones_hz = np.random.default_rng(seed).uniform(150, 3500, 100)
    time_n = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * tones_hz[(time_n * 10).astype(int)] * time_n)).astype(np.float32)


def silence(seconds, rate=RATE):
    return np.zeros(round(seconds * rate), np.float32)


def write_sound(path, wave_n, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave_n, rate, **options)
    return path


def text_of(transcriber, wave):
    return TOKENIZER.decode(transcriber.recognise(np.asarray(wave, np.float32)).ids)


def read_pcm16(path):
    return soundfile.read(path, dtype="float32")[0]


def test_the_text_of_one_file_stands_alone_and_that_of_several_behind_their_names(
    infer_with, transcriber, tmp_path, capsys
):
    one, other = (write_sound(tmp_path / f"{i}.wav", burst(1, seed=i)) for i in (1, 2))
    texts = [text_of(transcriber, read_pcm16(path)) for path in (one, other)]
    assert texts[0] != texts[1]  # else the comparison says little
    assert infer_with(one) == 0
    assert capsys.readouterr().out == f"{texts[0]}\n"
    assert infer_with(tmp_path) == 0
    assert capsys.readouterr().out == f"{one}: {texts[0]}\n{other}: {texts[1]}\n"


def test_hot_words_change_the_text_and_what_counts_as_done(infer_with, transcriber, tmp_path, capsys):
    sound = write_sound(tmp_path / "a.wav", burst(1, seed=1))
    word = text_of(transcriber, read_pcm16(sound)).split()[0]
    hot = f"{word[:-1]}{'b' if word[-1] == 'a' else 'a'}"  # the same with another last letter
    names = tmp_path / "names.txt"
    names.write_text(f"# names\n{hot} :20\nzzz\n")
    assert infer_with(sound, "--hotwords", names) == 0
    assert hot in capsys.readouterr().out.split()
    out = "--out", tmp_path / "out", "--skip-done"
    for hotwords, is_done in (((), False), ((), True), (("--hotwords", names), False), (("--hotwords", names), True)):
        assert infer_with(sound, *out, *hotwords) == 0
        assert ("done already" in capsys.readouterr().err) == is_done
    assert infer_with(sound, "--hotwords", tmp_path / "none.txt") == 2
    assert "none.txt: cannot read the hot words" in capsys.readouterr().err


def test_long_sound_is_split_at_silences_and_its_times_are_those_of_the_file(infer_with, transcriber, tmp_path, capsys):
    first, second, third = burst(1.5, seed=1), burst(0.8, seed=2), burst(1.2, seed=3)
    wave = np.concatenate([silence(3), first, silence(2), second, silence(40), third])
    path = write_sound(tmp_path / "long.wav", wave)
    assert infer_with("--format", "json", path) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["duration_s"]) == (str(path), len(wave) / RATE)
    starts = [segment["start_s"] for segment in found["segments"]]
    np.testing.assert_allclose(starts, [2.8, 6.3, 47.1], atol=0.03)
    for segment in found["segments"]:
        samples = slice(*(round(segment[edge] * RATE) for edge in ("start_s", "end_s")))
        assert segment["text"] == text_of(transcriber, read_pcm16(path)[samples])
    assert found["text"] == " ".join(s["text"] for s in found["segments"] if s["text"])
    assert found["text"] == " ".join(word["word"] for word in found["words"])
    for item in found["words"] + found["tokens"]:
        inside = [s for s in found["segments"] if s["start_s"] <= item["start_s"] <= item["end_s"] <= s["end_s"]]
        assert len(inside) == 1
    times = [token["start_s"] for token in found["tokens"]]
    assert times == sorted(times)
    assert len({round(t) // 10 for t in times}) > 1  # tokens early and late


def test_results_go_to_one_file_for_each_sound(infer_with, transcriber, tmp_path, capsys):
    sounds = tmp_path / "sounds"
    wave = burst(1)
    write_sound(sounds / "a.wav", wave)
    write_sound(sounds / "deep/b.flac", wave)
    (sounds / "notes.txt").touch()
    for name, suffix in (("text", "txt"), ("json", "json"), ("srt", "srt"), ("vtt", "vtt"), ("ctm", "ctm")):
        assert infer_with("--format", name, "--out", tmp_path / name, sounds) == 0
        files = sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file())
        assert [str(file) for file in files] == [".asr_done.jsonl", f"a.{suffix}", f"deep/b.{suffix}"]
    captured = capsys.readouterr()
    assert captured.out == ""
    text = text_of(transcriber, read_pcm16(sounds / "a.wav"))
    assert (tmp_path / "text/a.txt").read_text() == f"{text}\n"
    assert (tmp_path / "srt/a.srt").read_text().startswith("1\n00:00:0")
    assert (tmp_path / "vtt/deep/b.vtt").read_text().startswith("WEBVTT\n\n00:00:0")
    assert [line.split()[4] for line in (tmp_path / "ctm/a.ctm").read_text().splitlines()] == text.split()


HARD = {
    "10 ms": (burst(0.01), {}),
    "8 bit": (burst(1), {"subtype": "PCM_U8"}),
    "24 bit": (burst(1), {"subtype": "PCM_24"}),
    "float": (burst(1), {"subtype": "FLOAT"}),
    "8 kHz stereo": (np.stack([burst(1), burst(1)], 1), {}),
    "96 kHz": (burst(1, 96000), {"rate": 96000}),
    "clipped": (np.clip(20 * burst(1), -1, 1), {}),
    "offset": (burst(1) / 2 + np.float32(0.5), {}),
}


def test_hard_input_is_transcribed(infer_with, tmp_path, capsys):
    for name, (wave, options) in HARD.items():
        write_sound(tmp_path / f"{name}.wav", wave, **options)
    assert infer_with("--format", "json", tmp_path) == 0
    captured = capsys.readouterr()
    found = {json.loads(line)["file"].split("/")[-1][:-4]: json.loads(line) for line in captured.out.splitlines()}
    assert found.keys() == HARD.keys()
    assert found.pop("10 ms")["text"] == ""  # shorter than one window of the features
    for result in found.values():
        assert result["duration_s"] == 1
        assert result["text"]
    assert found["8 kHz stereo"]["text"] == found["24 bit"]["text"] == found["float"]["text"]
    assert captured.err.count("error:") == 0


def test_silence_gives_an_empty_result_and_compiles_nothing(infer_with, transcriber, tmp_path, capsys, monkeypatch):
    path = write_sound(tmp_path / "silence.wav", silence(180))
    shapes = []
    monkeypatch.setattr(transcriber, "warm_up", lambda planned, hotwords: shapes.extend(planned))
    assert infer_with(path) == 0
    assert capsys.readouterr().out == "\n"
    assert shapes == []
    assert infer_with("--format", "json", path) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"file": str(path), "duration_s": 180, "text": "", "words": [], "tokens": [], "segments": []}
    assert infer_with("--format", "vtt", path) == 0
    assert capsys.readouterr().out == "WEBVTT\n"


def write_broken(folder):
    """Files that are no sound, or only in part; return them."""
    folder.mkdir(parents=True)
    (folder / "text.wav").write_text("not a sound at all, but a text that is long enough to look at")
    (folder / "zero.wav").touch()
    write_sound(folder / "nan.wav", np.array([0.1] * 800 + [np.nan] * 800, np.float32), subtype="FLOAT")
    flac = bytearray(write_sound(folder / "forged.flac", burst(1)).read_bytes())
    flac[18:26] = struct.pack(">Q", struct.unpack(">Q", flac[18:26])[0] | (1 << 36) - 1)  # 2³⁶ − 1 samples
    (folder / "forged.flac").write_bytes(flac)
    whole = write_sound(folder / "truncated.wav", burst(2)).read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    return sorted(folder.iterdir())


def test_broken_files_are_named_and_the_others_are_transcribed(infer_with, transcriber, tmp_path, capsys):
    broken, missing = write_broken(tmp_path / "broken"), tmp_path / "missing.wav"
    good = [write_sound(tmp_path / f"{i}.wav", burst(1, seed=i)) for i in range(2)]
    assert infer_with(good[0], missing, tmp_path / "broken", good[1]) == 2
    captured = capsys.readouterr()
    texts = [text_of(transcriber, read_pcm16(path)) for path in good]
    assert captured.out == "".join(f"{path}: {text}\n" for path, text in zip(good, texts, strict=True))
    for path in [*broken, missing]:
        assert f"error: {path}: " in captured.err
    assert "6 of 8 files could not be read" in captured.err
    assert "2 files, 2.0 s of sound in" in captured.err


def test_a_file_that_breaks_off_gives_no_result(infer_with, tmp_path, capsys):
    wave = np.concatenate([burst(1), silence(60), burst(1), np.full(10, np.nan, np.float32)])
    path = write_sound(tmp_path / "late.wav", wave, subtype="FLOAT")
    assert infer_with("--out", tmp_path / "out", path) == 2
    assert "found nan at 62.000 s" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_loaded_the_settings_reach_it_and_nothing_is_compiled_late(tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(CONFIG, runs_dir=str(tmp_path / "runs"), inference=InferenceConfig())
    run = create_run_dir(config, TOKENIZER, CMVN)
    CheckpointStore(run.checkpoints).save(1, jax.device_put(VARIABLES), {}, score=(0.5,))
    wave = np.concatenate([burst(0.9, seed=1), silence(1.5), burst(0.8, seed=2), silence(1.5), burst(0.9, seed=3)])
    path = write_sound(tmp_path / "long.wav", wave)
    made = []
    monkeypatch.setattr(
        "asr.inference.transcriber.load_transcriber", lambda *given: made.append(load_transcriber(*given)) or made[0]
    )
    options = ["--decoder", "ctc", "inference.max_segment_s=3", "inference.batch_size=3"]
    monkeypatch.setattr(sys, "argv", ["infer", "--run", str(run.path), str(path), *options])
    assert infer.main() == 0
    captured = capsys.readouterr()
    assert "compiled 1 program in" in captured.err
    assert "before the first segment, 0 after" in captured.err
    (loaded,) = made
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, VARIABLES)
    assert loaded.config.inference == InferenceConfig(batch_size=3, max_segment_s=3, decoder="ctc")
    segments = [s.wave for s in split_at_silences([read_pcm16(path)], RATE, loaded.config.inference)]
    assert len(segments) == 3
    texts = [TOKENIZER.decode(found.ids) for _, found in loaded.recognise_many(enumerate(segments))]
    assert captured.out == " ".join(texts) + "\n"
    assert len(captured.out) > 10


def test_mistakes_are_answered_before_any_work(infer_with, tmp_path, capsys, monkeypatch):
    path = write_sound(tmp_path / "a.wav", burst(0.1))
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["--out", tmp_path / "file", path], "expected a folder, this is a file"),
        ([path, "inference.max_segment_s=0"], "inference.max_segment_s: expected 1 to 120"),
        ([path, "inference.max_segments=3"], "unknown key 'inference.max_segments'; did you mean"),
        (["inference.batch_size=1"], "expected at least one sound file"),
        ([tmp_path / "empty"], "no sound file is in this folder"),
        (["--format", "srt", path, tmp_path / "b.wav"], "the results of 2 files need --out"),
    ):
        assert infer_with(*arguments) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["infer", "--run", str(tmp_path), str(path)])
    with pytest.raises(SystemExit, match="2"):
        run_command(infer.main)
    assert f"{tmp_path}: expected a run of asr.train" in capsys.readouterr().err


def files(folder, hidden=True):
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if hidden or not path.name.startswith("."))


def planned(inputs, out):
    return [(str(job.source), str(job.result.relative_to(out))) for job in plan_jobs(inputs, out, ".txt")]


def test_names_that_are_taken_get_a_number(infer_with, tmp_path, capsys):
    first, second = tmp_path / "1", tmp_path / "2"
    for path in ("1/cat.flac", "1/cat.wav", "1/sub/cat.wav", "2/CAT.wav"):
        write_sound(tmp_path / path, silence(0.1))
    assert planned([first, second], tmp_path / "out") == [
        (f"{first}/cat.flac", "cat.txt"),
        (f"{first}/cat.wav", "cat_2.txt"),
        (f"{first}/sub/cat.wav", "sub/cat.txt"),
        (f"{second}/CAT.wav", "CAT_3.txt"),
    ]
    assert infer_with("--out", tmp_path / "out", first) == 0
    assert f"{first}/cat.wav: the result is called cat_2.txt" in capsys.readouterr().err


def test_files_of_one_name_are_told_apart_in_every_format(infer_with, tmp_path, capsys):
    paths = [write_sound(tmp_path / f"d{i}/same name.wav", burst(1, seed=i)) for i in (1, 2)]

    def names(*inputs, out=None):
        assert infer_with("--format", "ctm", *(["--out", out] if out else []), *inputs) == 0
        texts = [path.read_text() for path in sorted(out.rglob("*.ctm"))] if out else [capsys.readouterr().out]
        return list(dict.fromkeys(line.split()[0] for text in texts for line in text.splitlines()))

    assert names(*paths) == ["same_name", "same_name_2"]
    assert names(tmp_path) == ["d1/same_name", "d2/same_name"]
    assert names(*paths, out=tmp_path / "out") == ["same_name", "same_name_2"]
    assert f"{paths[1]}: the result is called same name_2.ctm" in capsys.readouterr().err


def test_every_sound_of_a_folder_is_read_or_named(infer_with, transcriber, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)  # without the extra `media`
    folder, wave = tmp_path / "mix", burst(1)
    for name, form in (("a.wave", "WAV"), ("b.oga", "OGG"), ("c", "FLAC"), ("d.dat", "WAV"), ("e.aiff", "AIFF")):
        write_sound(folder / name, wave, format=form)
    (folder / "f.m4a").write_bytes(b"\0\0\0\x1cftypM4A \0\0\2\0" + bytes(99))
    (folder / "g.pcm").write_bytes(b"\1\0" * 99)
    for hidden in (".hidden.wav", "._a.wav", "__MACOSX/._a.wav", ".git/x.wav"):
        write_sound(folder / hidden, wave, format="WAV")
    (folder / "notes.txt").write_text("no sound")
    (folder / "data.json").write_text("{}")
    assert infer_with(folder) == 2
    captured = capsys.readouterr()
    assert [line.split(": ")[0] for line in captured.out.splitlines()] == [
        f"{folder}/{name}" for name in ("a.wave", "b.oga", "c", "d.dat")
    ]
    for name in ("e.aiff", "f.m4a", "g.pcm"):
        assert f"error: {folder}/{name}: " in captured.err
    assert captured.err.count("ffmpeg") == 3
    assert "3 of 7 files could not be read" in captured.err
    for word in ("hidden", "MACOSX", "notes", "data.json"):
        assert word not in captured.err


def test_lists_are_transcribed_under_their_names(infer_with, transcriber, tmp_path, capsys):
    wave = np.concatenate([burst(1, seed=1), burst(1, seed=2)])
    path = write_sound(tmp_path / "a.wav", wave)
    texts = [text_of(transcriber, read_pcm16(path)[part]) for part in (slice(RATE), slice(RATE, None))]
    lines = [{"audio_filepath": "a.wav", "offset": i, "duration": 1, "key": f"utt{i}"} for i in (0, 1)]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert infer_with(tmp_path / "l.jsonl") == 0
    assert capsys.readouterr().out == f"utt0: {texts[0]}\nutt1: {texts[1]}\n"
    (tmp_path / "wav.scp").write_text("one a.wav\nlost gone.wav\n")
    assert infer_with("--format", "json", tmp_path / "wav.scp") == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["file"] == "one"
    assert f"error: {tmp_path}/gone.wav: no such file ({tmp_path}/wav.scp:2)\n" in captured.err
    (tmp_path / "wav.scp").write_text("one a.wav\none b.wav\n")
    write_sound(tmp_path / "b.wav", wave[:RATE])
    assert infer_with(tmp_path / "wav.scp") == 0
    captured = capsys.readouterr()
    assert [line.split(":")[0] for line in captured.out.splitlines()] == ["one", "one_2"]
    assert f"{tmp_path}/b.wav: the result is called one_2" in captured.err


def test_a_line_end_in_a_name_begins_no_line_of_the_results(infer_with, tmp_path, capsys):
    for name in ("a.wav", "b\nc.wav"):
        write_sound(tmp_path / name, burst(1))
    assert infer_with(tmp_path) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/a.wav: ") and second.startswith(f"{tmp_path}/b\\nc.wav: ")


def test_silence_and_a_model_that_found_nothing_are_told_apart(infer_with, transcriber, tmp_path, capsys, monkeypatch):
    write_sound(tmp_path / "zero.wav", silence(1))
    write_sound(tmp_path / "constant.wav", silence(1) + 0.25)
    write_sound(tmp_path / "hiss.wav", np.tile([1e-4, -1e-4], RATE), subtype="FLOAT")
    write_sound(tmp_path / "speech.wav", 0.1 * burst(1.5), subtype="FLOAT")
    assert infer_with(tmp_path) == 0
    said = capsys.readouterr().err
    assert f"{tmp_path}/zero.wav: no speech: silent, every sample is 0\n" in said
    assert f"{tmp_path}/constant.wav: no speech: silent, every sample is 0.25\n" in said
    assert f"{tmp_path}/hiss.wav: no speech: silent, its peak is -80 dBFS\n" in said
    assert "speech.wav" not in said
    nothing = NOTHING
    monkeypatch.setattr(transcriber, "recognise_many", lambda items, *_, **__: ((tag, nothing) for tag, _ in items))
    assert infer_with(tmp_path / "speech.wav") == 0
    captured = capsys.readouterr()
    assert captured.out == "\n"
    assert "speech.wav: no text: the model wrote nothing for 1.5 s of sound at -33 dBFS\n" in captured.err


def test_a_segment_on_which_the_device_fails_costs_that_segment_alone(
    infer_with, transcriber, tmp_path, capsys, monkeypatch
):
    start = transcriber.start

    def failing(waves, hotwords):
        if max(map(len, waves)) > 1.3 * RATE:
            raise RuntimeError("no memory left")
        return start(waves, hotwords)

    parts = [burst(0.6, seed=1), silence(1.5), burst(1.2, seed=2)]
    path = write_sound(tmp_path / "talk.wav", np.concatenate(parts))
    monkeypatch.setattr(transcriber, "start", failing)
    out = tmp_path / "out"
    assert infer_with(path, "--out", out, "--skip-done") == 2
    said = capsys.readouterr().err
    assert f"{path}: 1.9 to 3.3 s could not be recognised (no memory left)\n" in said
    assert "1 of 1 files lack what was said in some segments" in said
    partial = (out / "talk.txt").read_text()
    monkeypatch.setattr(transcriber, "start", start)
    assert infer_with(path, "--out", out, "--skip-done") == 0  # it does not count as done
    whole = (out / "talk.txt").read_text()
    assert len(partial) > 1 and whole.startswith(partial.strip()) and len(whole) > len(partial)


def test_a_punctuation_model_adds_signs(infer_with, transcriber, tmp_path, capsys):
    path, folder = write_sound(tmp_path / "talk.wav", burst(1, seed=1)), write_folder(tmp_path / "ct-punc")
    assert infer_with(path, "--format", "json", "--punct", folder) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == load_punctuator(folder).punctuate(text_of(transcriber, read_pcm16(path)))
    assert answer["text"][-1] in ".?" and "".join(s["text"] for s in answer["sentences"])
    assert infer_with(path, "--punct", tmp_path) == 2
    assert f"{tmp_path}: expected a model folder of FunASR" in capsys.readouterr().err
    assert infer_with(path) == 0
    assert "." not in capsys.readouterr().out


def test_each_channel_gets_a_transcript_of_its_own(infer_with, transcriber, tmp_path, capsys):
    one, other = burst(1, seed=1), burst(1, seed=2)
    call = write_sound(tmp_path / "in/call.wav", np.stack([one, other], axis=1))
    mono = write_sound(tmp_path / "in/mono.wav", one)
    (tmp_path / "in/bad.wav").write_bytes(b"no sound")
    texts = [text_of(transcriber, soundfile.read(call, dtype="float32")[0][:, i]) for i in (0, 1)]
    assert texts[0] != texts[1]

    assert infer_with("--channel", "each", tmp_path / "in") == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"{call} channel 1: {texts[0]}", f"{call} channel 2: {texts[1]}", f"{mono} channel 1: {texts[0]}"
    ]  # fmt: skip
    assert captured.err.count("bad.wav") == 1 and "1 of 4 channels could not be read" in captured.err

    assert infer_with("--channel", "each", "--format", "json", "--out", tmp_path / "out", call) == 0
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert {name: (each["file"], each["channel"], each["text"]) for name, each in written.items()} == {
        f"call.ch{i}.json": (str(call), i, texts[i - 1]) for i in (1, 2)
    }
    os.remove(tmp_path / "out/call.ch1.json")
    capsys.readouterr()
    assert infer_with("--channel", "each", "--format", "json", "--out", tmp_path / "out", "--skip-done", call) == 0
    assert "1 channel of 2 done already" in capsys.readouterr().err

    assert infer_with("--channel", "each", "--format", "ctm", call) == 0
    assert {tuple(line.split()[:2]) for line in capsys.readouterr().out.splitlines()} == {("call", "1"), ("call", "2")}
    assert [transcriber.transcribe(call, channel=i).text for i in (1, 2)] == texts
    for wrong in (-1, 65, "1", True):
        with pytest.raises(UserError, match="channel: expected 0 to 64, found"):
            transcriber.transcribe(call, channel=wrong)


def test_a_channel_is_chosen_or_found_where_the_mean_cancels(tmp_path, monkeypatch, capsys, caplog):
    made = Transcriber(dataclasses.replace(CONFIG, data=DataConfig(channel=2)), TOKENIZER, CMVN, VARIABLES)
    heard = []
    heard_all = lambda items, *_, **__: ((tag, heard.append(wave) or NOTHING) for tag, wave in items)  # noqa: E731
    monkeypatch.setattr(made, "recognise_many", heard_all)
    monkeypatch.setattr(made, "warm_up", lambda shapes, hotwords: None)
    one, other = burst(1, seed=1), burst(1, seed=2)
    path = write_sound(tmp_path / "a.wav", np.stack([one, other], 1), subtype="FLOAT")
    transcribe_files(made, [Job(path, None)], lambda *_: None, Totals())
    np.testing.assert_array_equal(heard[0], other)
    parsed = ["infer", "--run", "x", "--channel", "2", "a.wav"]
    monkeypatch.setattr(sys, "argv", parsed)
    assert infer.parse_arguments().channel == 2


def test_files_are_taken_once_and_inputs_are_never_overwritten(infer_with, tmp_path, capsys):
    sounds = tmp_path / "sounds"
    source = write_sound(sounds / "a.wav", silence(0.1))
    write_sound(sounds / "results/b.wav", silence(0.1))
    assert planned([source, sounds / ".." / "sounds"], sounds / "results") == [(str(source), "a.txt")]
    odd = write_sound(sounds / "c.txt", silence(0.1), format="WAV")
    before = odd.read_bytes()
    assert infer_with("--out", sounds, write_sound(tmp_path / "c.wav", silence(0.1)), odd) == 2
    assert f"would overwrite the input {odd}" in capsys.readouterr().err
    assert odd.read_bytes() == before


def test_skip_done_leaves_out_what_is_complete(infer_with, tmp_path, capsys):
    sounds, out = tmp_path / "sounds", tmp_path / "out"
    for name in "abc":
        write_sound(sounds / f"{name}.wav", burst(1))
    assert infer_with("--out", out, sounds / "a.wav") == 0
    made = (out / "a.txt").read_text()
    (out / "a.txt").write_text("?" * len(made))  # of the same size: shows whether it is made again
    (sounds / "c.wav").write_text("no sound")
    assert infer_with("--skip-done", "--out", out, sounds) == 2
    assert "1 file of 3 done already" in capsys.readouterr().err
    assert (out / "a.txt").read_text() == "?" * len(made)
    assert (out / "b.txt").exists()
    assert infer_with("--skip-done", "--out", out, sounds / "a.wav", sounds / "b.wav") == 0
    assert "2 files of 2 done already" in capsys.readouterr().err
    assert infer_with("--out", out, sounds / "a.wav") == 0
    assert (out / "a.txt").read_text() == made


def test_skip_done_without_a_folder_says_what_it_needs(infer_with, tmp_path, capsys):
    assert infer_with("--skip-done", write_sound(tmp_path / "a.wav", burst(1))) == 2
    assert "--skip-done needs --out FOLDER" in capsys.readouterr().err


def test_a_call_that_is_interrupted_counts_what_is_done(infer_with, tmp_path, monkeypatch, capsys):
    for name in "abc":
        write_sound(tmp_path / f"{name}.wav", burst(1))
    write = transcript.write_text

    def interrupt_at_the_second(path, text):
        if path.name == "b.txt":
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr("asr.inference.transcript.write_text", interrupt_at_the_second)
    assert infer_with("--out", tmp_path / "out", tmp_path) == 130
    assert (
        "stopped: 1 of 3 files transcribed; the same command with --skip-done does the rest" in capsys.readouterr().err
    )
    monkeypatch.setattr("asr.inference.transcript.write_text", write)
    assert infer_with("--skip-done", "--out", tmp_path / "out", tmp_path) == 0
    assert "1 file of 3 done already" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.txt")) == ["a.txt", "b.txt", "c.txt"]


NAMES = {
    "..wav": "_.txt",
    "...": "___.txt",
    ".wav": "_wav.txt",
    "..a.wav": "__a.txt",
    "a\x1b[2J\nb.wav": "a_[2J_b.txt",
    os.fsdecode(b"caf\xe9.wav"): "caf_.txt",
    "\u202evaw.wav": "_vaw.txt",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_never_leads_out_of_the_folder_of_the_results(infer_with, tmp_path, capsys, name):
    content = write_sound(tmp_path / "talk.wav", burst(1)).read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    before = files(tmp_path / "in")
    assert infer_with("--out", tmp_path / "in/out", tmp_path / "in" / name) == 0
    assert files(tmp_path / "in/out", hidden=False) == [NAMES[name]]
    assert [file for file in files(tmp_path / "in") if not file.startswith("out")] == before
    printed = capsys.readouterr()
    assert f"the result is called {NAMES[name]}, as its own name is taken or not safe" in printed.err
    assert infer_with(tmp_path / "in" / name, tmp_path / "talk.wav") == 0
    assert infer_with("--format", "json", "--out", tmp_path / "json", tmp_path / "in" / name) == 0
    assert infer_with("--format", "json", tmp_path / "in" / name) == 0
    assert not HARMFUL.search("".join(capsys.readouterr()).replace("\n", ""))
    assert not HARMFUL.search((printed.out + printed.err).replace("\n", ""))


def test_names_that_are_one_on_some_file_system_are_told_apart(tmp_path):
    out = tmp_path / "out"
    names = [name for _, name in planned([Path("\u00e4.wav"), Path("A\u0308.wav")], out)]
    assert names == ["\u00e4.txt", "A\u0308_2.txt"]
    for source in (tmp_path / "in/b.wav", tmp_path / "in/b.txt/c.wav"):
        write_sound(source, burst(1))
    names = [name for _, name in planned([tmp_path / "in"], out)]
    assert sorted(names) == ["b.txt/c.txt", "b_2.txt"]  # b.txt is a folder of the results


def test_one_file_that_cannot_be_written_does_not_stop_the_others(infer_with, tmp_path, capsys):
    for name in ("x" * 251, "y", "z"):
        write_sound(tmp_path / "in" / f"{name}.wav", burst(1))
    (tmp_path / "out/y.json").mkdir(parents=True)
    assert infer_with("--format", "json", "--out", tmp_path / "out", tmp_path / "in") == 2
    assert files(tmp_path / "out", hidden=False) == ["z.json"]
    printed = capsys.readouterr()
    assert "File name too long" in printed.err and f"{tmp_path / 'out/y.json'}: expected a file" in printed.err
    assert "2 of 3 files could not be read or written" in printed.err
    assert not list(tmp_path.rglob("*.part"))


def test_a_full_disk_ends_the_command_at_once(infer_with, tmp_path, capsys, monkeypatch):
    for name in "abc":
        write_sound(tmp_path / "in" / f"{name}.wav", burst(1))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert infer_with("--out", tmp_path / "out", tmp_path / "in") == 2
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert files(tmp_path / "out") == []


def test_links_are_neither_searched_nor_followed_out_of_the_results(infer_with, tmp_path, capsys):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    write_sound(elsewhere / "secret.wav", burst(1))
    write_sound(tmp_path / "in/sub/a.wav", burst(1))
    (tmp_path / "in/link").symlink_to(elsewhere)
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (out / "sub").mkdir(parents=True)
    for name in (".a.txt.part", "a.txt.part", "a.txt"):
        (out / "sub" / name).symlink_to(elsewhere / "precious")
    assert infer_with("--out", out, tmp_path / "in") == 0
    assert not (elsewhere / "precious").exists() and not (out / "sub/a.txt").is_symlink()
    told = capsys.readouterr().err
    assert all(f"{tmp_path / 'in' / name}: a link to a folder is not searched" in told for name in ("link", "loop"))
    shutil.rmtree(out / "sub")
    (out / "sub").symlink_to(elsewhere)
    assert infer_with("--out", out, tmp_path / "in") == 2
    assert f"a link at {out / 'sub'} leads out of it" in capsys.readouterr().err
    assert files(elsewhere) == ["secret.wav"]


# The same model from Python: `transcribe` gives what the command writes.


def spoken_wave():
    """Three bursts with silences: longer than a segment."""
    return np.concatenate([silence(0.5), burst(1.5, seed=1), silence(2), burst(0.8, seed=2), silence(3), burst(1.9)])


@pytest.mark.parametrize("name", FORMATS)
def test_python_gives_what_the_command_writes_character_for_character(infer_with, transcriber, tmp_path, capsys, name):
    path = write_sound(tmp_path / "talk.wav", spoken_wave())
    assert infer_with("--format", name, path) == 0
    spoken = transcriber.transcribe(path)
    assert len(spoken.segments) > 2 and spoken.words and spoken.tokens
    assert FORMATS[name](spoken) == capsys.readouterr().out


SOUNDS = {
    "text path": str,
    "path": Path,
    "open file": lambda path: path.open("rb"),
    "bytes": Path.read_bytes,
    "memory file": lambda path: io.BytesIO(path.read_bytes()),
}


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_sound_is_the_same_however_it_is_passed(transcriber, tmp_path, kind):
    path = write_sound(tmp_path / "talk.flac", spoken_wave())
    sound = SOUNDS[kind](path)
    found, expected = transcriber.transcribe(sound), transcriber.transcribe(path)
    assert dataclasses.replace(found, file="") == dataclasses.replace(expected, file="")
    if hasattr(sound, "close"):
        sound.close()


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("rate", [RATE, 11025])
def test_an_array_gives_what_its_file_gives(transcriber, tmp_path, dtype, channels, rate):
    path = write_sound(tmp_path / "talk.wav", spoken_wave(), subtype="PCM_16")
    array = soundfile.read(path, dtype=dtype)[0]
    if channels:
        array = np.stack([array] * channels, axis=1)
    write_sound(path, soundfile.read(path, dtype="int16")[0], rate)
    found, expected = transcriber.transcribe(array, rate=rate), transcriber.transcribe(path)
    assert dataclasses.replace(found, file="") == dataclasses.replace(expected, file="")


def test_a_list_gives_a_transcript_each_in_order(transcriber, tmp_path):
    paths = [write_sound(tmp_path / f"{i}.wav", burst(0.5 + 0.4 * i, seed=i)) for i in range(5)]
    together = transcriber.transcribe(paths)
    assert [spoken.file for spoken in together] == list(map(str, paths))
    assert [spoken.text for spoken in together] == [transcriber.transcribe(path).text for path in paths]
    assert transcriber.transcribe([]) == []
    assert [spoken.text for spoken in transcriber.transcribe([silence(1), burst(1)], rate=RATE)][0] == ""
    both = transcriber.transcribe([paths[0], soundfile.read(paths[1])[0]], rate=RATE)  # a rate is that of the arrays
    assert [spoken.text for spoken in both] == [spoken.text for spoken in together[:2]]


@pytest.mark.parametrize("dtype", [">i2", ">f4", jnp.bfloat16])
def test_an_array_means_its_numbers_whatever_their_bytes(transcriber, tmp_path, dtype):
    samples = soundfile.read(write_sound(tmp_path / "a.wav", burst(1.5)), dtype="int16")[0]
    if dtype != ">i2":
        samples = (samples / 32768).astype(jnp.bfloat16).astype(np.float32)
    expected = transcriber.transcribe(samples, RATE)
    assert expected.text and transcriber.transcribe(samples.astype(dtype), RATE) == expected


class Elsewhere:
    """An array on another device."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("use .cpu() first")


def closed_file():
    file = io.BytesIO(b"RIFF")
    file.close()
    return file


def read_file():
    file = io.BytesIO(b"RIFF")
    file.read()
    return file


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        ("nowhere.wav", None, "^nowhere.wav: no such file"),
        (b"RIFF", None, "^bytes: .*expected a sound file"),
        (b"", None, "^bytes: "),
        (io.StringIO("a"), None, "open it in binary mode"),
        (np.zeros(9), None, r"array: expected its rate too, for example transcribe\(array, rate=16000\)"),
        (np.zeros(9), 0, "rate: expected a whole number"),
        (np.zeros(9), "16k", "rate: expected a whole number"),
        (np.zeros(9, bool), 8000, "array: expected int16, int32, uint8, or floats in −1…1, found bool$"),
        (
            np.zeros(9, np.int64),
            8000,
            r"array: .*found int64; .*: array.astype\(np.int16\) if they are 16, np.int32 if",
        ),
        (np.zeros((2, 9)), 8000, r"found the shape \(2, 9\); transpose it"),
        (np.zeros(0), 8000, "array: holds no samples"),
        (np.full(9000, 300.0), 8000, "^array: expected samples in −1…1, found 300 at 0.000 s; if they are 16-bit"),
        (np.full(9000, np.nan), 8000, "^array: expected samples in −1…1, found nan"),
        (np.zeros(9), 999, "rate: expected a whole number of samples in a second, 1000 to 384000, found 999"),
        (np.zeros((99, 65)), 8000, "array: expected at most 64 channels, found 65"),
        ([[np.zeros(9)], "there.wav"], 8000, "sound 1 of 2: sound: expected a path, .*; found list"),
        ([np.zeros(9), np.zeros(0)], 8000, "sound 2 of 2: array: holds no samples"),
        (Elsewhere(), 8000, r"array: cannot be read \(TypeError: use .cpu\(\) first\)"),
        (closed_file(), None, "file: cannot be read .*closed file"),
        (read_file(), None, r"file: nothing is left to read .*seek\(0\)"),
        ("nowhere.wav", 8000, "only an array needs its rate"),
        (None, None, "expected a path, an open binary file, bytes, or an array with its rate; found NoneType"),
        (["nowhere.wav", "there.wav"], None, "^sound 1 of 2: nowhere.wav: no such file"),
    ],
)
def test_what_is_no_sound_is_refused_with_what_to_do(transcriber, sound, rate, message):
    with pytest.raises(UserError, match=message):
        transcriber.transcribe(sound, rate)
