"""SIGKILL at drawn moments: half of them over the time of a start, half while a checkpoint is written."""

import dataclasses
import json
import time
from pathlib import Path
from random import Random

from faulting.comparison import differences, evaluated_steps
from faulting.outcome import Outcome
from faulting.tiny_run import Start, finish_whole, phase_of, run_of, saved_steps

SETTINGS = ("training.num_epochs=32",)
FIRST_SPAN_S = 8.0
MAX_DELAY_S = {"writing": 0.05, "manifest": 0.003}
PREFIX = "unfinished_step_"


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a start is killed.

    Attributes:
        aim: `time`; `writing`: soon after the folder of a checkpoint appeared; `manifest`: when that is about to
            be renamed.
        fraction: of the span, or of the longest delay.
        saves_before: checkpoints that are left alone.
    """

    aim: str
    fraction: float
    saves_before: int = 0


def draw_moment(seed: int, number: int) -> Moment:
    """Return the moment of one kill; the first mostly comes before there is a checkpoint."""
    rng = Random(f"{seed} {number}")
    if number % 2 == 0:
        return Moment("time", rng.random())
    return Moment(("writing", "manifest")[number // 2 % 2], rng.random(), rng.randrange(3))


def kill_many(folder: Path, times: int, seed: int) -> Outcome:
    """Kill and resume until `times` kills are done, then let the run finish, and compare it with an uninterrupted one.

    A run that finishes before is compared too, and followed by another. Kills that a former call did in this folder
    with this seed are taken as done.
    """
    whole = finish_whole(folder / "whole", *SETTINGS)
    evaluated, memory = evaluated_steps(whole), folder / f"kills_{seed}.json"
    done = json.loads(memory.read_text()) if memory.exists() else {"life": 0, "span_s": FIRST_SPAN_S, "kills": []}
    failures, endings = [], []
    while True:
        place = folder / f"life_{seed}_{done['life']}"
        number = len(done["kills"])
        start = Start(place, *SETTINGS)
        moment = draw_moment(seed, number) if number < times else None
        if moment and wait_for_moment(start, moment, done["span_s"]):
            row = take_down(start, moment, evaluated)
            failures += [f"kill {number}: {fault}"] if (fault := start.fault(0)) else []
            done["kills"].append(row)
            done["span_s"] = span_of(start, done["span_s"])
        else:
            fault = start.fault(start.finish())
            differing = [] if fault else differences(run_of(place), whole)
            failures += [f"run {done['life']}: {text}" for text in ([fault] if fault else differing)]
            endings.append(fault or len(differing))
            done["life"] += 1
            if moment is None or fault:
                break
        memory.write_text(json.dumps(done, indent=1) + "\n")
    return report(done["kills"], endings, failures, whole)


def wait_for_moment(start: Start, moment: Moment, span_s: float) -> bool:
    """Wait until the moment has come; return whether the process is still there."""
    if moment.aim == "time":
        return start.sleep(moment.fraction * span_s)
    seen = set()

    def appeared() -> bool:
        names = [name for name in start.unfinished() if name.startswith(PREFIX)]
        seen.update(names)
        return len(seen) > moment.saves_before and bool(names)

    if not start.wait_for(appeared):
        return False
    if moment.aim == "manifest":
        newest = next(start.folder.glob(f"runs/*/checkpoints/{max(seen)}"), start.folder)
        while newest.is_dir() and not any(newest.glob("**/.*.part")) and not (newest / "manifest.json").exists():
            continue  # it is there for a millisecond or two only
    return start.sleep(moment.fraction * MAX_DELAY_S[moment.aim])


def take_down(start: Start, moment: Moment, evaluated: list[int]) -> dict:
    """Kill the process; return what it was doing."""
    start.kill()
    seconds, unfinished, saved = time.monotonic() - start.began, start.unfinished(), saved_steps(start.folder)
    return {
        "aim": moment.aim,
        "seconds": round(seconds, 2),
        "phase": phase_of(start.log(), unfinished, saved, evaluated),
        "unfinished": unfinished,
        "last_checkpoint": saved[-1] if saved else None,
        "resumed": start.resumed,
        "log_line": (start.log().strip().splitlines() or [""])[-1][:120],
    }


def span_of(start: Start, before_s: float) -> float:
    """Return the time over which the next kill is drawn, half as long again as starts take to their first step."""
    took_s = start.seconds_to("DEBUG step")
    return before_s if took_s is None else (before_s + 1.5 * took_s) / 2


def report(kills: list[dict], endings: list, failures: list[str], whole: Path) -> Outcome:
    """Return the counts of each phase."""
    phases = sorted({kill["phase"] for kill in kills})
    aims = ("time", "writing", "manifest")
    rows = [[phase, *(sum(k["phase"] == phase and k["aim"] == a for k in kills) for a in aims)] for phase in phases]
    rows = [[*row, sum(row[1:]), sum(bool(k["unfinished"]) for k in kills if k["phase"] == row[0])] for row in rows]
    rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, 6))])
    heads = ["phase when killed", "over time", "at writing", "at manifest", "all", "unfinished there"]
    early = sum(kill["last_checkpoint"] is None for kill in kills)
    ends = sum(ending == 0 for ending in endings)
    notes = [f"{early} kills before the first checkpoint; {ends} of {len(endings)} runs ended in the same bits"]
    return Outcome(heads, rows, failures, notes, {"kills": kills, "endings": endings, "whole": str(whole)})
