"""The service in a process of its own, with a small U-Net."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from loading.clients import Connection


class Server:
    """A server in a process of its own, on core 0."""

    def __init__(self, folder: Path, port: int, batch_sizes: str):
        self.port, start = port, time.perf_counter()
        command = [sys.executable, "-m", "seg.serve", "--model", str(folder), "--port", str(port), "--name", "load"]
        command += ["--batch-sizes", batch_sizes, "--deadline", "60"]
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
        """Return the resident memory of the server and its workers."""
        pids = [self.process.pid, *children(self.process.pid)]
        lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def processor_s(self) -> dict[str, float]:
        """Return the processor time so far, by what took it; the event loop is the main thread."""
        pid = self.process.pid
        loop_s, all_s = (processor_s(Path(f"/proc/{pid}/{path}stat")) for path in (f"task/{pid}/", ""))
        workers_s = sum(processor_s(Path(f"/proc/{child}/stat")) for child in children(pid))
        return {"event loop": loop_s, "device": all_s - loop_s, "workers": workers_s}

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


def save_model(folder: Path, side: int, width: int) -> None:
    """Write a U-Net with random weights for windows of side × side."""
    import jax

    from seg.classes import make_class_table
    from seg.config import Config, DataConfig, InferenceConfig, ModelConfig
    from seg.inference.model_folder import save_model_folder
    from seg.models import build_model, init_variables

    config = Config(
        model=ModelConfig(name="unet", num_classes=6, base_width=width, depth=3),
        data=DataConfig(size=(side, side), fit="crop"),
        inference=InferenceConfig(batch_size=4),
    )
    variables = init_variables(build_model(config.model), (side, side), jax.random.key(0))
    save_model_folder(folder, config, make_class_table(tuple("abcdef")), variables)
