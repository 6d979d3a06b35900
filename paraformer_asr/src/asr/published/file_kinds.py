"""Says what a file or folder is that holds no weights of torch, and what to do: one line for each kind."""

import string
from collections.abc import Iterable
from pathlib import Path

from asr.files import open_file
from asr.published.pickled_names import REMEDY
from asr.untrusted import escaped

START_BYTES = 512

LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before 1.6 begin: a pickle of a magic number."""

OTHER_FRAMEWORK = "take the PyTorch weights of the model"
UNPACK = "unpack it, and name the file of weights that was in it"

SUFFIXES = {
    ".onnx": f"an ONNX program: its names are no longer those of the network, {OTHER_FRAMEWORK} it was exported from",
    ".ort": f"a program of ONNX Runtime: {OTHER_FRAMEWORK} it was exported from",
    ".pb": f"a program of TensorFlow: {OTHER_FRAMEWORK}",
    ".index": f"a part of a TensorFlow checkpoint: {OTHER_FRAMEWORK}",
    ".tflite": f"a program of TensorFlow Lite: {OTHER_FRAMEWORK} it was exported from",
    ".pdparams": f"weights of Paddle: {OTHER_FRAMEWORK}",
    ".msgpack": f"weights of Flax: {OTHER_FRAMEWORK}",
    ".engine": f"a program of TensorRT: {OTHER_FRAMEWORK} it was built from",
}
"""By the ending of a name."""

SIGNATURES = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS: run git lfs pull, or download the file of weights itself",
    ),
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes it: {OTHER_FRAMEWORK}"),
    (b"\x93NUMPY", f"one array of numpy: {OTHER_FRAMEWORK}"),
    (b"GGUF", f"weights in llama.cpp's form: {OTHER_FRAMEWORK}"),
    (b"\x1f\x8b", f"an archive (gzip): {UNPACK}"),
    (b"BZh", f"an archive (bzip2): {UNPACK}"),
    (b"\xfd7zXZ", f"an archive (xz): {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"an archive (zstd): {UNPACK}"),
    (b"7z\xbc\xaf", f"an archive (7z): {UNPACK}"),
    (b"Rar!", f"an archive (rar): {UNPACK}"),
    (
        LEGACY_TORCH,
        "the format of torch before 1.6: load it with torch and save it again",
    ),
    (b"\x80", f"a pickle that torch.save did not write: {REMEDY}"),
)
"""By the first bytes."""

WEB_PAGES = ("<!doctype html", "<html", "<head", "<?xml", "<svg")

WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".tar")
"""Endings of files that may hold weights of torch."""

FOLDERS = (
    ("saved_model.pb", f"a SavedModel of TensorFlow: {OTHER_FRAMEWORK}"),
    (".metadata", "a checkpoint in parts of torch.distributed: join them by torch.distributed.checkpoint.format_utils"),
    ("*.ckpt*.index", f"a checkpoint of TensorFlow: {OTHER_FRAMEWORK}"),
    ("*.onnx", f"a folder with an ONNX program: {OTHER_FRAMEWORK} it was exported from"),
)
"""By a file in a folder."""


def describe_file(path: Path) -> str:
    """Return what a file that is no archive of torch's is, as the end of a message.

    Raises:
        OSError: it cannot be read.
    """
    with open_file(path) as file:
        start = file.read(START_BYTES)
    if not start:
        return "the file is empty: copy or download it again"
    for signature, what in SIGNATURES:
        if start.startswith(signature):
            return f"this is {what}"
    text = start.decode("latin-1").lstrip("\xef\xbb\xbf" + string.whitespace)
    if text.lower().startswith(WEB_PAGES):
        return "this is a web page in place of the file: download the file itself, by the page's download link"
    if start.startswith(b"PK"):
        return "the file is cut off or damaged: it begins as torch.save writes it and does not end so; copy it again"
    if start[257:262] == b"ustar":
        return f"this is an archive (tar): {UNPACK}"
    if path.suffix.lower() in SUFFIXES:
        return f"this is {SUFFIXES[path.suffix.lower()]}"
    if start[:1] == b"\x08" and start[1:2] < b"\x20" and start[2:3] in (b"\x12", b"\x1a", b"\x3a"):
        return f"this is {SUFFIXES['.onnx']}"
    if all(c in string.printable for c in text):
        return f"expected weights as torch.save writes them, found a text ({escaped(text[:40])!r} …)"
    return f"expected weights as torch.save writes them, a zip archive, found something else: {OTHER_FRAMEWORK}"


def describe_archive(names: Iterable[str]) -> str:
    """Return what a zip archive without a state dict is, by the names of its entries."""
    names = list(names)
    if any(name.endswith("constants.pkl") or "/code/" in f"/{name}" for name in names):
        return "this is a TorchScript program: load it with torch.jit and save model.state_dict()"
    if any(name.endswith((".npy", "model.weights.h5")) for name in names):
        keras = any(name.endswith(".h5") for name in names)
        return f"this is {'a model of Keras' if keras else 'an .npz of numpy'}: {OTHER_FRAMEWORK}"
    if inside := [name for name in names if name.endswith((*WEIGHTS, "/data.pkl"))]:
        return f"this is a zip archive with {escaped(inside[0])} in it: {UNPACK}"
    return f"this is another zip archive ({escaped(', '.join(names[:3]))} …): {UNPACK}"


def describe_folder(folder: Path) -> str:
    """Return what a folder in place of a file of weights is."""
    for pattern, what in FOLDERS:
        if any(folder.glob(pattern)):
            return f"this is {what}"
    inside = sorted(escaped(path.name) for path in folder.iterdir() if path.name.endswith(WEIGHTS))
    if inside:
        return f"this is a folder: name the file of weights in it, such as {folder / inside[0]}"
    return "this is a folder without a file of weights: name the file itself"
