"""What a worker process does: it reads images and writes answers. It never imports jax."""

import contextlib
import dataclasses
import os
import signal
import tempfile
import zlib
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seg.classes import ClassTable
from seg.config import DataConfig
from seg.data.image_file import read_image
from seg.data.image_input import NUMPY_MAGIC
from seg.data.images.dicom_file import MAGIC, MAGIC_PLACE
from seg.data.images.nifti_file import GZIP_MAGIC, is_nifti_start
from seg.data.images.stack import Stack, opened_stack, stack_suffix
from seg.errors import UserError
from seg.serve.formats import Drawing, draw
from seg.serve.priority import NICENESS
from seg.serve.refusal import RefusedError
from seg.serve.stacks import draw_stack

STARTS = ((0, b"\x89PNG"), (0, b"\xff\xd8\xff"), (8, b"WEBP"), (0, b"BM"), (0, b"II*\0"), (0, b"MM\0*"), (0, b"GIF8"))
STARTS += ((0, b"II+\0"), (0, b"MM\0+"))
"""(position, bytes) at the start of the pictures that are read."""

MAX_REMARKS = 3
HEADER_BYTES, UNPACKED = 540, 4096  # bytes of a header that tell a volume, and compressed ones that hold them


class Reading(NamedTuple):
    """How images are read.

    Attributes:
        data: how the model was trained to see images.
        max_megapixels: larger images are refused, and larger stacks.
        max_pages: stacks of more images are refused.
    """

    data: DataConfig
    max_megapixels: float
    max_pages: int = 512


class Decoded(NamedTuple):
    """What was read.

    Attributes:
        images: [h, w, c] each as `Sample.image`, upright.
        remarks: what was dropped or guessed.
        suffix: of the masks of a stack: .tif, .nii or .nii.gz; empty for a single image.
    """

    images: list[np.ndarray]
    remarks: tuple[str, ...]
    suffix: str = ""


def run_worker(connection: Connection, reading: Reading, classes: ClassTable, memory_bytes: int) -> None:
    """Do the jobs that come through the connection until it is closed: a file becomes `Decoded`, a drawing bytes."""
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
            if isinstance(job, bytes):
                answer = decode(job, reading)
            else:
                answer = draw(job, classes) if isinstance(job, Drawing) else draw_stack(job, classes)
        except (RefusedError, MemoryError) as error:
            answer = type(error)() if isinstance(error, MemoryError) else error
        del job
        connection.send(answer)
        del answer


def decode(content: bytes, reading: Reading) -> Decoded:
    """Return the images in the bytes of a file; neither its name nor its stated type is asked.

    Raises:
        RefusedError: 415 if it is no image of a known format, 422 if it is one that cannot be read.
    """
    remarks: list[str] = []
    data = dataclasses.replace(reading.data, max_pixels=int(reading.max_megapixels * 1e6))

    def note(kind: str, path: Path, text: str) -> None:
        remarks.append(text)

    with _as_file(content) as path:
        try:
            if suffix := stack_suffix(path, data):
                with opened_stack(path, data, note) as stack:
                    _check_stack(stack, reading)
                    images = [stack[number] for number in range(len(stack))]
            else:
                images = [read_image(path, data, note)]
        except UserError as error:
            raise _explain(str(error).removeprefix(f"{path}: "), content, reading) from None
    return Decoded(images, tuple(dict.fromkeys(remarks))[:MAX_REMARKS], suffix)


def _check_stack(stack: Stack, reading: Reading) -> None:
    """Refuse a stack of too many images or pixels before it is decoded."""
    if len(stack) > reading.max_pages:
        text = f"the upload has {len(stack)} images; this server takes up to {reading.max_pages}"
    elif (megapixels := sum(page.height * page.width for page in stack.pages) / 1e6) > reading.max_megapixels:
        text = f"the upload has {len(stack)} images of {megapixels:.3g} megapixels together; this server takes up to "
        text += f"{reading.max_megapixels:g}"
    else:
        return
    raise RefusedError(422, text, "image_too_large", param="file")


def _explain(message: str, content: bytes, reading: Reading) -> RefusedError:
    """Return the refusal of a file that `read_image` refused."""
    if not _suffix(content) and not any(content[place : place + len(start)] == start for place, start in STARTS):
        return RefusedError(415, f"the upload is {message}", "not_an_image", param="file")
    if " than data.max_pixels" in message:
        pixels = message.split(" are more")[0]
        text = f"the image has {pixels}; this server takes up to {reading.max_megapixels:g} megapixels"
        return RefusedError(422, text, "image_too_large", param="file")
    return RefusedError(422, f"the image is damaged or unsupported: {message}", "image_broken", param="file")


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[Path]:
    """Yield the path of a file with the suffix of its kind: in memory, where the system has such files."""
    suffix, has_memory_files = _suffix(content), hasattr(os, "memfd_create")
    with contextlib.ExitStack() as stack:
        partial = None
        if not has_memory_files or suffix:
            partial = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"image{suffix}"
        if not has_memory_files:
            partial.write_bytes(content)
        else:  # it vanishes with the process
            file = stack.enter_context(os.fdopen(os.memfd_create("image"), "wb"))
            file.write(content)
            file.flush()
            in_memory = Path(f"/proc/self/fd/{file.fileno()}")
            if partial:
                partial.symlink_to(in_memory)
        yield partial or in_memory


def _suffix(content: bytes) -> str:
    """Return the suffix of the kinds of files that are known by it; empty for a picture, and for what is no image."""
    if content.startswith(NUMPY_MAGIC):
        return ".npy"
    if content[MAGIC_PLACE : MAGIC_PLACE + len(MAGIC)] == MAGIC:
        return ".dcm"
    if is_nifti_start(content):
        return ".nii"
    if content.startswith(GZIP_MAGIC):
        with contextlib.suppress(zlib.error):
            if is_nifti_start(zlib.decompressobj(wbits=31).decompress(content[:UNPACKED], HEADER_BYTES)):
                return ".nii.gz"
    return ""


def _limit_memory(memory_bytes: int) -> None:
    """Let this process take so many bytes more than it has."""
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):  # another system
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
