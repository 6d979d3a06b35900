"""Lists what took longest in the newest profiler trace below a folder, and how much of the time the device was busy.

    python scripts/gpu/trace_table.py runs/… --steps 10 --json FILE

Only the compiled operations count, each without those that run within it; what they are called in the model stands in
operations.json, which the training wrote beside the trace. Busy is the share of the time between the
first and the last of them in which one at least was running.
"""

import argparse
import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path

NUM_SHOWN, NUM_KINDS = 15, 8


def read_events(folder: Path) -> list[dict]:
    """Return the compiled operations of the newest trace, with start and duration in microseconds."""
    traces = sorted(folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    if not traces:
        sys.exit(f"error: no perfetto_trace.json.gz below {folder}")
    with gzip.open(traces[-1], "rt") as file:
        events = json.load(file)["traceEvents"]
    return [event for event in events if event.get("ph") == "X" and "hlo_op" in event.get("args", {})]


def read_origins(folder: Path) -> dict[str, str]:
    """Return what the operations of the newest trace are called in the model; nothing where it was not written."""
    files = sorted(folder.rglob("operations.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(files[-1].read_text()) if files else {}


def own_times(events: list[dict]) -> dict[str, float]:
    """Return the microseconds of each operation by name, without what ran within it on the same thread."""
    threads, total = defaultdict(list), defaultdict(float)
    for event in events:
        threads[event["pid"], event["tid"]].append(event)
    for some in threads.values():
        open_ones = []
        for event in sorted(some, key=lambda event: (event["ts"], -event["dur"])):
            while open_ones and open_ones[-1][0] <= event["ts"]:
                open_ones.pop()
            if open_ones:
                total[open_ones[-1][1]] -= event["dur"]
            total[event["name"]] += event["dur"]
            open_ones.append((event["ts"] + event["dur"], event["name"]))
    return dict(total)


def busy_share(events: list[dict]) -> float:
    """Return in which share of the time between the first and the last operation one was running."""
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in events)
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return busy / max(end - spans[0][0], 1e-9)


def kind_of(origin: str) -> str:
    """Return where in a training step an operation belongs and what it computes, as in "backward dot_general"."""
    way = "backward" if "transpose(" in origin else "forward" if "jvp(" in origin else "rest"
    return f"{way} {origin.rsplit('/', 1)[-1]}".rstrip()


def sum_kinds(rows: list[dict]) -> list[dict]:
    """Return the shares of the operations summed by kind, the largest first."""
    shares = defaultdict(float)
    for row in rows:
        shares[kind_of(row["origin"])] += row["share"]
    return [{"kind": kind, "share": share} for kind, share in sorted(shares.items(), key=lambda item: -item[1])]


def main() -> None:
    """List, and write the list."""
    parser = argparse.ArgumentParser(description="List what took longest in a trace.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1, help="in the trace (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the list, too")
    arguments = parser.parse_args()
    events = read_events(arguments.folder)
    if not events:
        sys.exit(f"error: the trace below {arguments.folder} names no compiled operation")
    times, busy, origins = own_times(events), busy_share(events), read_origins(arguments.folder)
    whole = sum(times.values())
    rows = [
        {
            "name": name,
            "origin": origins.get(name, ""),
            "ms_a_step": time / 1e3 / arguments.steps,
            "share": time / whole,
        }
        for name, time in sorted(times.items(), key=lambda item: -item[1])
    ]
    print(f"busy {100 * busy:.1f} % of the time; {whole / 1e3 / arguments.steps:.2f} ms of operations a step")
    for row in rows[:NUM_SHOWN]:
        print(
            f"| {row['ms_a_step']:.3f} ms | {100 * row['share']:.1f} % | {row['name'][:60]} | {row['origin'][-120:]} |"
        )
    kinds = sum_kinds(rows)
    print("by kind: " + ", ".join(f"{100 * kind['share']:.1f} % {kind['kind']}" for kind in kinds[:NUM_KINDS]))
    if arguments.json:
        arguments.json.write_text(json.dumps({"busy": busy, "rows": rows, "kinds": kinds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
