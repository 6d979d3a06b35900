"""The decoding of uploads: the same samples as from a file, and what hostile files can do: nothing to the server."""

import asyncio
import contextlib
import dataclasses
import io
import logging
import math
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from asr.config import Config, FeaturesConfig, InferenceConfig
from asr.data.sounds.audio import iterate_audio
from asr.inference.segmentation import split_at_silences
from asr.serve.decode_worker import UploadDecoder
from asr.serve.decoding import BrokenSound, Busy, DecodePool, NotSound, TooLong
from asr.serve.metrics import Metrics
from asr.serve.settings import ServeSettings

av = pytest.importorskip("av")

RATE_HZ = 16000
CONFIG = Config(features=FeaturesConfig(sample_rate_hz=RATE_HZ), inference=InferenceConfig(max_segment_s=2))
SETTINGS = ServeSettings(max_sound_s=20.0, decode_workers=1, decode_timeout_s=10.0)


def speech_like(seconds, rate_hz=RATE_HZ, seed=0):
    """Return float32[n]: tones with pauses, below full scale."""
    time_n = np.arange(round(seconds * rate_hz)) / rate_hz
    wave_n = 0.3 * np.sin(2 * np.pi * 440 * time_n) * (np.sin(2 * np.pi * 0.35 * time_n) > 0)
    return (wave_n + 1e-3 * np.random.default_rng(seed).standard_normal(len(time_n))).astype(np.float32)


def with_soundfile(wave_nc, rate_hz, kind, subtype):
    file = io.BytesIO()
    soundfile.write(file, wave_nc, rate_hz, subtype, format=kind)
    return file.getvalue()


def with_ffmpeg(wave_n, kind, codec, rate_hz=48000, layout="mono", video=False, sound=True):
    """Return a file as browsers and phones make it."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        if video:
            picture = container.add_stream("mpeg4", rate=10)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuv420p"
        if sound:
            stream = container.add_stream(codec, rate=rate_hz, layout=layout)
            resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate_hz)
            num_channels = 2 if layout == "stereo" else 1
            frame = av.AudioFrame.from_ndarray(np.tile(wave_n, (num_channels, 1)), "fltp", layout)
            frame.rate = rate_hz
            frame.pts = 0
            graph = av.AudioFifo()
            for part in resampler.resample(frame):
                graph.write(part)
            size = stream.codec_context.frame_size or 1024
            while part := graph.read(size) or graph.read():
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
        if video:
            for number in range(10):
                frame = av.VideoFrame(32, 32, "yuv420p")
                frame.pts = number
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
    return file.getvalue()


@contextlib.contextmanager
def running(**settings):
    settings = dataclasses.replace(SETTINGS, **settings)
    pool = DecodePool(CONFIG, settings, Metrics(settings))
    pool.start()
    try:
        yield pool
    finally:
        for process in processes(pool):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
        pool.stop()


@pytest.fixture(scope="module")
def pool():
    with running() as pool:
        yield pool


def decode(pool, content):
    return asyncio.run(pool.decode(content))


def processes(pool):
    return [worker._process for worker in pool._workers]


def restarts(pool):
    return pool.metrics.registry.get_sample_value("asr_decode_restarts_total")


STEREO = np.stack([speech_like(3.0, 44100), 0.5 * speech_like(3.0, 44100, seed=1)], axis=1)


@pytest.mark.parametrize(
    "kind, subtype, wave_nc, rate_hz",
    [
        ("WAV", "PCM_16", speech_like(6.5), RATE_HZ),
        ("WAV", "FLOAT", STEREO, 44100),
        ("FLAC", "PCM_24", speech_like(5.0, 8000), 8000),
        ("OGG", "OPUS", speech_like(3.0, 48000), 48000),
        ("OGG", "VORBIS", STEREO, 44100),
        ("MP3", "MPEG_LAYER_III", STEREO, 44100),
        ("WAV", "PCM_16", STEREO * [1.0, -2.0], 44100),  # the channels cancel
    ],
)
def test_files_are_read_as_the_command_reads_them(pool, tmp_path, kind, subtype, wave_nc, rate_hz):
    path = tmp_path / "sound"
    path.write_bytes(content := with_soundfile(wave_nc, rate_hz, kind, subtype))
    expected = list(split_at_silences(iterate_audio(path, RATE_HZ), RATE_HZ, CONFIG.inference))
    decoded = decode(pool, content)
    assert len(decoded.segments) == len(expected) > 1
    for segment, other in zip(decoded.segments, expected, strict=True):
        assert segment.start == other.start
        np.testing.assert_array_equal(segment.wave, other.wave)
    assert decoded.num_samples == sum(map(len, iterate_audio(path, RATE_HZ)))


def test_samples_without_a_file_are_read_as_a_file_of_them(pool, tmp_path):
    pcm_n = (speech_like(5.0, 8000) * 32767).astype("<i2")
    split = asyncio.run(pool.split(pcm_n.tobytes() + b"\0", 8000))  # half a sample more
    decoded = decode(pool, with_soundfile(pcm_n, 8000, "WAV", "PCM_16"))
    assert split.num_samples == decoded.num_samples == 5 * RATE_HZ
    for one, other in zip(split.segments, decoded.segments, strict=True):
        np.testing.assert_array_equal(one.wave, other.wave)
    assert asyncio.run(pool.split(b"\0", 8000)).segments == ()


BROWSER = [
    ("webm", "libopus", 48000, "mono"),  # Chromium, Firefox
    ("mp4", "aac", 44100, "stereo"),  # Safari, phones
    ("adts", "aac", 44100, "mono"),
    ("matroska", "flac", 16000, "mono"),
    ("mov", "pcm_s16le", 44100, "stereo"),
    ("aiff", "pcm_s16be", 22050, "mono"),
]


@pytest.mark.parametrize("kind, codec, rate_hz, layout", BROWSER)
def test_recordings_of_browsers_and_phones_are_decoded(pool, kind, codec, rate_hz, layout):
    wave_n = speech_like(3.0, rate_hz)
    decoded = decode(pool, with_ffmpeg(wave_n, kind, codec, rate_hz, layout))
    assert abs(decoded.num_samples / RATE_HZ - 3.0) < 0.1
    whole_n = np.zeros(decoded.num_samples)
    for segment in decoded.segments:
        whole_n[segment.start : segment.start + len(segment.wave)] = segment.wave
    assert abs(np.abs(whole_n).max() - 0.3) < 0.05
    assert not decoded.warning


def test_of_a_film_the_sound_is_read(pool):
    assert abs(decode(pool, with_ffmpeg(speech_like(2.0, 48000), "mp4", "aac", video=True)).num_samples - 32000) < 2000


def test_a_cut_recording_gives_what_is_there_with_a_warning_if_the_end_is_damaged(pool):
    content = with_ffmpeg(speech_like(4.0, 48000), "webm", "libopus")
    decoded = decode(pool, content[: len(content) // 2])
    assert 1.0 < decoded.num_samples / RATE_HZ < 3.0


def png():
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\0" * 100_000,
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<html><body>no sound</body></html>",
        b"%PDF-1.7 ...",
        png(),
        b"PK\x03\x04" + bytes(100),
        b"MZ" + bytes(1000),
        np.random.default_rng(0).bytes(5000).replace(b"OggS", b""),
    ],
    ids=["empty", "one byte", "zeros", "m3u8", "ffconcat", "html", "pdf", "png", "zip", "exe", "noise"],
)
def test_what_is_no_sound_is_refused_by_its_first_bytes(pool, content):
    with pytest.raises(NotSound):
        decode(pool, content)
    assert restarts(pool) == 0


WAV = with_soundfile(speech_like(2.0), RATE_HZ, "WAV", "PCM_16")
WEBM = with_ffmpeg(speech_like(2.0, 48000), "webm", "libopus")
MP4 = with_ffmpeg(speech_like(2.0, 48000), "mp4", "aac")


@pytest.mark.parametrize(
    "content",
    [
        WAV[:44],
        WAV[:20],
        WAV[: len(WAV) // 2],
        with_soundfile(speech_like(2.0), RATE_HZ, "FLAC", "PCM_16")[:2000],
        WEBM[:200],
        WEBM[:4] + b"\xff" * 5000,
        MP4[:40],
        MP4[: len(MP4) // 2],  # its index is at the end
        with_ffmpeg(None, "mp4", "", video=True, sound=False),
        with_soundfile(np.zeros((100, 9)), RATE_HZ, "WAV", "PCM_16"),
        with_soundfile(np.zeros(100), 1_000_000, "WAV", "PCM_16"),
        with_soundfile(np.full(100, np.nan), RATE_HZ, "WAV", "FLOAT"),
        b"\xff\xfb\x90\x00" + bytes(4000),
        b"#!AMR\n" + b"\xff" * 2000,
        b"OggS" + bytes(4000),
        b"FORM\0\0\0\x10AIFF" + bytes(100),
    ],
)
def test_what_cannot_be_decoded_is_refused_without_a_path(pool, content):
    with pytest.raises(BrokenSound) as error:
        decode(pool, content)
    assert "/proc" not in str(error.value) and "/tmp" not in str(error.value) and "ffmpeg" not in str(error.value)
    assert str(error.value).startswith("the file")
    assert restarts(pool) == 0


def silence(kind, subtype, seconds=600, rate_hz=8000):
    return with_soundfile(np.zeros(seconds * rate_hz, np.int16), rate_hz, kind, subtype)


def flac_of_unknown_length(flac):
    """Return a FLAC file whose header claims no length, as from a pipe."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def wav_of_unknown_length(wav):
    """Return a WAV file whose header claims no length, as from a pipe."""
    return wav[:4] + struct.pack("<I", 0xFFFFFFFF) + wav[8:40] + struct.pack("<I", 0xFFFFFFFF) + wav[44:]


@pytest.mark.parametrize(
    "content",
    [
        silence("FLAC", "PCM_16"),
        silence("OGG", "OPUS"),
        flac_of_unknown_length(silence("FLAC", "PCM_16")),
        wav_of_unknown_length(silence("WAV", "PCM_16")),
        with_ffmpeg(np.zeros(48000 * 40, np.float32), "webm", "libopus"),
        with_ffmpeg(np.zeros(48000 * 40, np.float32), "adts", "aac"),
    ],
    ids=["flac", "opus", "flac of a pipe", "wav", "webm", "aac"],
)
def test_a_bomb_is_left_at_the_limit(pool, content):
    start = time.monotonic()
    with pytest.raises(TooLong, match="longer than the 20 s allowed"):
        decode(pool, content)
    assert time.monotonic() - start < 5
    assert restarts(pool) == 0


def test_a_stream_without_end_is_left_at_the_limit(monkeypatch):
    settings = {"sample_rate_hz": RATE_HZ, "channel": 0, "inference": {}, "whole": False, "max_sound_s": 20.0}
    monkeypatch.setattr(logging.getLogger("asr"), "handlers", [])
    decoder, seconds = UploadDecoder(settings), iter(range(1000))
    monkeypatch.setattr(decoder, "_frames", lambda *_: ((np.zeros((RATE_HZ, 1), np.float32), RATE_HZ) for _ in seconds))
    header, waves = decoder.answer(b"\x1aE\xdf\xa3")
    assert header["error"] == "too_long" and not waves
    assert next(seconds) == 21


def test_silence_is_no_error(pool):
    decoded = decode(pool, silence("FLAC", "PCM_16", seconds=5))
    assert decoded.segments == () and decoded.num_samples == 5 * RATE_HZ and "silent" in decoded.why_empty


def test_a_warning_names_what_is_wrong_but_no_path(pool):
    content = with_soundfile(STEREO * [1.0, -2.0], 44100, "WAV", "PCM_16")
    for _ in range(2):
        warning = decode(pool, content).warning
        assert warning.startswith("the file: its channels cancel") and "/proc" not in warning


def test_a_worker_has_neither_jax_nor_the_keys_of_the_server():
    code = "import sys, asr.serve.decode_worker; print(sorted({'jax', 'flax', 'chex', 'fastapi'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "[]"


@pytest.mark.skipif(not os.path.exists("/proc/self/limits"), reason="needs Linux")
def test_a_worker_is_confined(monkeypatch):
    monkeypatch.setenv("ASR_API_KEY", "secret")
    with running() as pool:
        decode(pool, WAV)
        (process,) = processes(pool)
        with open(f"/proc/{process.pid}/environ", "rb") as file:
            assert b"secret" not in file.read()
        with open(f"/proc/{process.pid}/limits") as file:
            limits = {line[:25].strip(): line[25:].split() for line in file}
        assert limits["Max address space"][1] == str(SETTINGS.decode_memory_bytes)
        assert 0 < int(limits["Max cpu time"][0]) < 60
        assert limits["Max core file size"][1] == "0"


def test_too_little_memory_fails_one_upload_and_not_the_next():
    content = with_soundfile(np.zeros(20 * 192_000, np.float32) + 0.1, 192_000, "WAV", "FLOAT")
    with running(decode_memory_bytes=700 << 20) as pool:
        (process,) = processes(pool)
        decode(pool, WAV)
        import resource

        if hasattr(resource, "prlimit"):
            with open(f"/proc/{process.pid}/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.prlimit(process.pid, resource.RLIMIT_AS, (used + (4 << 20),) * 2)
            with pytest.raises(BrokenSound):
                decode(pool, content)
            assert decode(pool, WAV).segments


def stopped(pool):
    """Stop the pool's process in the middle of whatever it does."""
    decode(pool, WAV)
    (process,) = processes(pool)
    process.send_signal(signal.SIGSTOP)
    return process


def test_a_worker_that_dies_fails_its_upload_only():
    async def main(pool, process):
        decoding = asyncio.create_task(pool.decode(WAV))
        await asyncio.sleep(0.1)
        process.kill()
        with pytest.raises(BrokenSound, match="the decoder crashed"):
            await decoding
        return await pool.decode(WAV)

    with running() as pool:
        assert asyncio.run(main(pool, stopped(pool))).segments
        assert restarts(pool) == 1


def test_a_worker_that_died_idle_fails_no_upload():
    with running() as pool:
        decode(pool, WAV)
        (process,) = processes(pool)
        process.kill()
        process.wait()
        assert decode(pool, WAV).segments
        assert restarts(pool) == 1


def test_a_worker_that_takes_too_long_is_replaced():
    with running(decode_timeout_s=1.0) as pool:
        stopped(pool)
        start = time.monotonic()
        with pytest.raises(BrokenSound, match="not within 1 s"):
            decode(pool, WAV)
        assert time.monotonic() - start < 15
        assert decode(pool, WAV).segments


def test_uploads_that_wait_are_bounded_in_number_and_bytes():
    async def main(pool, process):
        waiting = [asyncio.create_task(pool.decode(WAV)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(Busy):
            await pool.decode(b"RIFF")
        waiting[1].cancel()  # what waits can be taken back
        await asyncio.sleep(0.05)
        with pytest.raises(Busy):
            await pool.decode(WAV * 2)
        number, seconds = pool.waiting()
        assert number == 1 and 0 < seconds < 5
        with pool.expecting():
            assert pool.waiting() == (2, math.inf)  # one more would be too many
        process.send_signal(signal.SIGCONT)
        return await waiting[0]

    with running(decode_waiting=2, decode_waiting_bytes=2 * len(WAV)) as pool:
        assert asyncio.run(main(pool, stopped(pool))).segments
        assert decode(pool, WAV).segments
