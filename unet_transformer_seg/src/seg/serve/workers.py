"""Worker processes that read what clients upload and write what they download.

A hostile file may crash the code that reads it, or keep it busy for ever. It then ends a worker, which is replaced, and
never the process that owns the device.
"""

import asyncio
import multiprocessing
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from seg.classes import ClassTable
from seg.config import DataConfig
from seg.serve.metrics import Metrics
from seg.serve.refusal import RefusedError, overloaded
from seg.serve.settings import ServeSettings
from seg.serve.stacks import StackDrawing
from seg.serve.worker import Decoded, Drawing, Reading, run_worker

START_S = 120
"""Longest start of a worker, in seconds."""


class WorkerPool:
    """A few processes, each with a thread of this process that waits for it."""

    def __init__(self, settings: ServeSettings, data: DataConfig, classes: ClassTable, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        self._arguments = (
            Reading(data, settings.max_image_megapixels, settings.max_pages),
            classes,
            settings.worker_bytes,
        )
        self._threads = ThreadPoolExecutor(settings.num_workers, thread_name_prefix="seg-worker")
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers: set[_Worker] = set()
        self._lock, self._num_jobs, self._is_stopping = threading.Lock(), 0, False

    def start(self) -> None:
        """Start the processes."""
        for _ in range(self._settings.num_workers):
            self._free.put(self._new_worker())

    def stop(self) -> None:
        """End the processes, and give up what they do."""
        self._is_stopping = True
        for worker in list(self._workers):
            worker.kill()  # the thread that waits for it then ends
        self._threads.shutdown(wait=True, cancel_futures=True)
        while self._workers:
            self._workers.pop().end()

    def check_room(self) -> None:
        """Raise the refusal that a new image would get now."""
        if self._num_jobs >= self._settings.max_jobs:
            raise overloaded(1)

    async def decode(self, content: bytes) -> Decoded:
        """Return the image in the bytes of a file.

        Raises:
            RefusedError: no image, or one that cannot be read, is too large, or takes too long.
        """
        self.check_room()
        slow = RefusedError(422, f"the image could not be read within {self._settings.decode_s:g} s", "image_too_slow")
        broken = RefusedError(422, "the image is damaged: reading it ended the reader", "image_broken")
        with self._metrics.decode_s.time():
            return await self._run(content, self._settings.decode_s, slow, broken)

    async def draw(self, drawing: Drawing | StackDrawing) -> bytes:
        """Return the bytes of an answer.

        Raises:
            RefusedError: it takes too long, or too much memory, as the outlines of a noisy mask may.
        """
        text = f"{drawing.format} would be too large for this mask; ask for png"
        refusal = RefusedError(422, text, "answer_too_large", param="format")
        with self._metrics.draw_s.time():
            return await self._run(drawing, self._settings.draw_s, refusal, refusal)

    async def _run(
        self, job: bytes | Drawing | StackDrawing, seconds: float, slow: RefusedError, broken: RefusedError
    ) -> Any:
        with self._lock:
            self._num_jobs += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._do, job, seconds, slow, broken)
        finally:
            with self._lock:
                self._num_jobs -= 1

    def _new_worker(self) -> "_Worker":
        worker = _Worker(*self._arguments)
        self._workers.add(worker)
        return worker

    def _do(self, job: bytes | Drawing | StackDrawing, seconds: float, slow: RefusedError, broken: RefusedError) -> Any:
        """Let a free worker do the job; one that dies or takes too long is replaced."""
        worker = self._free.get()
        try:
            answer = worker.do(job, seconds)
        except (TimeoutError, EOFError, OSError) as error:
            self._workers.discard(worker)
            worker.end()
            if not self._is_stopping:
                self._metrics.restarts.inc()
                worker = self._new_worker()
            raise (slow if isinstance(error, TimeoutError) else broken) from None
        finally:
            self._free.put(worker)
        if isinstance(answer, MemoryError):
            raise broken
        if isinstance(answer, Exception):
            raise answer
        return answer


class _Worker:
    """One process and the connection to it."""

    def __init__(self, reading: Reading, classes: ClassTable, memory_bytes: int):
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        arguments = other, reading, classes, memory_bytes
        self._process = context.Process(target=run_worker, args=arguments, name="seg-worker", daemon=True)
        self._process.start()
        other.close()
        self._has_started = False

    def do(self, job: bytes | Drawing | StackDrawing, seconds: float) -> Any:
        """Return what the process returns, or the exception that it raised.

        Raises:
            TimeoutError: it took longer than `seconds`.
            EOFError, OSError: the process ended.
        """
        if not self._has_started:  # the time of a job does not include that of its worker
            self._has_started = self._connection.poll(START_S) and self._connection.recv()
        self._connection.send(job)
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def end(self) -> None:
        """End the process and give up the connection."""
        self._connection.close()
        self._process.kill()
        self._process.join()
        self._process.close()
