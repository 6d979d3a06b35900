"""`asr infer --stream`: events as lines, from files, raw samples and a microphone; nothing that is said is ignored."""

import io
import json
import queue
import sys
import types

import numpy as np
import pytest
import soundfile

import asr
from asr import infer
from asr.errors import EXIT_OK, UserError
from asr.inference import live
from tiny_model import RATE_HZ
from tiny_stream import make_transcriber, random_wave

SOUND = (random_wave(1.7, seed=3) * 32768).astype(np.int16)


@pytest.fixture(scope="module")
def transcriber():
    return make_transcriber()


@pytest.fixture(scope="module")
def text(transcriber):
    return transcriber.transcribe(SOUND, RATE_HZ).text


@pytest.fixture(scope="module")
def folder(transcriber, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "streaming"
    asr.save(transcriber, folder)
    soundfile.write(folder.parent / "talk.wav", SOUND, RATE_HZ, subtype="PCM_16")
    return folder


@pytest.fixture
def run(transcriber, folder, monkeypatch, capsys):
    """Return a function that calls the command and returns (exit code, lines, what the standard error has)."""
    monkeypatch.setattr("asr.inference.transcriber.load_transcriber", lambda *_: transcriber)  # it is compiled

    def call(*arguments, samples=None):
        if samples is not None:
            monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(samples)))
        monkeypatch.setattr(sys, "argv", ["asr infer", "--model", str(folder), *map(str, arguments)])
        code = infer.main()
        shown = capsys.readouterr()
        return code, shown.out.splitlines(), shown.err

    return call


def test_a_file_is_written_while_it_is_read(run, folder, text):
    code, lines, err = run("--stream", folder.parent / "talk.wav")
    assert code == EXIT_OK
    *partial, final = [line.split(None, 2) for line in lines]
    assert len(partial) > 2
    assert {kind for _, kind, _ in partial} == {"partial"}
    assert (float(final[0]), final[1], final[2]) == (1.7, "final", text)
    for (heard_s, _, earlier), (later_s, _, later) in zip(partial, partial[1:], strict=False):
        assert float(heard_s) <= float(later_s)
        assert later.startswith(earlier)
    assert "1.7 s of sound, real-time factor" in err and "first token" in err


def test_raw_samples_as_json(run, text):
    _, lines, _ = run("--stream", "--format", "json", "-", samples=SOUND.tobytes())
    events = [json.loads(line) for line in lines]
    assert "".join(event["text"] for event in events) == text == events[-1]["transcript"]["text"]
    assert [event["final"] for event in events] == [False] * (len(events) - 1) + [True]
    assert all(token["start_s"] <= token["end_s"] for event in events for token in event["tokens"])


def test_raw_samples_at_another_rate(run):
    _, lines, err = run("--stream", "--rate", 2 * RATE_HZ, "-", samples=np.repeat(SOUND, 2).tobytes())
    assert lines and "1.7 s of sound" in err


@pytest.mark.parametrize(("samples", "message"), [(b"", "is empty"), (SOUND.tobytes()[:-1], "ends within a sample")])
def test_what_was_said_is_written_before_input_that_is_cut_off_is_refused(run, capsys, samples, message):
    with pytest.raises(UserError, match=message):
        run("--stream", "-", samples=samples)
    (*_, last) = capsys.readouterr().out.splitlines()
    assert "final" in last


def test_silence_is_named(run):
    code, (line,), err = run("--stream", "-", samples=bytes(16000))
    assert code == EXIT_OK and line.split() == ["1.00", "final"]
    assert "no text in 1.0 s of sound" in err


def test_a_file_is_read_as_fast_as_it_is_spoken(run, folder, monkeypatch):
    waits, now = [], [0.0]

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(live.time, "sleep", sleep)
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    run("--stream", "--real-time", folder.parent / "talk.wav")
    assert sum(waits) == pytest.approx(1.7)
    assert max(waits) == pytest.approx(live.PIECE_S)


def test_a_microphone_is_heard_until_ctrl_c(run, text, monkeypatch):
    class Microphone:
        def __init__(self, callback, samplerate, channels, dtype, blocksize):
            assert (samplerate, channels, dtype) == (RATE_HZ, 1, "int16")
            self.blocks, self.callback = np.split(SOUND, range(blocksize, len(SOUND), blocksize)), callback

        def __enter__(self):
            for block in self.blocks:
                self.callback(block[:, None], len(block), None, None)

        def __exit__(self, *error):
            pass

    class Pieces(queue.SimpleQueue):
        def get(self):
            if self.empty():
                raise KeyboardInterrupt
            return super().get()

    module = types.SimpleNamespace(InputStream=Microphone, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr(live.queue, "SimpleQueue", Pieces)
    code, lines, err = run("--microphone")
    assert code == EXIT_OK and lines[-1].endswith(text) and "listening" in err


def test_without_the_extra_the_microphone_names_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match=r"pip install 'paraformer_asr\[microphone\]'"):
        run("--microphone")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stream"], "one sound file, or -, found 0 files"),
        (["--stream", "a.wav", "b.wav"], "found 2 files"),
        (["--microphone", "a.wav"], "no file beside --microphone"),
        (["--microphone", "--real-time"], "--real-time goes with a file"),
        (["--real-time", "a.wav"], "--real-time goes with --stream"),
        (["--rate", "0", "a.wav"], "--rate goes with --stream"),
        (["--second-pass", "x", "a.wav"], "--second-pass goes with --stream"),
        (["--stream", "--rate", "0", "-"], "rate: expected a whole number of samples in a second, .* found 0"),
        (["--stream", "--rate", "8000", "a.wav"], "a sound file states its own"),
        (["--stream", "--format", "srt", "a.wav"], "text or json, not srt"),
        (["--stream", "--out", "x", "a.wav"], "takes no --out"),
        (["--stream", "--hotwords", "x", "a.wav"], "takes no --hotwords"),
        (["--stream", "--decoder", "cif", "a.wav"], "takes no --decoder"),
        (["--stream", "--channel", "each", "a.wav"], "hears one channel"),
        (["--stream", "a.wav"], "a.wav: no such file"),
    ],
)
def test_what_contradicts_or_has_no_effect_is_refused(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run(*arguments)
