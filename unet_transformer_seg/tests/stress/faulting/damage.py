"""Every file of a checkpoint damaged in every way: each must be found and named, and the checkpoint before it used."""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
from faulting.comparison import compare_arrays, differences, read_checkpoint
from faulting.outcome import Outcome
from faulting.tiny_run import Start, finish_whole, saved_steps

from seg.checkpoints import CheckpointStore
from seg.checkpoints.arrays import named_arrays
from seg.errors import UserError
from seg.record.run_dir import load_run
from seg.training.setup import build_setup

SETTINGS = ("training.num_epochs=2",)
NUM_RANDOM_FLIPS = 2
Damage = tuple[str, Callable[[Path], None]]
"""What it is called, and what does it to a file."""


def damages(size: int, rng: Random) -> list[Damage]:
    """Return the damages for a file of `size` bytes, each of which changes it."""
    places = {"first byte": 0, "last byte": size - 1, "middle": size // 2}
    places |= {f"random byte {i}": rng.randrange(size) for i in range(NUM_RANDOM_FLIPS) if size}
    flips = [(f"bit flipped: {name}", _flip(place, rng.randrange(8))) for name, place in places.items() if size]
    cuts = [("truncated to half", _truncate(size // 2)), ("emptied", _truncate(0))] if size else []
    return [*flips, *cuts, ("removed", Path.unlink), ("a directory instead", _replace_by_directory)]


def _flip(place: int, bit: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 1 << bit
        path.write_bytes(content)

    return flip


def _truncate(size: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def _replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def files_of(folder: Path) -> list[str]:
    """Return the paths of all files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def damage_all(folder: Path, seed: int) -> Outcome:
    """Damage each file of the newest of two checkpoints in each way, with and without the other one beside it."""
    whole = finish_whole(folder / "whole", *SETTINGS)
    restore = make_restore(whole)
    previous, newest = (whole / "checkpoints" / f"step_{step:08d}" for step in saved_steps(folder / "whole"))
    expected, cases = read_checkpoint(previous), []
    for name in files_of(newest):
        rng = Random(f"{seed} {name}")
        for what, damage in damages((newest / name).stat().st_size, rng):
            for alone in (False, True):
                place = copy_checkpoints(folder / "case", [newest] if alone else [previous, newest])
                damage(place / newest.name / name)
                answer = restore(place)
                outcome = judge(answer, f"{newest.name}/{name}", alone, expected)
                cases.append({"file": name, "damage": what, "alone": alone, **outcome})
    failures = [
        f"{case['file']}, {case['damage']}, {'alone' if case['alone'] else 'with another'}: {case['fault']}"
        for case in cases
        if case["fault"]
    ]
    ends = resume_damaged(folder, whole, newest)
    failures += [f"{what}: {text}" for what, faults in ends.items() for text in faults]
    heads = ["damage", "tried", "found and named", "previous one used", "refused, being alone", "accepted"]
    notes = [f"{len(files_of(newest))} files; resumed to the end with {what}: {'; '.join(faults) or 'the same bits'}"
             for what, faults in ends.items()]  # fmt: skip
    return Outcome(heads, count(cases), failures, notes, {"cases": cases, "resumed": ends})


def make_restore(run: Path) -> Callable[[Path], tuple[dict | None, str]]:
    """Return a function from a folder of checkpoints to (the arrays that a resume takes or None, what was said)."""
    abstract_state = build_setup(load_run(run)[0]).abstract_state

    def restore(place: Path) -> tuple[dict | None, str]:
        with _listening() as said:
            try:
                state, _ = CheckpointStore(place).restore(abstract_state)
            except UserError as error:
                return None, "\n".join([*said, str(error)])
        return named_arrays(state), "\n".join(said)

    return restore


def judge(answer: tuple[dict | None, str], name: str, alone: bool, expected: dict) -> dict:
    """Return whether a damaged file was named and what was used instead.

    Args:
        answer: arrays or None, and what was said.
        name: of the damaged file, with its checkpoint.
        alone: whether there was no other checkpoint.
        expected: arrays of the checkpoint before.
    """
    arrays, said = answer
    named, refused = name in said, arrays is None
    previous = not refused and not compare_arrays({k: np.asarray(v) for k, v in arrays.items()}, expected)
    accepted = not refused and not previous
    fault = "accepted" if accepted else "not named" if not named else ""
    if not fault and alone != refused:
        fault = "used although it was alone" if alone else "refused although there was another one"
    return {"named": named, "previous": previous, "refused": refused, "accepted": accepted, "fault": fault}


def count(cases: list[dict]) -> list[list]:
    """Return the rows of the table, one for each damage and one for all."""
    kinds = list(dict.fromkeys(case["damage"].rstrip(" 0123456789") for case in cases))
    rows = []
    for kind in kinds:
        of_kind = [case for case in cases if case["damage"].startswith(kind)]
        numbers = [sum(case[key] for case in of_kind) for key in ("named", "previous", "refused", "accepted")]
        rows.append([kind, len(of_kind), *numbers])
    return [*rows, ["all", *(sum(row[i] for row in rows) for i in range(1, 6))]]


def resume_damaged(folder: Path, whole: Path, newest: Path) -> dict[str, list[str]]:
    """Resume the finished run with its last checkpoint damaged, to the end; return what differs from before."""
    largest = max(files_of(newest), key=lambda name: (newest / name).stat().st_size)
    cases = {
        "a flipped bit in the largest file": (largest, _flip(100, 3)),
        "no manifest": ("manifest.json", Path.unlink),
    }
    outcomes = {}
    for number, (what, (name, damage)) in enumerate(cases.items()):
        place = folder / f"damaged_{number}"
        shutil.rmtree(place, ignore_errors=True)
        run = Path(shutil.copytree(whole, place / "runs" / whole.name))
        damage(run / "checkpoints" / newest.name / name)
        start = Start(place, *SETTINGS)
        start.step_before = min(saved_steps(place))
        fault = start.fault(start.finish())
        named = f"{newest.name}/{name}" in start.output()
        outcomes[what] = [fault] if fault else differences(run, whole) + ([] if named else ["the file was not named"])
    return outcomes


def copy_checkpoints(place: Path, folders: list[Path]) -> Path:
    """Return the folder `place` with copies of these checkpoints and nothing else."""
    shutil.rmtree(place, ignore_errors=True)
    for folder in folders:
        shutil.copytree(folder, place / folder.name)
    return place


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """Yield the messages of the checkpoint store while the body runs."""
    said, log = [], logging.getLogger("seg.checkpoints")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    log.addHandler(handler)
    propagate, log.propagate = log.propagate, False
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
