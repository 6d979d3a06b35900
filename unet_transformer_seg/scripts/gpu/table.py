"""Prints the results in an output folder of the scripts beside it, and writes them to its summary.json.

python scripts/gpu/table.py gpu_results
python scripts/gpu/table.py --junit test_ops.xml --json test_ops.json      counts one JUnit file
"""

import argparse
import json
from pathlib import Path
from xml.etree import ElementTree

BENCH = ("median_s", "p95_s", "compile_s", "images_per_s", "flops_per_s", "mfu", "device_bytes", "planned_bytes")
OUTCOMES = ("tests", "failures", "errors", "skipped")


def count_tests(path: Path) -> dict[str, int]:
    """Return how many tests of a JUnit file ran, failed, broke and were skipped."""
    suites = list(ElementTree.parse(path).iter("testsuite"))
    return {outcome: sum(int(suite.get(outcome, 0)) for suite in suites) for outcome in OUTCOMES}


def read_results(folder: Path) -> dict[str, dict]:
    """Return the content of each piece's JSON file, by its name."""
    names = sorted(path for path in folder.glob("*.json") if path.stem != "summary")
    return {path.stem: json.loads(path.read_text()) for path in names}


def bench_line(name: str, numbers: dict) -> str:
    """Return a row: how fast, and how much memory."""
    mfu = f"{100 * numbers['mfu']:.1f} %" if numbers["mfu"] else ""
    bytes_used = numbers["device_bytes"] or numbers["process_bytes"]
    line = f"{1e3 * numbers['median_s']:.1f} | {1e3 * numbers['p95_s']:.1f} | {numbers['compile_s']:.0f}"
    line += f" | {numbers['images_per_s']:.1f} | {numbers['flops_per_s'] / 1e12:.2f} | {mfu} | {bytes_used / 1e9:.2f}"
    fed = f"; with input {numbers['fed']['ratio']:.3f} times as long" if numbers["fed"] else ""
    return f"| {name} | {line} |{fed}"


def growth_lines(name: str, result: dict) -> list[str]:
    """Return a line for each point."""
    lines = []
    for row in result["rows"]:
        mfu = f", MFU {100 * row['mfu']:.1f} %" if row.get("mfu") else ""
        done = (
            row.get("failed") or f"{row['seconds']:.3f} s, {row['megapixels'] / row['seconds']:.2f} megapixels/s{mfu}"
        )
        lines.append(f"{name}: {row['kind']} {row['n']}: {done}")
    return lines


def profile_lines(name: str, result: dict) -> list[str]:
    """Return what took longest."""
    lines = [f"{name}: the device is busy {100 * result['busy']:.1f} % of the time; longest:"]
    lines += [f"  {100 * row['share']:5.1f} %  {row['name'][:100]}" for row in result["rows"][:5]]
    kinds = ", ".join(f"{100 * kind['share']:.1f} % {kind['kind']}" for kind in result["kinds"][:5])
    return [*lines, f"  by kind: {kinds}"]


def lines_of(results: dict[str, dict]) -> list[str]:
    """Return the text for all pieces, kind after kind."""
    bench = {name: result for name, result in results.items() if "median_s" in result}
    head = "| piece | median ms | 95th percentile ms | compile s | images/s | TFLOP/s | MFU | GB |\n" + "|---" * 8 + "|"
    lines = [head, *(bench_line(name, result) for name, result in bench.items())] if bench else []
    for name, result in results.items():
        if "ratio" in result:
            lines.append(f"{name}: {result['ratio']:.3f} times torch's time ({result['environment']['torch']})")
        elif "busy" in result:
            lines += profile_lines(name, result)
        elif "rows" in result:
            lines += growth_lines(name, result)
    return lines


def test_lines(folder: Path) -> list[str]:
    """Return one line for each JUnit file, and their sum."""
    counts = {path.stem: count_tests(path) for path in sorted(folder.glob("test_*.xml"))}
    if counts:
        counts["all"] = {outcome: sum(count[outcome] for count in counts.values()) for outcome in OUTCOMES}
    return [f"{name}: " + ", ".join(f"{n} {outcome}" for outcome, n in count.items()) for name, count in counts.items()]


def main() -> None:
    """Print and write."""
    parser = argparse.ArgumentParser(description="Print the results of the scripts for a GPU.")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="count the tests of this file instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for the counts")
    arguments = parser.parse_args()
    if arguments.junit:
        arguments.json.write_text(json.dumps(count_tests(arguments.junit)) + "\n")
        return
    results, folder = read_results(arguments.folder), arguments.folder
    failed = [f"{path.stem}: failed, see {path}" for path in sorted(folder.glob("*.failed"))]
    print("\n".join(lines_of(results) + test_lines(folder) + failed))
    (folder / "summary.json").write_text(json.dumps(results | {"failed": failed}, indent=1) + "\n")


if __name__ == "__main__":
    main()
