"""Measures how the time and the memory of transcription grow with the length of the sound, and with the batch.

    python tests/stress/measure_growth.py --json growth.json --picture growth.png [--config FILE] [key=value]
    python tests/stress/measure_growth.py --draw growth.json --picture growth.png

A network with random weights transcribes generated sound from a file, as `python -m asr.infer` does: it is read, split
at its silences and recognised. Without --config it is SAN-M 12 × 256 with 6 decoder layers, in float32. Each point is
measured in a process of its own. Its programs are compiled first; then the clock starts, and memory is counted
above what the process with model and programs has already (by /proc, so Linux is needed).

Points that the --json file holds are not measured again: a stopped measurement resumes where it was. Exit
codes: 0 all is measured, 75 --max-minutes are over and the same command resumes, 2 wrong input.
"""

import argparse
import gc
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from asr.bench import AISHELL_TOKENS, SMALL_PARAFORMER
from asr.cli import run_command
from asr.config import Config
from asr.config.reader import load_start_config, override_config
from asr.errors import EXIT_OK, EXIT_UNFINISHED, UserError

LENGTHS_S = (10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)
BATCHES = (1, 2, 4, 8, 16, 32)
POINT = ("seconds", "batch")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, help="YAML file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="holds the points, those measured earlier too")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="PNG file to draw")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw this JSON file, and measure nothing")
    parser.add_argument("--seconds", type=float, nargs="+", default=LENGTHS_S, help="lengths (default: 10 to 3600)")
    parser.add_argument("--batch", type=int, default=8, help="segments computed at once, at all lengths (default: 8)")
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES, help="at one length (default: 1 to 32)")
    parser.add_argument("--batch-seconds", type=float, default=600.0, help="that length (default: 600)")
    parser.add_argument("--max-minutes", type=float, help="begin no point after this many minutes")
    parser.add_argument("--sound", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example model.dtype=bfloat16")
    return parser.parse_intermixed_args()


def read_config(arguments: argparse.Namespace) -> Config:
    """Return the config that the arguments describe, with a vocabulary."""
    if arguments.config is None:
        return override_config(SMALL_PARAFORMER, arguments.overrides)
    config = load_start_config(arguments.config, arguments.overrides)
    return config if config.model.vocab_size else override_config(config, [f"model.vocab_size={AISHELL_TOKENS}"])


def plan_points(arguments: argparse.Namespace) -> list[tuple[float, int]]:
    """Return (seconds, batch) of each point, each once.

    Raises:
        UserError: a length or a batch that cannot be.
    """
    points = [(seconds, arguments.batch) for seconds in arguments.seconds]
    points += [(arguments.batch_seconds, batch) for batch in arguments.batches]
    for seconds, batch in points:
        if not (seconds >= 1 and batch >= 1):
            raise UserError(f"expected sound of at least 1 s and batches of at least 1, found {seconds:g} s × {batch}")
    return list(dict.fromkeys(points))


# ── one point, in a process of its own ──


def reset_peak() -> int:
    """Hand unused memory back, begin to watch for the largest memory anew, and return what is resident now."""
    from asr.allocator import give_back_freed
    from asr.profiling.process_memory import forget_peak, resident_bytes

    gc.collect()
    give_back_freed()
    forget_peak()
    return resident_bytes()


def transcribe(config: Config, sound: Path) -> dict:
    """Return what transcribing a file takes, the compilation apart."""
    import jax

    from asr.inference.output import Job
    from asr.inference.transcribe_files import Totals, transcribe_files
    from asr.models import count_parameters
    from asr.profiling.process_memory import peak_bytes
    from asr.profiling.random_model import build_untrained_transcriber
    from asr.record.environment import describe_environment

    transcriber = build_untrained_transcriber(config)
    start = time.perf_counter()
    transcriber.warm_up(plan_warm_up(transcriber, sound))
    compile_s, model_bytes = time.perf_counter() - start, reset_peak()
    outcome = Totals()
    transcribe_files(transcriber, [Job(sound, None)], lambda job, transcript: None, outcome)
    above_bytes = max(peak_bytes() - model_bytes, 0)
    if outcome.num_done != 1 or outcome.num_compiled or outcome.num_compiled_late:
        raise RuntimeError(f"expected one file and no compilation while the time runs, found {outcome}")
    return {
        "seconds": outcome.sound_s,
        "batch": config.inference.batch_size,
        "time_s": outcome.seconds,
        "compile_s": compile_s,
        "model_bytes": model_bytes,
        "above_model_bytes": above_bytes,
        "device_bytes": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        "parameters": count_parameters(transcriber.variables),
        "environment": describe_environment(),
    }


def plan_warm_up(transcriber, sound: Path) -> tuple:
    """Return the shapes that `transcribe_files` compiles for, for this file."""
    from asr.data.sounds.audio import audio_duration_s, iterate_audio
    from asr.inference.segmentation import longest_segment, split_at_silences
    from asr.inference.shapes import plan_shapes

    rate_hz, settings = transcriber.config.features.sample_rate_hz, transcriber.config.inference
    segments = split_at_silences(iterate_audio(sound, rate_hz), rate_hz, settings)
    lengths = [len(segment.wave) for segment in itertools.islice(segments, transcriber.window_size)]
    if len(lengths) == transcriber.window_size:
        lengths = [round(audio_duration_s(sound) * rate_hz)]
    return plan_shapes(lengths, longest_segment(rate_hz, settings), settings.batch_size, rate_hz)


# ── all points ──


def measure_point(arguments: argparse.Namespace, sound: Path, batch: int) -> dict:
    """Return one point, measured in another process.

    Raises:
        UserError: the process failed; it has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "point.json"
        command = [sys.executable, __file__, "--sound", sound, "--batch", batch, "--json", file, *arguments.overrides]
        command += ["--config", arguments.config] if arguments.config else []
        if code := subprocess.run(list(map(str, command))).returncode:
            raise UserError(f"{sound.name} with batch {batch} could not be measured (exit code {code}), see above")
        return json.loads(file.read_text())


def read_points(path: Path, settings: dict | None = None) -> dict:
    """Return the content of a JSON file of this script; without points where there is none yet.

    Raises:
        UserError: another content, or points of other settings.
    """
    if settings and not path.exists():
        return {"settings": settings, "points": []}
    try:
        record = json.loads(path.read_text())
        kept = [{name: point[name] for name in (*POINT, "time_s", "above_model_bytes")} for point in record["points"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected the points of an earlier run, found {error!r}") from None
    if settings and record["settings"] != settings:
        raise UserError(f"{path}: measured with {record['settings']}, asked for {settings}; give another --json")
    if not kept:
        raise UserError(f"{path}: expected points, found none")
    return record


def measure(arguments: argparse.Namespace, config: Config) -> tuple[dict, bool]:
    """Return all points, and whether none is missing; each is written when it is measured."""
    settings = {"config": str(arguments.config or config.name), "overrides": arguments.overrides}
    record, start = read_points(arguments.json, settings), time.monotonic()
    done = {tuple(point[name] for name in POINT) for point in record["points"]}
    with tempfile.TemporaryDirectory() as folder:
        for seconds, batch in plan_points(arguments):
            if (seconds, batch) in done:
                continue
            if arguments.max_minutes is not None and time.monotonic() - start > 60 * arguments.max_minutes:
                return record, False
            sound = Path(folder) / f"{seconds:g}_s.wav"
            if not sound.exists():
                from generated_sounds import write_sound  # not in the processes that measure

                write_sound(sound, seconds, config.features.sample_rate_hz)
            point = measure_point(arguments, sound, batch) | {"seconds": seconds}
            record["environment"] = point.pop("environment", None)
            record["points"].append(point)
            print(format_row(point), flush=True)
            part = arguments.json.with_name(f"{arguments.json.name}.part")
            part.write_text(json.dumps(record, indent=1) + "\n")
            part.replace(arguments.json)
    return record, True


def format_row(point: dict) -> str:
    """Return a point as a row of the table."""
    time_s, seconds = point["time_s"], point["seconds"]
    device = f"{point['device_bytes'] / 1e6:.0f}" if point.get("device_bytes") else "–"
    return (
        f"| {seconds:g} | {point['batch']} | {time_s:.2f} | {1e3 * time_s / seconds:.2f} | {seconds / time_s:.0f} "
        f"| {point['above_model_bytes'] / 1e6:.0f} | {device} |"
    )


HEADER = "| sound, s | batch | time, s | ms for 1 s | × real time | memory above the model, MB | device, MB |\n" + (
    "|---" * 7 + "|"
)


def draw(points: list[dict], path: Path) -> None:
    """Write a picture: time and memory against the length, and below against the batch, where it was varied.

    Args:
        points: as `transcribe` returns them.
        path: PNG file, replaced at once.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    rows = [row for axis, other in (POINT, POINT[::-1]) if len(row := longest_series(points, axis, other)) > 1]
    figure = Figure(figsize=(8.0, 2.6 * max(len(rows), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(max(len(rows), 1), 2, squeeze=False)
    for (left, right), row in zip(grid, rows or [points], strict=True):
        varied = POINT[len({point["seconds"] for point in row}) == 1]
        first, x = row[0], [point[varied] for point in row]
        left.plot(x, [1e3 * point["time_s"] / point["seconds"] for point in row], "o-", color="#0072B2")
        right.plot(x, [point["above_model_bytes"] / 1e6 for point in row], "o-", color="#D55E00")
        named = {"seconds": ("length of the sound in s", f"batch {first['batch']}")}
        named["batch"] = ("segments in a batch", f"{first['seconds']:g} s of sound")
        left.set_ylabel("ms for 1 s of sound")
        right.set_ylabel("MB above the model")
        for axes in (left, right):
            axes.set(xscale="log", yscale="log", xlabel=named[varied][0])
            axes.set_title(named[varied][1], fontsize=9, loc="left")
            axes.set_xticks(x, [f"{value:g}" for value in x], fontsize=8)
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, high / 10), high * 1.5)  # a decade at least: what is flat looks flat
            axes.grid(alpha=0.3)
    part = path.with_name(f"{path.name}.part")
    figure.savefig(part, format="png", dpi=110)
    part.replace(path)


def longest_series(points: list[dict], varied: str, fixed: str) -> list[dict]:
    """Return the points that differ in `varied` alone, in its order: of all such series the longest."""
    values = dict.fromkeys(point[fixed] for point in points)
    series = [[point for point in points if point[fixed] == value] for value in values]
    return sorted(max(series, key=len), key=lambda point: point[varied])


def main() -> int:
    """Measure, or draw what was measured; return the exit code."""
    arguments = parse_arguments()
    if arguments.draw:
        record, complete = read_points(arguments.draw), True
    elif arguments.json:
        config = read_config(arguments)
        if arguments.sound:
            config = override_config(config, [f"inference.batch_size={arguments.batch}"])
            arguments.json.write_text(json.dumps(transcribe(config, arguments.sound)))
            return EXIT_OK
        print(HEADER, flush=True)
        record, complete = measure(arguments, config)
    else:
        raise UserError("give --json FILE for the points, or --draw FILE to draw those of an earlier run")
    print("\n".join([HEADER, *map(format_row, sorted(record["points"], key=lambda p: (p["seconds"], p["batch"])))]))
    if arguments.picture and record["points"]:
        draw(record["points"], arguments.picture)
    if not complete:
        print("not finished: the same command resumes")
    return EXIT_OK if complete else EXIT_UNFINISHED


if __name__ == "__main__":
    run_command(main)
