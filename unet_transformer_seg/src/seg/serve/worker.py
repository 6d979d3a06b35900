"""What a worker process does: it reads images and writes answers. It never imports jax."""

import contextlib
import dataclasses
import os
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seg.classes import ClassTable
from seg.config import DataConfig
from seg.data.image_file import read_image
from seg.errors import UserError
from seg.serve.formats import Drawing, draw
from seg.serve.priority import NICENESS
from seg.serve.refusals import RefusedError

STARTS = ((0, b"\x89PNG"), (0, b"\xff\xd8\xff"), (8, b"WEBP"), (0, b"BM"), (0, b"II*\0"), (0, b"MM\0*"), (0, b"GIF8"))
"""(position, bytes) at the start of the formats that `read_image` tries."""

MAX_REMARKS = 3


class Reading(NamedTuple):
    """How images are read.

    Attributes:
        data: how the model was trained to see images.
        max_megapixels: larger images are refused.
    """

    data: DataConfig
    max_megapixels: float


class Decoded(NamedTuple):
    """An image that was read.

    Attributes:
        image: [h, w, c] as `Sample.image`, upright.
        remarks: what was dropped or guessed.
    """

    image: np.ndarray
    remarks: tuple[str, ...]


def run_worker(connection: Connection, reading: Reading, classes: ClassTable, memory_bytes: int) -> None:
    """Do the jobs that come through the connection until it is closed: a file becomes `Decoded`, a `Drawing` bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server ends this process
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    _limit_memory(memory_bytes)
    connection.send(True)  # it has started
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = draw(job, classes) if isinstance(job, Drawing) else decode(job, reading)
        except (RefusedError, MemoryError) as error:
            answer = type(error)() if isinstance(error, MemoryError) else error
        del job
        connection.send(answer)
        del answer


def decode(content: bytes, reading: Reading) -> Decoded:
    """Return the image in the bytes of a file; neither its name nor its stated type is asked.

    Raises:
        RefusedError: 415 if it is no image of a known format, 422 if it is one that cannot be read.
    """
    remarks: list[str] = []
    max_pixels = int(reading.max_megapixels * 1e6)
    with _as_file(content) as path:
        try:
            note = lambda kind, path, text: remarks.append(text)  # noqa: E731
            image_hwc = read_image(path, dataclasses.replace(reading.data, max_pixels=max_pixels), note)
        except UserError as error:
            raise _explain(str(error).removeprefix(f"{path}: "), content, reading) from None
    return Decoded(image_hwc, tuple(remarks[:MAX_REMARKS]))


def _explain(message: str, content: bytes, reading: Reading) -> RefusedError:
    """Return the refusal of a file that `read_image` refused."""
    if not any(content[place : place + len(start)] == start for place, start in STARTS):
        return RefusedError(415, f"the upload is {message}", "not_an_image", param="file")
    if " than data.max_pixels" in message:
        pixels = message.split(" are more")[0]
        text = f"the image has {pixels}; this server takes up to {reading.max_megapixels:g} megapixels"
        return RefusedError(422, text, "image_too_large", param="file")
    return RefusedError(422, f"the image is damaged or unsupported: {message}", "image_broken", param="file")


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[Path]:
    """Yield the path of a file in memory, where the system has such; it vanishes with the process."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("image"), "wb") as file:
            file.write(content)
            file.flush()
            yield Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder) / "image"
            partial.write_bytes(content)
            yield partial


def _limit_memory(memory_bytes: int) -> None:
    """Let this process take so many bytes more than it has."""
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):  # another system
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
