"""The writer's file is what the library reads, and the reader takes no other file than that."""

import hashlib
import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest

from asr.checkpoints import safetensors_file
from asr.checkpoints.safetensors_file import read_safetensors, write_safetensors
from asr.errors import UserError

library = pytest.importorskip("safetensors.numpy")


@pytest.mark.parametrize("chunk_bytes", [1, 64, 1 << 20])
def test_the_library_reads_what_is_written(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(safetensors_file, "CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(0)
    arrays = {
        "params/kernel": rng.standard_normal((7, 5), np.float32).T,
        "params/taps": rng.standard_normal((3, 2, 4), np.float32).transpose(2, 0, 1),
        "params/bias": rng.standard_normal(3, np.float32)[::-1],
        "half": rng.standard_normal((2, 3)).astype(np.float16),
        "rounded": rng.standard_normal((2, 3)).astype(ml_dtypes.bfloat16),
        "step": np.array(7, np.int64),
        "nothing": np.zeros((0, 4), np.float32),
    }
    write_safetensors(tmp_path / "weights.safetensors", arrays)
    found = library.load_file(tmp_path / "weights.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("chunk_bytes", [64, 1 << 20])
def test_reading_gives_back_what_was_written_and_the_checksum_of_the_file(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(safetensors_file, "CHUNK_BYTES", chunk_bytes)
    arrays = {
        "params/kernel": np.arange(70, dtype=np.float32).reshape(7, 10),
        "rounded": np.ones((2, 3), ml_dtypes.bfloat16),
        "step": np.array(7, np.int64),
        "nothing": np.zeros((0, 4), np.float32),
    }
    path = tmp_path / "weights.safetensors"
    library.save_file(arrays, path, metadata={"format": "np"})
    found, sha256 = read_safetensors(path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found[name], array)


def write(path, header, values=bytes(8), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + values)
    return path


def entry(start=0, stop=8, shape=(2,), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop], **more}


HOSTILE = {
    "a child below a leaf": ({"a": entry(0, 8), "a/b": entry(8, 8, (0,))}, "'a/b' does not fit into a tree of names"),
    "no name": ({"": entry()}, "'' does not fit into a tree of names"),
    "an unknown dtype": ({"a": entry(dtype="F4_E2M1")}, "'a': unknown dtype 'F4_E2M1'"),
    "a dtype that is no text": ({"a": entry(dtype=[])}, "'a': unknown dtype []"),
    "a shape that overflows": ({"a": entry(shape=(2**61, 2**61))}, "'a': shape [2305843009213693952, "),
    "a product that overflows to the right size": ({"a": entry(shape=(2**33, 2**31, 2))}, "does not fill the bytes"),
    "a long shape": ({"a": entry(shape=(1,) * 100_000)}, "are not sizes"),
    "a negative size": ({"a": entry(shape=(-1, -2))}, "are not sizes"),
    "a truth as a size": ({"a": entry(shape=(True, 2))}, "are not sizes"),
    "a number of a million digits": (b'{"a": ' + b"9" * 1_000_000 + b"}", "digits"),
    "too many names": ({f"n{i}": entry(0, 0, (0,)) for i in range(50_000)}, "at most 20000 arrays, found 50000"),
    "places that overlap": ({"a": entry(), "b": entry()}, "'b' begins at byte 0, expected 8"),
    "a gap": ({"a": entry(4, 12)}, "'a' begins at byte 4, expected 0"),
    "beyond the end": ({"a": entry(0, 16, (4,))}, "its arrays take 16 bytes, but 8 follow"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, "expected dtype, shape and data_offsets"),
    "a name twice": (b'{"a": 1, "a": 2}', "a name appears twice in its header"),
    "brackets": (b"[" * 100_000, "its header is not JSON"),
    "a list": ([], "its header is not a mapping"),
    "other bytes": (b"\xff\xfe", "its header is not JSON"),
    "an escape sequence": ({"\x1b[2J": entry(dtype="\x1b[1m")}, "unknown dtype '\\x1b[1m'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_in_one_short_line(tmp_path, case):
    header, message = HOSTILE[case]
    path = write(tmp_path / "w.safetensors", header)
    with pytest.raises(UserError) as error:
        read_safetensors(path)
    text = str(error.value)
    assert text.startswith(f"{path}: cannot be read as safetensors: ") and message in text
    assert text.isprintable() and len(text) < len(str(path)) + 500


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 1000])
def test_a_header_longer_than_the_file_is_refused_before_memory_is_taken(tmp_path, length):
    path = write(tmp_path / "w.safetensors", {}, length=length)
    with pytest.raises(UserError, match=f"its header claims {length}"):
        read_safetensors(path)


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("missing", "no such file"), ("pipe", "a pipe or a device"), ("", "found a folder")):
        with pytest.raises(UserError, match=f"{tmp_path / name}: .*{message}"):
            read_safetensors(tmp_path / name)
    (tmp_path / "short").write_bytes(b"1234567")
    with pytest.raises(UserError, match="of 7 bytes"):
        read_safetensors(tmp_path / "short")
