"""Processor time of each test file: the files that take longest, and a budget for each one.

`budgets.json` records the seconds of each file that takes more than a moment, with its child processes, in a whole run
of `.ci/tox` from an empty compile cache. The files with the largest budgets start first, so that all workers end
together. With `--budgets` a file that takes more than three times its budget fails the run. Processor time and the
speed of a fixed loop are compared, not wall time: a busy or slow machine passes too. `compiler_flags` make compiling
faster, each with the versions of jaxlib that know it.
"""

import collections
import importlib.metadata
import json
import os
import time
from pathlib import Path

import pytest

TABLE = json.loads((Path(__file__).parent / "budgets.json").read_text())
TOLERANCE = 3

for version, flag in TABLE["compiler_flags"].items():
    flags = os.environ.get("XLA_FLAGS", "")
    # A version that does not know a flag would end the process. The workers of xdist inherit the variable.
    if importlib.metadata.version("jaxlib").startswith(version) and flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def measure_loop():
    """Return the processor seconds of a fixed loop, the best of five."""
    times = []
    for _ in range(5):
        start = time.process_time()
        sum(n * n for n in range(500_000))
        times.append(time.process_time() - start)
    return min(times)


def read_clock():
    """Return the processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def budget_of(file):
    return TABLE["files"].get(Path(file).name, TABLE["every_other_file"])


class ProcessorTime:
    """Sums up the phases of all tests by file; under xdist a worker measures and the controller sums up."""

    def __init__(self, enforce):
        self.enforce = enforce
        self.seconds = collections.Counter()
        self.last = read_clock()
        self.slowness = max(1, measure_loop() / TABLE["fixed_loop"]) if enforce else 1

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        # A file that is not in the table takes a moment, whatever its budget. The order within a file stays.
        items.sort(key=lambda item: -TABLE["files"].get(item.path.name, 0))

    def pytest_runtest_logstart(self):
        self.last = read_clock()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        report = yield
        now = read_clock()
        report.processor_seconds, self.last = now - self.last, now
        return report

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid.split("::")[0]] += report.processor_seconds

    def list_excess(self):
        """Return a line for each file that takes more than three times its budget."""
        return [
            f"{file}: {seconds:.1f} s of processor time, more than {TOLERANCE} times its budget of {budget:g} s"
            for file, seconds in self.seconds.most_common()
            if seconds > TOLERANCE * self.slowness * (budget := budget_of(file))
        ]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        if self.enforce and self.list_excess() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if not self.seconds:
            return
        terminalreporter.section(f"processor time: {sum(self.seconds.values()):.0f} s in the tests")
        for file, seconds in self.seconds.most_common(10):
            terminalreporter.line(f"{seconds:7.1f} s {file}")
        for line in self.list_excess() if self.enforce else ():
            terminalreporter.line(f"ERROR {line} (tests/budgets.json)", red=True)


def pytest_addoption(parser):
    help_text = "fail the run when a file takes more than three times its processor time in tests/budgets.json"
    parser.addoption("--budgets", action="store_true", help=help_text)


def pytest_configure(config):
    config.pluginmanager.register(ProcessorTime(config.getoption("budgets")))
