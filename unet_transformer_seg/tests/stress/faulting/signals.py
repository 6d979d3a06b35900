"""SIGTERM and SIGINT in each phase of a run: how it ends, how soon, and whether it goes on as if nothing happened."""

import itertools
import re
import signal
import time
from pathlib import Path
from random import Random

from faulting.comparison import differences, evaluated_steps
from faulting.outcome import Outcome
from faulting.tiny_run import READY, Start, finish_whole, phase_of, run_of, saved_steps

SETTINGS = ("training.num_epochs=5",)
PHASES = ("start-up", "compilation", "step", "evaluation", "save", "data wait", "second signal")
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
LIMIT_S = 30.0
"""An exit may take so long: a step, a compilation that cannot be left, or a checkpoint."""
SECOND_LIMIT_S = 1.0
HELD_BATCH, HELD_SAVE = 6, 1


def signal_all(folder: Path, seed: int) -> Outcome:
    """Try both signals in all phases; each run is resumed and compared with one that nobody interrupted."""
    whole = finish_whole(folder / "whole", *SETTINGS)
    timing = Start(folder / "timing", *SETTINGS)  # with the programs compiled, as most starts below
    assert timing.wait_for(lambda: READY in timing.log()), timing.output()
    ready_s = time.monotonic() - timing.began
    timing.kill()
    cases, failures = [], []
    for phase, number in itertools.product(PHASES, CODES):
        case, faults = try_signal(
            folder / f"{phase.replace(' ', '_')}_{number.name}", phase, number, seed, ready_s, whole
        )
        cases.append(case)
        failures += [f"{number.name} in {phase}: {text}" for text in faults]
    heads = ["aimed at", "signal", "phase when it came", "exit code", "seconds to the exit", "resumed", "bits equal"]
    rows = [list(case.values()) for case in cases]
    return Outcome(heads, rows, failures, facts={"cases": cases, "seconds_to_log": ready_s})


def try_signal(
    folder: Path, phase: str, number: signal.Signals, seed: int, ready_s: float, whole: Path
) -> tuple[dict, list[str]]:
    """Return what came of one signal, and what should not be."""
    rng, evaluated = Random(f"{seed} {phase} {number.name}"), evaluated_steps(whole)
    held = {"data wait": ("data", HELD_BATCH), "second signal": ("save", HELD_SAVE)}.get(phase)
    start = Start(folder, *SETTINGS, held=held, fresh_cache=phase == "compilation")
    assert wait_for_phase(start, phase, rng, ready_s, evaluated), f"{folder}: {start.output()}"
    actual_phase = "held" if held else phase_of(start.log(), start.unfinished(), saved_steps(folder), evaluated)
    start.process.send_signal(number)
    failures, limit_s = [], LIMIT_S
    if phase == "second signal":
        if not start.sleep(1.0):
            failures.append("the first signal ended the process while it was saving")
        start.process.send_signal(number)
        limit_s = SECOND_LIMIT_S
    began = time.monotonic()
    code = start.finish()
    seconds = time.monotonic() - began
    failures += [f"{seconds:.1f} s to the exit"] if seconds > limit_s else []
    failures += [fault] if (fault := start.fault(code, CODES[number])) else []
    resumed, differing = go_on(start, folder, whole, printed=phase != "second signal")
    failures += differing
    case = {"aimed_at": phase, "signal": number.name, "phase": actual_phase, "code": code, "seconds": round(seconds, 2)}
    return case | {"resumed": resumed, "bits_equal": not differing}, failures


def wait_for_phase(start: Start, phase: str, rng: Random, ready_s: float, evaluated: list[int]) -> bool:
    """Wait for a drawn moment in the phase; return whether the process is still there."""
    if phase == "start-up":
        return start.sleep(rng.uniform(0.1, 0.95) * ready_s)
    if phase in ("data wait", "second signal"):
        return start.wait_for(start.held_file.exists) and start.sleep(0.3)
    step = rng.choice(evaluated[:-1])
    if phase == "compilation":
        return start.wait_for(lambda: READY in start.log()) and start.sleep(rng.uniform(0.1, 1.5))
    if phase == "step":
        return start.wait_for(lambda: f"DEBUG step {step + 1}:" in start.log())
    if phase == "evaluation":
        return start.wait_for(lambda: f"DEBUG step {step}:" in start.log()) and start.sleep(rng.uniform(0, 0.03))
    return start.wait_for(lambda: _is_saving(start, step)) and start.sleep(rng.uniform(0, 0.02))


def _is_saving(start: Start, step: int) -> bool:
    return any(name == f"unfinished_step_{step:08d}" for name in start.unfinished())


def go_on(start: Start, folder: Path, whole: Path, printed: bool) -> tuple[str, list[str]]:
    """Follow the message to finish the run; return what was done, and what is wrong."""
    run, said = run_of(folder), re.search(r"-m seg\.train --resume (\S+)", start.output())
    if printed and (said is None) != (run is None):
        return "no", [f"the message does not say how to go on: {start.output().strip()[-300:]}"]
    if said and Path(said[1]) != run:
        return "no", [f"the message says to resume {said[1]}, the run is {run}"]
    again = Start(folder, *SETTINGS)
    fault = again.fault(again.finish())
    return ("resumed" if run else "begun again"), [fault] if fault else differences(run_of(folder), whole)
