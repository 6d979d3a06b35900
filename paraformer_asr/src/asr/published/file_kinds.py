"""Describes a file or folder that holds no PyTorch weights, and what to do instead: one line for each kind."""

import string
from collections.abc import Iterable
from pathlib import Path

from asr.files import open_file
from asr.published.pickled_names import REMEDY
from asr.untrusted import escaped

START_BYTES = 512

USE_PYTORCH = "use the PyTorch weights of the model"
UNPACK = "unpack it and name the weights file inside"

SUFFIXES = {
    ".onnx": "an ONNX model: give the file a name that ends in .onnx",
    ".ort": f"an ONNX Runtime model: {USE_PYTORCH} it was exported from",
    ".pb": f"a TensorFlow graph: {USE_PYTORCH}",
    ".index": f"part of a TensorFlow checkpoint: {USE_PYTORCH}",
    ".tflite": f"a TensorFlow Lite model: {USE_PYTORCH} it was exported from",
    ".pdparams": f"Paddle weights: {USE_PYTORCH}",
    ".msgpack": f"Flax weights: {USE_PYTORCH}",
    ".engine": f"a TensorRT engine: {USE_PYTORCH} it was built from",
}

SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer: run git lfs pull, or download the weights file itself",
    b"\x89HDF\r\n\x1a\n": f"an HDF5 file, as Keras writes: {USE_PYTORCH}",
    b"\x93NUMPY": f"a single numpy array: {USE_PYTORCH}",
    b"GGUF": f"llama.cpp weights: {USE_PYTORCH}",
    b"\x1f\x8b": f"a gzip archive: {UNPACK}",
    b"BZh": f"a bzip2 archive: {UNPACK}",
    b"\xfd7zXZ": f"an xz archive: {UNPACK}",
    b"\x28\xb5\x2f\xfd": f"a zstd archive: {UNPACK}",
    b"7z\xbc\xaf": f"a 7z archive: {UNPACK}",
    b"Rar!": f"a rar archive: {UNPACK}",
    b"\x80": f"a pickle that torch.save did not write: {REMEDY}",
}
"""First bytes of a file → what it is; the first match counts."""

WEB_PAGES = ("<!doctype html", "<html", "<head", "<?xml", "<svg")

WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".tar")
"""Suffixes of files that may hold PyTorch weights."""

FOLDERS = {
    "saved_model.pb": f"a TensorFlow SavedModel: {USE_PYTORCH}",
    ".metadata": "a sharded checkpoint: merge it with torch.distributed.checkpoint.format_utils",
    "*.ckpt*.index": f"a TensorFlow checkpoint: {USE_PYTORCH}",
    "*.onnx": "a folder with an ONNX model: name the file in it",
}
"""Pattern of a file name → what a folder with such a file is."""


def describe_file(path: Path) -> str:
    """Return what a file is that is not an archive of torch, as the end of a message."""
    with open_file(path) as file:
        start = file.read(START_BYTES)
    if not start:
        return "the file is empty: copy or download it again"
    if kind := next((kind for signature, kind in SIGNATURES.items() if start.startswith(signature)), None):
        return f"this is {kind}"
    text = start.decode("latin-1").lstrip("\xef\xbb\xbf" + string.whitespace)
    if text.lower().startswith(WEB_PAGES):
        return "this is a web page instead of the file: download the file through the page's download link"
    if start.startswith(b"PK"):
        return "the file is truncated or damaged: it starts like a torch.save file but has no valid end; copy it again"
    if start[257:262] == b"ustar":
        return f"this is a tar archive: {UNPACK}"
    if path.suffix.lower() in SUFFIXES:
        return f"this is {SUFFIXES[path.suffix.lower()]}"
    if start[:1] == b"\x08" and start[1:2] < b"\x20" and start[2:3] in (b"\x12", b"\x1a", b"\x3a"):
        return f"this is {SUFFIXES['.onnx']}"
    if all(c in string.printable for c in text):
        return f"expected weights written by torch.save, found text ({escaped(text[:40])!r} …)"
    return f"expected weights written by torch.save (a zip archive), found unknown content: {USE_PYTORCH}"


def describe_archive(names: Iterable[str]) -> str:
    """Return what a zip archive without a state dict is, from the names of its entries."""
    names = list(names)
    if any(name.endswith("constants.pkl") or "/code/" in f"/{name}" for name in names):
        return "this is a TorchScript program: load it with torch.jit and save model.state_dict()"
    if any(name.endswith("model.weights.h5") for name in names):
        return f"this is a Keras model: {USE_PYTORCH}"
    if any(name.endswith(".npy") for name in names):
        return f"this is a numpy .npz: {USE_PYTORCH}"
    if inside := [name for name in names if name.endswith((*WEIGHTS, "/data.pkl"))]:
        return f"this is a zip archive that contains {escaped(inside[0])}: {UNPACK}"
    return f"this is a zip archive without weights ({escaped(', '.join(names[:3]))} …): {UNPACK}"


def describe_folder(folder: Path) -> str:
    """Return what a folder is that was named instead of a weights file."""
    for pattern, kind in FOLDERS.items():
        if any(folder.glob(pattern)):
            return f"this is {kind}"
    inside = sorted(escaped(path.name) for path in folder.iterdir() if path.name.endswith(WEIGHTS))
    if inside:
        return f"this is a folder: name the weights file in it, such as {folder / inside[0]}"
    return "this is a folder without a weights file: name the file itself"
