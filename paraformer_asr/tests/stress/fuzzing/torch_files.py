"""Weights as `torch.save` writes them: archives with changed bytes, and with pickles that want more than tensors."""

import random
from pathlib import Path

import numpy as np

from asr.published.torch_file import read_torch_file
from asr.published.torch_writer import write_torch_file
from fuzzing import checksums
from fuzzing.mutations import change_bytes, hard_number, write_changed
from fuzzing.trials import Kind

OPCODES = (
    b"\x80\x02}q\x00(X\x01\x00\x00\x00actorch\nFloatStorage\nq\x01\x85Rb0.2]e\x8a\x8b\x81\x92\x95cos\nsystem\n\x93"
)
"""Opcodes of pickle that matter: calls, classes, states, long lengths."""

STATES = (
    b".",
    b"}X\x06\0\0\0values}sb.",
    b"}X\x05\0\0\0items]sb.",
    b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__Ns\x86b.",
    b"cos\nsystem\nX\x02\0\0\0id\x85R.",
    b"cbuiltins\neval\nX\x01\0\0\01\x85R.",
    b"ctorch._utils\n_rebuild_parameter\n)R.",
    b"X\x01\0\0\0x" + b"\x85" * 5000 + b"s.",
    b"X\x01\0\0\0x" + b"]" * 5000 + b"a" * 4999 + b"s.",
    b"X\x01\0\0\0x]" + b"(222222222e" * 9 + b"s.",
    b"\x8b\xff\xff\xff\x7f.",
    b"r\xff\xff\xff\x7f.",
    b"X\xff\xff\xff\xff.",
    b"2.",
    b"0.",
)
"""Ends of a pickle: a plain one; states, calls, depth and lengths that harm."""


def _torch_samples(folder: Path) -> list[bytes]:
    tensors = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(3, np.float16)}
    tensors |= {"n": np.array(7, np.int64), "empty": np.zeros((0, 4), np.float32)}
    for name, extras in (("plain", {}), ("more", {"epoch": 3, "names": ["a", {"b": None}], "lr": 0.1})):
        write_torch_file(folder / name, tensors, extras)
    return [(folder / name).read_bytes() for name in ("plain", "more")]


def write_torch(rng: random.Random, samples: list[bytes], folder: Path) -> list[str]:
    """Write changed bytes, or an archive whose checksums are right and whose pickle is not."""
    content = rng.choice(samples)
    if rng.random() < 0.4:
        content = change_bytes(rng, content, samples)
    else:
        content = checksums.repack_zip(content, lambda name, entry: _change_entry(rng, name, entry))
    write_changed(rng, folder / "model.pt", content)
    return [str(folder / "model.pt")]


def _odd_tensor(rng: random.Random) -> bytes:
    """Return a pickle of one tensor whose offset, shape and strides are drawn, and perhaps a state put upon it."""
    odd = (0, 1, 2, 3, 4, 12, 13, -1, 2**31, 2**62, 2**63, 10**30)
    shape = [rng.choice(odd) for _ in range(rng.choice((0, 1, 2, 2, 3, 70)))]
    strides = [rng.choice(odd) for _ in shape[: rng.choice((None, None, 1))]]
    storage = b"(X\x07\0\0\0storagectorch\n" + rng.choice((b"Float", b"Half", b"Bool", b"Quant")) + b"Storage\n"
    storage += (
        b"X\x01\0\0\0"
        + rng.choice((b"0", b"1", b"9", b"/"))
        + b"X\x03\0\0\0cpu"
        + _long(rng.choice((12, *odd)))
        + b"tQ"
    )
    numbers = _long(rng.choice(odd)) + b"(" + b"".join(map(_long, shape)) + b"t(" + b"".join(map(_long, strides)) + b"t"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers + b"\x89}tR"
    return (
        b"\x80\x02"
        + rng.choice((b"}", b"ccollections\nOrderedDict\n)R"))
        + b"X\x01\0\0\0w"
        + tensor
        + b"s"
        + rng.choice(STATES)
    )


def _long(value: int) -> bytes:
    """Return the opcode of a whole number."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def _change_entry(rng: random.Random, name: str, entry: bytes) -> bytes:
    if not name.endswith("data.pkl"):
        return change_bytes(rng, entry) if entry and rng.random() < 0.1 else entry
    if (way := rng.random()) < 0.3:
        return change_bytes(rng, entry)
    if way < 0.6:
        return _odd_tensor(rng)
    changed = bytearray(entry)
    for _ in range(rng.randint(1, 4)):
        place, start = rng.randrange(len(changed)), rng.randrange(len(OPCODES))
        piece = OPCODES[start : start + rng.randint(1, 12)]
        end = place if rng.random() < 0.5 else place + len(piece)
        changed[place:end] = rng.choice((piece, hard_number(rng, 4, "little")))
    return bytes(changed)


KINDS = (Kind("torch_file", 10, _torch_samples, write_torch, lambda folder: read_torch_file(folder / "model.pt")),)
