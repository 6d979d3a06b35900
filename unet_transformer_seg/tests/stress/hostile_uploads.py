"""Sends thousands of hostile requests to a real server, and demands an answer of the right kind to each.

    python tests/stress/hostile_uploads.py --cases 2000 --seed 0 [--kind names …] [--json FILE]

The server is the command `seg serve` with a tiny model of random weights, in a process of its own with short time
limits. Case i of a kind depends on (seed, kind, i) alone. A failure is a status 500, a status that the kind does not
allow, no answer in 20 s, a probe that takes more than a second, a mask of the intact image that has changed, or a
server that has died. The memory of the server is printed before and after.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
sys.path.append(str(PROJECT / "tests"))

from hostile_requests import (  # noqa: E402
    ANSWER_S,
    IDLE_S,
    KINDS,
    MAX_BODY_BYTES,
    MAX_MEGAPIXELS,
    Address,
    image_file,
    send,
)
from loading.server import save_model  # noqa: E402

PROBE_S, CASES_BETWEEN_PROBES, NUM_THREADS = 1.0, 50, 4


@dataclasses.dataclass
class Result:
    """What became of all cases.

    Attributes:
        statuses: (kind, status) → cases.
        failures: what went wrong.
        slowest_probe_s: longest time of /healthz.
    """

    statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    failures: list[str] = dataclasses.field(default_factory=list)
    slowest_probe_s: float = 0.0


def attack(address: Address, kinds: list[str], cases: int, seed: int, num_threads: int = NUM_THREADS) -> Result:
    """Attack a server with so many cases, in turn of each kind."""
    result = Result()
    before = good_mask(address)

    def run(number: int) -> None:
        kind = kinds[number % len(kinds)]
        try:
            status = KINDS[kind].attack(random.Random(f"{seed} {kind} {number}"), address)
        except OSError as error:
            status = type(error).__name__
        result.statuses[kind, status] += 1
        if status not in KINDS[kind].allowed:
            result.failures.append(f"{kind}, case {number}: {status}")
        if number % CASES_BETWEEN_PROBES == 0:
            probe(address, result)

    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(run, range(cases)))
    probe(address, result)
    if good_mask(address) != before:
        result.failures.append("the intact image has another mask than before")
    return result


def probe(address: Address, result: Result) -> None:
    """Ask whether the server is alive."""
    start = time.monotonic()
    status = send(address, [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
    seconds = time.monotonic() - start
    result.slowest_probe_s = max(result.slowest_probe_s, seconds)
    if status != "200" or seconds > PROBE_S:
        result.failures.append(f"/healthz: {status} in {seconds:.2f} s")


def good_mask(address: Address) -> bytes:
    """Return the mask of an intact image."""
    connection = http.client.HTTPConnection(*address, timeout=ANSWER_S)
    connection.request("POST", "/v1/segment", image_file(random.Random(0), "PNG"))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status == 200, content
    return content


def table(result: Result, kinds: list[str]) -> str:
    """Return the counts in Markdown."""
    statuses = sorted({status for _, status in result.statuses})
    lines = [f"| attack | {' | '.join(statuses)} |", "|---" * (len(statuses) + 1) + "|"]
    for kind in kinds:
        counts = [str(result.statuses[kind, status] or "") for status in statuses]
        lines.append(f"| {KINDS[kind].attack.__doc__.rstrip('.')} | {' | '.join(counts)} |")
    return "\n".join(lines)


@contextlib.contextmanager
def attacked_server() -> Iterator[tuple[Address, int]]:
    """Start the service of a tiny model; yield its address and process, and end it."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", side=32, width=4)
        log = Path(folder) / "log"
        with log.open("w") as file:
            process = subprocess.Popen([sys.executable, __file__, "--serve", folder], stderr=file, stdout=file)
        try:
            while not (match := re.search(r"ready: http://([\d.]+):(\d+)", log.read_text())):
                if process.poll() is not None:
                    raise SystemExit(f"the server ended:\n{log.read_text()}")
                time.sleep(0.2)
            yield (match[1], int(match[2])), process.pid
            process.terminate()
            if code := process.wait(timeout=60):
                raise SystemExit(f"the server ended with {code}:\n{log.read_text()[-2000:]}")
        finally:
            process.kill()
            process.wait()


def serve(folder: Path) -> None:
    """Run the service with short limits of time."""
    from seg.serve.app import make_app
    from seg.serve.server import Server, address_of, bind
    from seg.serve.service import load_service
    from seg.serve.settings import ServeSettings

    limits = {"max_body_bytes": MAX_BODY_BYTES, "max_image_megapixels": MAX_MEGAPIXELS, "batch_sizes": (1,)}
    settings = ServeSettings(**limits, idle_timeout_s=IDLE_S, headers_timeout_s=IDLE_S)
    service = load_service(folder / "model", settings)
    service.start()
    with bind("127.0.0.1", 0) as listener:
        print(f"ready: {address_of(listener)}", flush=True)
        Server(make_app(service), service).run(sockets=[listener])


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1000


def main() -> int:
    """Attack a server; return 1 after any failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=tuple(KINDS), help="may be repeated (default: all)")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return 0
    kinds = arguments.kind or list(KINDS)
    with attacked_server() as (address, pid):
        before_mb, start = memory_mb(pid), time.monotonic()
        result = attack(address, kinds, arguments.cases, arguments.seed)
        seconds, after_mb = time.monotonic() - start, memory_mb(pid)
    print(table(result, kinds))
    print(
        f"\n{arguments.cases} requests in {seconds:.0f} s; memory {before_mb:.0f} MB before, {after_mb:.0f} MB after; ",
        end="",
    )
    print(f"slowest /healthz {1000 * result.slowest_probe_s:.0f} ms; {len(result.failures)} failures")
    print("\n".join(result.failures[:50]))
    if arguments.json:
        counts = {f"{kind} {status}": number for (kind, status), number in sorted(result.statuses.items())}
        arguments.json.write_text(json.dumps({"counts": counts, "failures": result.failures}, indent=1))
    return bool(result.failures)


if __name__ == "__main__":
    sys.exit(main())
