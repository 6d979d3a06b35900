"""Mistakes of users, passed to the real commands: each must be answered by one message, and nothing may be lost."""

import hashlib
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from faulting.outcome import Outcome
from faulting.tiny_run import finish_whole
from PIL import Image

from seg.config import ModelConfig
from seg.published.mapping import export_arrays
from seg.published.milesial import milesial_pairs
from seg.published.published_model import array_shapes
from seg.published.torch_writer import write_torch_file

SETTINGS = ("training.num_epochs=2",)
WRITTEN = "written"
"""Name of the file or folder that a command would write in the folder of its case."""

LIMIT_S = 300.0
"""The slowest case trains to its end, which takes half a minute on a machine with nothing else to do."""


class Mistake(NamedTuple):
    """A command with something wrong.

    Attributes:
        what: is wrong.
        command: words behind `python -m seg.`; "{}" stands for the folder of the case.
        said: patterns that its output must have.
        code: with which it must end.
        left: files that it must have written in spite of all, below `WRITTEN`; nothing else may be there.
    """

    what: str
    command: str
    said: tuple[str, ...]
    code: int = 2
    left: tuple[str, ...] = ()


def make_mistakes(folder: Path, run: Path, place: Path) -> list[Mistake]:
    """Write all inputs into a folder, with copies of a run, and return the mistakes.

    Args:
        folder: for the inputs.
        run: a good run of two epochs.
        place: where the folder will be copied to for each case.
    """
    (folder / "key.yaml").write_text("name: a\ntraining:\n  batch_size: 4\n  num_epoch: 3\n")
    (folder / "type.yaml").write_text("name: a\ntraining: {batch_size: many}\n")
    (folder / "images.yaml").write_text("data: {dataset: image_folder, size: [32, 32], num_threads: 1}\n")
    write_data_sets(folder)
    write_images(folder / "images")
    write_weights(folder, place)
    _, damaged, alone = (Path(shutil.copytree(run, folder / name)) for name in ("run", "damaged", "alone"))
    for path in sorted((alone / "checkpoints").iterdir())[:-1]:
        shutil.rmtree(path)
    flipped = flip_a_byte(damaged), flip_a_byte(alone)
    convert = f"convert --out {{}}/{WRITTEN} --from milesial {{}}"
    to_images = "--config {}/images.yaml data.root={}"
    bad_images = ("bomb.png", "empty.png", "text.png", "truncated.png")
    return [
        Mistake("misspelt key in a file", "train --config {}/key.yaml", (r"key\.yaml:4", "num_epochs")),
        Mistake("misspelt key as an argument", "train --config {}/images.yaml model.bas_width=8", ("base_width",)),
        Mistake("wrong type", "train --config {}/type.yaml", (r"type\.yaml:2", "batch_size", "many")),
        Mistake("no such folder of data", f"train {to_images}/nowhere runs_dir={{}}/{WRITTEN}", ("nowhere",)),
        Mistake("mask with an unknown value", f"check {to_images}/values", (r"b\.png", "77")),
        Mistake("mask of another size", f"check {to_images}/sizes", (r"b\.png", "16", "24")),
        Mistake("three unreadable images in the data", f"check {to_images}/unreadable", bad_images[1:]),
        Mistake(
            "an empty, a truncated, a text file and a header of 50,000 × 50,000 pixels, all named .png",
            f"infer --run {{}}/run --out {{}}/{WRITTEN} {{}}/images",
            bad_images,
            left=(".seg_done.jsonl", "good.png", "good_overlay.png"),
        ),
        Mistake("flipped byte, previous checkpoint good", "train --resume {}/damaged", (flipped[0],), code=0),
        Mistake(
            "flipped byte in the only checkpoint",
            f"eval --run {{}}/alone --out {{}}/{WRITTEN}",
            (flipped[1],),
        ),
        Mistake(
            "run directory of another model",
            "train --resume {}/damaged model.base_width=16 training.num_epochs=9",
            ("another model",),
        ),
        Mistake("pickle that runs a command", f"{convert}/evil.pth", ("system",)),
        Mistake("truncated weights", f"{convert}/cut.pth", (r"cut\.pth",)),
        Mistake(
            "tensors missing, surplus and of a wrong shape",
            f"{convert}/tensors.pth",
            (r"inc\.double_conv\.0\.weight", r"outc\.conv\.bias", "surplus"),
        ),
    ]


# ---- what is written for them ----


def flip_a_byte(run: Path) -> str:
    """Change a byte in the largest file of the newest checkpoint; return a pattern of its name."""
    newest = max((run / "checkpoints").iterdir())
    path = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return re.escape(path.relative_to(newest).as_posix())


def write_data_sets(folder: Path) -> None:
    """Write three data sets in each of which something is wrong."""
    rng = np.random.default_rng(0)
    for name in ("values", "sizes", "unreadable"):
        (folder / name).mkdir()
        (folder / name / "classes.json").write_text('{"names": ["ground", "thing"]}')
        for split in ("train", "val"):
            images, masks = (folder / name / split / part for part in ("images", "labels"))
            for part in (images, masks):
                part.mkdir(parents=True)
            for stem in "ab":
                Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(images / f"{stem}.png")
                Image.fromarray(rng.integers(0, 2, (24, 24), np.uint8)).save(masks / f"{stem}.png")
    Image.fromarray(np.full((24, 24), 77, np.uint8)).save(folder / "values/train/labels/b.png")
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(folder / "sizes/train/labels/b.png")
    write_images(folder / "unreadable/train/images")
    for name in ("empty", "truncated", "text", "good"):
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / f"unreadable/train/labels/{name}.png")
    (folder / "unreadable/train/images/bomb.png").unlink()


def write_images(folder: Path) -> None:
    """Write an image that is sound and four that are not."""
    folder.mkdir(exist_ok=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    image.save(folder / "good.png")
    (folder / "empty.png").touch()
    (folder / "truncated.png").write_bytes((folder / "good.png").read_bytes()[:2000])
    (folder / "text.png").write_text("This is no image.\n")
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = (struct.pack(">I", 13) + header, b"\0\0\0\0IDAT", b"\0\0\0\0IEND")
    content = b"".join(chunk + struct.pack(">I", zlib.crc32(chunk[4:])) for chunk in chunks)
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def write_weights(folder: Path, place: Path) -> None:
    """Write `.pth` files: one with a command in its pickle, to write into `place`, one cut, one with wrong tensors."""
    with zipfile.ZipFile(folder / "evil.pth", "w") as archive:
        archive.writestr("archive/data.pkl", f"cposix\nsystem\n(Vtouch {place / WRITTEN}\ntR.")
        archive.writestr("archive/version", "3\n")
    config = ModelConfig(name="unet", num_classes=3, base_width=4, depth=2)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in array_shapes(config).items()}
    tensors = dict(export_arrays(milesial_pairs(config), arrays))
    write_torch_file(folder / "whole.pth", tensors)
    content = (folder / "whole.pth").read_bytes()
    (folder / "cut.pth").write_bytes(content[: len(content) // 2])
    tensors["inc.double_conv.0.weight"] = np.zeros((4, 3, 5, 5), np.float32)
    tensors["surplus"] = tensors.pop("outc.conv.bias")
    write_torch_file(folder / "tensors.pth", tensors)


# ---- what is made of them ----


def try_mistakes(folder: Path) -> Outcome:
    """Pass each mistake to its command, in its own folder."""
    run, inputs, place = finish_whole(folder / "whole", *SETTINGS), folder / "inputs", folder / "case"
    shutil.rmtree(inputs, ignore_errors=True)
    inputs.mkdir()
    rows, failures, cases = [], [], []
    for mistake in make_mistakes(inputs, run, place):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(inputs, place)
        case, faults = try_mistake(place, mistake)
        rows.append([mistake.what, mistake.command.split()[0], case["code"], case["seconds"], not faults])
        failures += [f"{mistake.what}: {fault}" for fault in faults]
        cases.append(case)
    heads = ["mistake", "command", "exit code", "seconds", "named, nothing lost"]
    return Outcome(heads, rows, failures, facts={"cases": cases})


def try_mistake(place: Path, mistake: Mistake) -> tuple[dict, list[str]]:
    """Return what the command made of it, and what should not be."""
    before = checksums(place)
    command = [sys.executable, "-m", *f"seg.{mistake.command}".replace("{}", str(place)).split()]
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        case = {"what": mistake.what, "code": -1, "seconds": LIMIT_S, "said": []}
        return case, [f"no answer within {LIMIT_S:g} s"]
    seconds, output = time.monotonic() - began, done.stdout + done.stderr
    after = {name: checksum for name, checksum in checksums(place).items() if not name.startswith(f"{WRITTEN}/")}
    faults = [f"exit code {done.returncode}, expected {mistake.code}"] if done.returncode != mistake.code else []
    faults += ["a traceback"] if "Traceback" in output else []
    faults += [f"the message has no {pattern!r}" for pattern in mistake.said if not re.search(pattern, output)]
    if mistake.code:  # what goes on may write
        faults += [f"changed or gone: {name}" for name in before if after.get(name) != before[name]]
        faults += [f"written: {name}" for name in after.keys() - before.keys()]
    written = sorted(path.name for path in (place / WRITTEN).rglob("*") if path.is_file())
    faults += [f"written: {written}, expected {sorted(mistake.left)}"] if written != sorted(mistake.left) else []
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return {"what": mistake.what, "code": done.returncode, "seconds": round(seconds, 2), "said": said}, faults


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder; who holds the lock of a run is not a part of it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
