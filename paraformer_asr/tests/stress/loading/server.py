"""The service in a process of its own, with a model of AN4's size."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from loading.clients import Connection


class Server:
    """A server in a process of its own, on core 0."""

    def __init__(self, folder: Path, port: int, batch_rows: int, arguments: Sequence[str] = ()):
        """Start it with further arguments, and wait until it is ready."""
        self.port, start = port, time.perf_counter()
        command = [sys.executable, "-m", "asr.serve", "--model", str(folder), "--port", str(port), "--name", "load"]
        command += ["--limit", f"batch_rows={batch_rows}", *arguments]
        self.process = subprocess.Popen([*on_core(0), *command], stderr=subprocess.DEVNULL)
        asyncio.run(self._wait())
        self.start_s = time.perf_counter() - start

    async def _wait(self) -> None:
        while (await Connection(self.port).ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] != 200:
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with code {self.process.returncode}")
            await asyncio.sleep(0.2)

    def metric(self, name: str) -> float:
        """Return a metric without labels."""
        _, body = asyncio.run(Connection(self.port).ask(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        return next(float(line.split()[1]) for line in body.decode().splitlines() if line.startswith(f"{name} "))

    def memory_mib(self) -> float:
        """Return the resident memory of the server and its decoders."""
        pids = [self.process.pid, *children(self.process.pid)]
        lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def processor_s(self) -> dict[str, float]:
        """Return the processor time so far, by what took it; the event loop is the main thread."""
        pid = self.process.pid
        loop_s, all_s = (processor_s(Path(f"/proc/{pid}/{path}stat")) for path in (f"task/{pid}/", ""))
        decoders_s = sum(processor_s(Path(f"/proc/{child}/stat")) for child in children(pid))
        return {"event loop": loop_s, "device": all_s - loop_s, "decoders": decoders_s}

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(60)


def processor_s(stat: Path) -> float:
    """Return the processor time of a process or thread, in seconds."""
    return sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    return [
        int(child)
        for tid in os.listdir(f"/proc/{pid}/task")
        for child in Path(f"/proc/{pid}/task/{tid}/children").read_text().split()
    ]


def on_core(number: int) -> list[str]:
    """Return the start of a command that runs on one core, if there are several."""
    return ["taskset", "-c", str(number)] if (os.cpu_count() or 1) > 1 else []


def save_model(folder: Path, config_name: str = "an4_small") -> None:
    """Write a model of AN4's size with random weights."""
    from asr import api
    from asr.profiling.random_model import build_untrained_transcriber

    overrides = ["data.root=.", "model.vocab_size=200", "inference.trained_s=[2.5,6,9]"]
    api.save(build_untrained_transcriber(api.load_config(config_name, overrides)), folder)
