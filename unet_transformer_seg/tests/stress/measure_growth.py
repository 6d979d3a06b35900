"""Measures how time and memory grow with the area of an image and with the batch, and draws it.

    python tests/stress/measure_growth.py --json growth.json [--kinds tiles whole train] [--dtype bfloat16] [key=value]
    python tests/stress/measure_growth.py --draw growth.json            draws the points of an earlier call

Three kinds of points: `tiles`, an image segmented window by window as `seg.infer` does it; `whole`, the same image in
one piece; `train`, a training step at the size of the window. The model is that of `seg.bench`, with random weights;
`--config` and `key=value` change it. Memory is what is resident above the model, of a training step with its state; so
each point runs in its own process.
Points that are in the JSON file already are not measured again: after an interruption the same command goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
KINDS = ("tiles", "whole", "train")
SIDES = (256, 512, 1024, 2048, 4096)
BATCHES = (1, 2, 4, 8, 16)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description="Measure and draw how time and memory grow.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the points are kept; those there are done")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw the points of this file, and measure nothing")
    parser.add_argument("--picture", type=Path, default=PROJECT / "docs" / "pictures" / "growth.png", metavar="FILE")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="of the square images, in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="of the training steps")
    parser.add_argument("--window", type=int, default=256, help="side of a window, and of a training sample")
    parser.add_argument("--windows", type=int, default=4, help="computed at once")
    parser.add_argument("--seconds", type=float, default=20.0, help="to repeat each image for; once at least")
    parser.add_argument("--steps", type=int, default=10, help="that count, of the training steps")
    parser.add_argument("--config", type=Path, help="YAML file of another model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--point", nargs=2, metavar=("KIND", "N"), help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example model.base_width=16")
    arguments = parser.parse_intermixed_args()
    if not arguments.json and not arguments.draw:
        parser.error("give --json FILE to measure, or --draw FILE to draw what was measured")
    return arguments


def settings(arguments: argparse.Namespace) -> dict:
    """Return what must be the same for all points of one file."""
    names = ("window", "windows", "dtype", "overrides")
    return {name: getattr(arguments, name) for name in names} | {"config": str(arguments.config or "")}


def list_points(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Return (kind, n) of each point: n is the side of the image, or the batch of a training step."""
    return [(kind, n) for kind in arguments.kinds for n in (arguments.batches if kind == "train" else arguments.sides)]


def read(path: Path, expected: dict | None = None) -> dict:
    """Return the content of a file of points; without the file, one without points.

    Raises:
        SystemExit: the file holds something else, or points of other settings.
    """
    if not path.exists() and expected is not None:
        return {"settings": expected, "rows": []}
    try:
        record = json.loads(path.read_text())
        rows, stated = record["rows"], record["settings"]
        {(row["kind"], row["n"]) for row in rows}
    except (OSError, ValueError, LookupError, TypeError) as error:
        sys.exit(f"error: {path}: expected the points of an earlier call ({type(error).__name__}: {error!s:.200})")
    if expected not in (None, stated):
        differing = ", ".join(f"{name} {stated.get(name)!r}" for name in expected if stated.get(name) != expected[name])
        sys.exit(f"error: {path} was measured with {differing}: give the same settings, or another --json")
    return record


def write(path: Path, record: dict) -> None:
    """Replace the file at once, so that an interruption leaves the old or the new one."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)


def measure_apart(arguments: argparse.Namespace, kind: str, n: int) -> dict:
    """Return the row of one point, measured in its own process.

    A process that runs out of memory, or is killed for it, makes a row with that reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        flags = ["--json", str(result), "--window", str(arguments.window), "--windows", str(arguments.windows)]
        flags += ["--seconds", str(arguments.seconds), "--steps", str(arguments.steps), "--dtype", arguments.dtype]
        flags += ["--config", str(arguments.config)] if arguments.config else []
        command = [sys.executable, __file__, *flags, "--point", kind, str(n), *arguments.overrides]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return json.loads(result.read_text())
        if done.returncode > 0:
            sys.exit(f"error: {kind} {n} could not be measured\n{done.stderr}")
    return {"kind": kind, "n": n, "failed": f"killed by signal {-done.returncode}"}


def measure_all(arguments: argparse.Namespace) -> dict:
    """Measure the points that are missing, writing the file after each; return its content."""
    record = read(arguments.json, settings(arguments))
    done = {(row["kind"], row["n"]) for row in record["rows"]}
    for kind, n in list_points(arguments):
        if (kind, n) not in done:
            row = measure_apart(arguments, kind, n)
            record["environment"] = row.pop("environment", None) or record.get("environment")
            record["rows"].append(row)
            write(arguments.json, record)
            print(format_row(row), file=sys.stderr, flush=True)
    return record


def format_row(row: dict) -> str:
    """Return one line of the table."""
    what = f"batch {row['n']}" if row["kind"] == "train" else f"{row['n']} × {row['n']}"
    if "failed" in row:
        return f"| {row['kind']} | {what} | {row['failed']} | | | | |"
    device = f"{row['device_bytes'] / 1e9:.2f}" if row.get("device_bytes") else ""
    mfu = f"{100 * row['mfu']:.1f} %" if row.get("mfu") else ""
    per_megapixel = row["seconds"] / row["megapixels"]
    seconds = f"{row['seconds']:.3f} | {per_megapixel:.3f}"
    return f"| {row['kind']} | {what} | {seconds} | {row['memory_bytes'] / 1e9:.3f} | {device} | {mfu} |"


def format_table(record: dict) -> str:
    """Return all rows, by kind and size."""
    head = "| kind | size | s | s a megapixel | GB above the model | GB on the device | MFU |\n" + "|---" * 7 + "|"
    rows = sorted(record["rows"], key=lambda row: (KINDS.index(row["kind"]), row["n"]))
    return "\n".join([head, *map(format_row, rows)])


def main() -> int:
    """Measure, print and draw; return the exit code."""
    arguments = parse_arguments()
    if arguments.point:
        from growth.point import measure_point

        kind, n = arguments.point
        write(arguments.json, measure_point(arguments, kind, int(n)))
        return 0
    record = read(arguments.draw) if arguments.draw else measure_all(arguments)
    from growth.picture import draw

    print(format_table(record))
    draw(record, arguments.picture)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or a GPU's memory would be taken at once
    sys.exit(main())
