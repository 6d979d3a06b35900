"""What codecs print about damaged files does not reach the terminal; what others print does."""

import contextlib
import ctypes
import io
import os
import sys
import threading

import numpy as np
import soundfile

from asr.data.codec_noise import codecs_silenced
from asr.data.sounds.audio import read_audio
from asr.errors import UserError


def damaged_mp3():
    """Return an MP3 with damaged frames: mpg123 says so."""
    content, rng = io.BytesIO(), np.random.default_rng(0)
    soundfile.write(content, 0.1 * rng.standard_normal(48_000), 48_000, format="MP3", subtype="MPEG_LAYER_III")
    damaged = bytearray(content.getvalue())
    for place in rng.integers(500, len(damaged), 200):
        damaged[place] = rng.integers(256)
    return bytes(damaged)


def decode(content):
    with contextlib.suppress(soundfile.SoundFileError):
        soundfile.read(io.BytesIO(content))


def print_in_c(text: bytes) -> None:
    library = ctypes.CDLL(None)
    stream = ctypes.c_void_p.in_dll(library, "stderr")
    library.fputs(text, stream)
    library.fflush(stream)


def test_a_codec_is_silent_and_nobody_else(capfd):
    damaged = damaged_mp3()
    decode(damaged)
    assert capfd.readouterr().err != ""  # else the rest says nothing
    with codecs_silenced():
        decode(damaged)
        os.write(2, b"written\n")
        print("printed", file=sys.stderr)
    assert capfd.readouterr().err == "written\nprinted\n"
    print_in_c(b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_it_is_silent_until_the_last_thread_is_done(capfd):
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with codecs_silenced():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait(10)
    with codecs_silenced():
        pass
    print_in_c(b"noise\n")
    leave.set()
    thread.join()
    print_in_c(b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_a_damaged_sound_is_named_by_us_alone(tmp_path, capfd):
    (tmp_path / "a.mp3").write_bytes(damaged_mp3())
    with contextlib.suppress(UserError):
        read_audio(tmp_path / "a.mp3", 16_000)
    assert capfd.readouterr().err == ""
