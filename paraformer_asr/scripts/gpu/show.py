"""Prints the results of the scripts beside it as a short table, and writes them to summary.json.

python scripts/gpu/show.py test|bench|profile FOLDER
"""

import collections
import gzip
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

NUM_COSTS, NUM_KINDS = 12, 8
COUNTS = ("tests", "failures", "errors", "skipped")


def exit_codes(folder: Path) -> dict[str, int]:
    """Return the exit code of each step that ended."""
    return {path.stem: int(path.read_text()) for path in sorted(folder.glob("*.exit"))}


def show_tests(folder: Path) -> tuple[dict, bool]:
    """Print how many tests passed and name those that did not; return the numbers, and whether all is well."""
    total, bad = collections.Counter(dict.fromkeys(COUNTS, 0)), []
    for path in sorted(folder.glob("*.xml")):
        for suite in ElementTree.parse(path).iter("testsuite"):
            total.update({name: int(suite.get(name, 0)) for name in COUNTS})
        for case in ElementTree.parse(path).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                bad.append(f"{path.stem}: {case.get('name')}")
    unfinished = [name for name, code in exit_codes(folder).items() if code not in (0, 1, 5)]
    passed = total["tests"] - total["failures"] - total["errors"] - total["skipped"]
    print(
        f"{passed} passed, {total['failures']} failed, {total['errors']} errors, {total['skipped']} skipped"
        + "".join(f"\nnot passed: {name}" for name in bad)
        + "".join(f"\nended early: {name}, see {name}.log" for name in unfinished)
    )
    return {**total, "passed": passed, "not_passed": bad, "ended_early": unfinished}, not (bad or unfinished)


def show_bench(folder: Path) -> tuple[dict, bool]:
    """Print a row for each measurement; return all numbers, and True: a measurement that failed is a result, too."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    results.pop("summary", None)
    print("| measurement | median, ms | 95th percentile, ms | × real time | TFLOP/s | MFU, % | GB | compiling, s |")
    print("|---" * 8 + "|")
    for name, numbers in results.items():
        if "median_s" in numbers:
            print(bench_row(name, numbers))
    for name, numbers in results.items():
        if "input_ratio" in numbers:
            print(f"{name}: {numbers['input_ratio']:.3f} of the time without the input pipeline")
        if "ratio" in numbers:
            medians = [1e3 * sorted(numbers[side])[len(numbers[side]) // 2] for side in ("ours_s", "torch_s")]
            print(f"{name}: ours {medians[0]:.1f} ms, FunASR {medians[1]:.1f} ms, ratio {numbers['ratio']:.2f}")
        for point in numbers.get("points", ()):
            rate = point["seconds"] / point["time_s"]
            print(f"{name}: {point['seconds']:g} s of sound, batch {point['batch']}: {rate:.0f} × real time")
    failed = {name: code for name, code in exit_codes(folder).items() if code}
    for name, code in failed.items():
        print(f"{name}: failed with exit code {code}, see {name}.log")
    return results | {"failed": failed}, True


def bench_row(name: str, numbers: dict) -> str:
    """Return the row of one measurement."""
    used = numbers["device_bytes"] or numbers["planned_bytes"]
    columns = [
        f"{1e3 * numbers['median_s']:.2f}",
        f"{1e3 * numbers['p95_s']:.2f}",
        f"{numbers['audio_s_per_s']:.0f}",
        f"{numbers['flops_per_s'] / 1e12:.2f}" if numbers["flops_per_s"] else "",
        f"{100 * numbers['mfu']:.1f}" if numbers["mfu"] else "",
        f"{used / 1e9:.2f}" if used else "",
        f"{numbers['compile_s']:.1f}",
    ]
    return f"| {name} | " + " | ".join(columns) + " |"


def show_profile(folder: Path) -> tuple[dict, bool]:
    """Print what took most of the time in each trace; return it, and whether there was a trace for each step."""
    profiles = {}
    for name, code in exit_codes(folder).items():
        traces = sorted(folder.glob(f"runs_{name}/*/profile/**/perfetto_trace.json.gz"))
        if code or (name != "sounds" and not traces):
            print(f"{name}: failed with exit code {code}, see {name}.log")
        elif traces:
            costs = all_costs(traces[-1], read_origins(traces[-1]))
            kinds = sum_kinds(costs)
            profiles[name] = {"costs": costs[:NUM_COSTS], "kinds": kinds}
            print(f"\n{name}: {traces[-1]}\n| ms | share, % | times | what | in the model |\n|---|---|---|---|---|")
            for cost in costs[:NUM_COSTS]:
                numbers = f"| {cost['ms']:.2f} | {100 * cost['share']:.1f} | {cost['times']} "
                print(f"{numbers}| {cost['what'][:60]} | {cost['origin'][-120:]} |")
            largest = list(kinds.items())[:NUM_KINDS]
            print("by kind: " + ", ".join(f"{100 * share:.1f} % {kind}" for kind, share in largest))
    return profiles, len(profiles) == len(exit_codes(folder)) - 1


def read_origins(trace: Path) -> dict[str, str]:
    """Return what the operations of a trace are called in the model; nothing where it was not written beside it."""
    files = [path for folder in trace.parents[:4] for path in folder.glob("operations.json")]
    return json.loads(files[0].read_text()) if files else {}


def kind_of(origin: str) -> str:
    """Return where in a training step an operation belongs and what it computes, as in "backward dot_general"."""
    way = "backward" if "transpose(" in origin else "forward" if "jvp(" in origin else "rest"
    return f"{way} {origin.rsplit('/', 1)[-1]}".rstrip()


def sum_kinds(costs: list[dict]) -> dict[str, float]:
    """Return the shares of the costs summed by kind, the largest first."""
    shares = collections.Counter()
    for cost in costs:
        shares[kind_of(cost["origin"])] += cost["share"]
    return dict(shares.most_common())


def all_costs(path: Path, origins: dict[str, str]) -> list[dict]:
    """Return the operations of a trace, summed by name, the one that took most of the time first.

    They are taken from the lines of the devices' operations; on a CPU, which has none, from the threads that compute.
    """
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    processes = {e["pid"]: e["args"].get("name", "") for e in events if e.get("name") == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"].get("name", "") for e in events if e.get("name") == "thread_name"}
    on_devices = {key: name for key, name in threads.items() if "/device:" in processes.get(key[0], "")}
    # A device has its streams, and some lines that say the same once more.
    lines = [key for key, name in on_devices.items() if "Stream" in name]
    lines = lines or [key for key, name in on_devices.items() if "XLA Ops" in name]
    lines = set(lines or [key for key, name in threads.items() if "XLA" in name])

    def counts(event: dict) -> bool:
        own = not on_devices and ":" in event["name"]  # a CPU's threads note their own affairs, too
        return (event["pid"], event["tid"]) in lines and not own

    ms, times = collections.Counter(), collections.Counter()
    for event in events:
        if event.get("ph") == "X" and counts(event):
            name = event.get("args", {}).get("hlo_op", event["name"])
            ms[name] += event["dur"] / 1e3
            times[name] += 1
    total = sum(ms.values())
    return [
        {"what": name, "origin": origins.get(name, ""), "ms": t, "share": t / total, "times": times[name]}
        for name, t in ms.most_common()
    ]


def main() -> int:
    """Show one kind of result; return the exit code."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    numbers, good = {"test": show_tests, "bench": show_bench, "profile": show_profile}[kind](folder)
    (folder / "summary.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
