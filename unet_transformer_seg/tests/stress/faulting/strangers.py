"""Folders of strangers, passed to the real commands: nothing hangs, leads out of a folder, or commands the terminal."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from faulting.mistakes import WRITTEN, Mistake, try_mistake
from faulting.outcome import Outcome
from faulting.tiny_run import Start, finish_whole, run_of
from PIL import Image

from seg.inference.done_record import RECORD
from seg.untrusted import HARMFUL

SETTINGS = ("training.num_epochs=1",)
INFER = f"infer --no-overlay --out {{}}/{WRITTEN}"
NAMES = ("..png", "...", ".png", "a\x1b[2J.png", "b\nerror: c.png", os.fsdecode(b"caf\xe9.png"), "\u202egnp.png")
SAFE = ("_.png", "___.png", "_png.png", "a_[2J.png", "b_error: c.png", "caf_.png", "_gnp.png")
LONG = f"{'x' * 251}.png"
PLANTED, PRECIOUS = (".a.png.part", "a.png.part"), "precious"


class Stranger(NamedTuple):
    """What somebody put into a folder, and the command that comes upon it.

    Attributes:
        mistake: the command, and what must come of it.
        plant: (folder of the case) → puts it there; `run` and `model` are there already.
    """

    mistake: Mistake
    plant: Callable[[Path], None]


def make_strangers() -> list[Stranger]:
    """Return all cases."""
    of_run, of_model = f"{INFER} --run {{}}/run {{}}/in", f"{INFER} --model {{}}/model {{}}/in"
    convert = f"convert --out {{}}/{WRITTEN} --from smp {{}}/w.pth"
    strangers = [
        Stranger(Mistake("names that steer", of_run, ("not safe",), 0, (RECORD, *SAFE[3:])), names),
        Stranger(Mistake("one name too long", of_run, ("too long", "1 of 3"), 2, (RECORD, "a.png", LONG)), too_long),
        Stranger(Mistake("planted links", of_run, (), 0, (RECORD, *PLANTED, "a.png")), links),
        Stranger(Mistake("a link out of the results", of_run, ("leads out",)), folder_link),
        Stranger(Mistake("a pipe as an image", f"{of_run}/pipe.png", ("pipe or a device",)), pipe("in/pipe.png")),
        Stranger(Mistake("a pipe as weights", convert, ("pipe or a device",)), pipe("w.pth")),
    ]
    for name, safe in zip(NAMES[:3], SAFE[:3], strict=True):
        mistake = Mistake(f"the name {name}", f"{of_run}/{name}", ("not safe",), 0, (RECORD, safe))
        strangers.append(Stranger(mistake, named(name)))
    for name in ("config.yaml", "classes.json", "checksums.txt"):
        strangers.append(Stranger(Mistake(f"a pipe as {name}", of_model, (name,)), pipe(f"model/{name}")))
    for what, said, plant in (
        ("3 GiB of holes as checksums", "checksums.txt: expected at most", holes),
        ("an edited config", "config.yaml: is not as it was written", edited),
        ("weights that are not finite", "not finite", not_finite),
        ("a header of 2^60 bytes", "cannot be read as safetensors", long_header),
        ("200,000 names in a header", "cannot be read as safetensors", many_names),
        ("a child below a leaf", "does not fit into a tree", child_of_leaf),
    ):
        strangers.append(Stranger(Mistake(what, of_model, (said,)), plant))
    return strangers


# ---- what they put there ----


def image(path: Path) -> None:
    """Write a small image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(path, format="PNG")


def names(place: Path) -> None:
    """Write images under names that are searched for in a folder; hidden ones are not."""
    for name in NAMES[3:]:
        image(place / "in" / name)


def named(name: str) -> Callable[[Path], None]:
    """Return what writes one image under this name."""
    return lambda place: image(place / "in" / name)


def too_long(place: Path) -> None:
    """Write an image whose results would have longer names than a file can have."""
    image(place / "in/a.png")
    for suffix in (".jpg", ".png"):  # of the second one the results get a number
        image(place / "in" / f"{'x' * 251}{suffix}")


def links(place: Path) -> None:
    """Plant links where a writer might come by."""
    image(place / "in/a.png")
    (place / "precious").write_text(PRECIOUS)
    (place / WRITTEN).mkdir()
    for name in (*PLANTED, "a.png"):
        (place / WRITTEN / name).symlink_to(place / "precious")


def folder_link(place: Path) -> None:
    """Plant a link to a folder elsewhere among the results."""
    image(place / "in/sub/a.png")
    (place / "elsewhere").mkdir()
    (place / WRITTEN).mkdir()
    (place / WRITTEN / "sub").symlink_to(place / "elsewhere")


def pipe(name: str) -> Callable[[Path], None]:
    """Return what puts a pipe that nobody writes to in the place of a file."""

    def plant(place: Path) -> None:
        image(place / "in/a.png")
        (place / name).unlink(missing_ok=True)
        os.mkfifo(place / name)

    return plant


def holes(place: Path) -> None:
    """Make the checksums endless."""
    image(place / "in/a.png")
    with (place / "model/checksums.txt").open("r+b") as file:
        file.truncate(3 << 30)


def edited(place: Path) -> None:
    """Change a setting."""
    image(place / "in/a.png")
    with (place / "model/config.yaml").open("a") as file:
        file.write("# better\n")


def _forge(place: Path, content: bytes) -> None:
    """Replace the weights, and their checksum."""
    image(place / "in/a.png")
    (place / "model/weights.safetensors").write_bytes(content)
    lines = [line for line in (place / "model/checksums.txt").read_text().splitlines() if "weights" not in line]
    lines.append(f"{hashlib.sha256(content).hexdigest()}  weights.safetensors")
    (place / "model/checksums.txt").write_text("\n".join(lines) + "\n")


def _header(content: dict) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


def not_finite(place: Path) -> None:
    """Put a NaN at the end of the weights."""
    content = (place / "model/weights.safetensors").read_bytes()
    _forge(place, content[:-4] + struct.pack("<f", float("nan")))


def long_header(place: Path) -> None:
    """Claim a header that no memory holds."""
    _forge(place, struct.pack("<Q", 1 << 60) + b"{}")


def many_names(place: Path) -> None:
    """Name 200,000 arrays without a byte."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    _forge(place, _header({f"n{number}": entry for number in range(200_000)}))


def child_of_leaf(place: Path) -> None:
    """Name an array below an array."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    _forge(place, _header({"params/a": entry, "params/a/b": entry}))


# ---- what is made of them ----


def try_strangers(folder: Path) -> Outcome:
    """Give each folder to its command, and take a run's directory away while it trains."""
    run, model, place = finish_whole(folder / "whole", *SETTINGS), folder / "model", folder / "case"
    command = [sys.executable, "-m", "seg.export", "--run", str(run), "--out", str(model), "--force"]
    subprocess.run(command, check=True, capture_output=True)
    rows, failures, cases = [], [], []
    for stranger in make_strangers():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        shutil.copytree(run, place / "run")
        shutil.copytree(model, place / "model")
        stranger.plant(place)
        case, faults = try_mistake(place, stranger.mistake)
        lines = "\n".join(case["said"])
        faults += [f"the terminal was given {match[0]!r}"] if (match := HARMFUL.search(lines.replace("\n", ""))) else []
        faults += ["a link was followed"] if _read(place / "precious") not in ("", PRECIOUS) else []
        faults += [f"left over: {path.name}" for path in place.rglob("*.part") if not path.is_symlink()]
        rows.append([case["what"], stranger.mistake.command.split()[0], case["code"], case["seconds"], not faults])
        failures += [f"{case['what']}: {fault}" for fault in faults]
        cases.append(case)
    case, faults = take_run_away(folder / "vanishing")
    rows.append([case["what"], "train", case["code"], case["seconds"], not faults])
    failures += [f"{case['what']}: {fault}" for fault in faults]
    heads = ["what a stranger did", "command", "exit code", "seconds", "named, nothing lost"]
    return Outcome(heads, rows, failures, facts={"cases": [*cases, case]})


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def take_run_away(folder: Path) -> tuple[dict, list[str]]:
    """Remove the directory of a run that trains; return what became of it, and what should not be."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    start = Start(folder, "training.num_epochs=500")
    faults = [] if start.wait_for(lambda: any(folder.glob("runs/*/checkpoints/step_*"))) else ["nothing was saved"]
    run = run_of(folder)
    shutil.rmtree(run, ignore_errors=True)
    code = start.finish(60)
    faults += [f"exit code {code}, expected 2"] if code != 2 else []
    faults += ["no word of it"] if "gone" not in start.output() and "No such file" not in start.output() else []
    faults += ["a traceback"] if "Traceback" in start.output() else []
    faults += ["the directory was made anew"] if run.exists() else []
    return {"what": "a run's directory vanishes", "code": code, "seconds": round(time.monotonic() - began, 2)}, faults
