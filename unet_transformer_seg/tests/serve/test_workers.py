"""Uploads are read in processes of their own: whatever a file does to its reader, the next one is read."""

import asyncio
import os
import signal
import struct
import time
import zlib

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from seg.classes import make_class_table
from seg.config import DataConfig
from seg.serve import worker as worker_module
from seg.serve.formats import Drawing
from seg.serve.metrics import Metrics
from seg.serve.refusal import RefusedError
from seg.serve.settings import ServeSettings
from seg.serve.worker import Reading, decode
from seg.serve.workers import WorkerPool

CLASSES = make_class_table(("sky", "road"))
READING = Reading(DataConfig(), 0.01)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width, height, rows=b""):
    """Return a PNG that states a size, and holds these compressed rows."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def pool():
    metrics = Metrics()
    settings = ServeSettings(num_workers=1, decode_s=1.5, draw_s=1.5, worker_bytes=200 << 20)
    pool = WorkerPool(settings, DataConfig(), CLASSES, metrics)
    pool.metrics = metrics
    pool.start()
    yield pool
    pool.stop()


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_format_is_read_by_its_bytes(kind, encode, random_image):
    image_hwc = random_image(9, 13)
    decoded = decode(encode(image_hwc, kind), READING)
    assert decoded.images[0].shape == (9, 13, 3) and decoded.images[0].dtype == np.uint8
    if kind in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(decoded.images[0], image_hwc)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"hello there", 415, "text that starts with 'hello there'"),
        (b"%PDF-1.7 ...", 415, "a PDF; convert its pages to PNG"),
        (b"\x93NUMPY\x01\x00" + bytes(100), 422, "damaged"),
        (b"<!doctype html><html>", 415, "a web page"),
        (b"\0" * 600, 415, "all zeros"),
        (b"\x89PNG\r\n\x1a\n", 422, "a damaged PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(40), 422, "damaged or unsupported"),
        (png_of(100_000, 100_000), 422, "the image has 100000×100000 pixels; this server takes up to 0.01 megapixels"),
        (png_of(101, 100), 422, "100×101 pixels"),
        (png_of(50, 50, zlib.compress(bytes(100))), 422, "damaged or unsupported"),
    ],
)
def test_what_is_no_image_is_refused_in_words(content, status, message):
    with pytest.raises(RefusedError) as refused:
        decode(content, READING)
    assert refused.value.status == status and message in refused.value.message
    assert "/proc" not in refused.value.message and "data.max_pixels" not in refused.value.message


def test_remarks_come_with_the_image(encode):
    rgba_hwc = np.full((8, 8, 4), 100, np.uint8)
    assert "transparen" in decode(encode(rgba_hwc), READING).remarks[0]


def test_a_worker_knows_nothing_of_jax(pool):
    """Its memory and its start would be those of the server."""
    import subprocess
    import sys

    script = "import sys, seg.serve.worker; print([name for name in ('jax', 'flax', 'fastapi') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def process_of(pool):
    (worker,) = pool._workers
    return worker._process


def test_a_reader_that_dies_is_replaced(pool, encode, random_image):
    restarts = pool.metrics.restarts._value.get()
    process = process_of(pool)
    os.kill(process.pid, signal.SIGSTOP)  # it takes the job, and never answers

    async def die():
        job = asyncio.create_task(pool.decode(encode(random_image(5, 5))))
        await asyncio.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        return await asyncio.gather(job, pool.decode(encode(random_image(5, 5))), return_exceptions=True)

    died, read = run(die())
    assert (died.status, died.code) == (422, "image_broken")
    assert read.images[0].shape == (5, 5, 3)
    assert pool.metrics.restarts._value.get() == restarts + 1


def test_a_reader_that_takes_too_long_is_replaced(pool, encode, random_image):
    os.kill(process_of(pool).pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(RefusedError) as refused:
        run(pool.decode(encode(random_image(5, 5))))
    assert (refused.value.status, refused.value.code) == (422, "image_too_slow") and time.monotonic() - start < 10
    assert run(pool.decode(encode(random_image(5, 5)))).images[0].shape == (5, 5, 3)


def test_an_answer_that_takes_too_much_memory_is_refused(pool):
    noise_hw = np.random.default_rng(0).integers(0, 2, (1500, 1500), np.uint8)
    with pytest.raises(RefusedError) as refused:
        run(pool.draw(Drawing("geojson", noise_hw, None, None)))
    assert (refused.value.status, refused.value.code) == (422, "answer_too_large")
    assert "geojson would be too large" in refused.value.message
    assert run(pool.draw(Drawing("png", noise_hw))).startswith(b"\x89PNG")


def test_too_many_jobs_are_refused_at_once(encode, random_image):
    pool = WorkerPool(ServeSettings(num_workers=1, max_jobs=0), DataConfig(), CLASSES, Metrics())
    with pytest.raises(RefusedError) as refused:
        run(pool.decode(encode(random_image(5, 5))))
    assert refused.value.status == 429
    pool.stop()


def test_a_file_is_read_without_a_disk(monkeypatch, encode, random_image, tmp_path):
    monkeypatch.setattr(worker_module.tempfile, "tempdir", str(tmp_path / "missing"))
    if not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files in memory")
    assert decode(encode(random_image(5, 5)), READING).images[0].shape == (5, 5, 3)
