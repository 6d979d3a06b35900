"""What codecs print about damaged files does not reach the terminal; what others print does."""

import contextlib
import ctypes
import io
import os
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from seg.data.codec_noise import codecs_silenced
from seg.data.image_file import read_image
from seg.errors import UserError


def damaged_tiff():
    """Return a TIFF whose compressed strip is damaged: libtiff says so."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(
        content, "TIFF", compression="tiff_lzw"
    )
    damaged = bytearray(content.getvalue())
    damaged[100:400] = b"\xff" * 300
    return bytes(damaged)


def decode(content):
    with contextlib.suppress(OSError):
        Image.open(io.BytesIO(content)).load()


def print_in_c(text: bytes) -> None:
    library = ctypes.CDLL(None)
    stream = ctypes.c_void_p.in_dll(library, "stderr")
    library.fputs(text, stream)
    library.fflush(stream)


def test_a_codec_is_silent_and_nobody_else(capfd):
    damaged = damaged_tiff()
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


def test_a_damaged_image_is_named_by_us_alone(tmp_path, capfd):
    (tmp_path / "a.tif").write_bytes(damaged_tiff())
    with pytest.raises(UserError, match=f"{tmp_path / 'a.tif'}: "):
        read_image(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""
