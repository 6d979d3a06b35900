"""A service with a voice activity detector: the decoders hand whole sounds over, and the detector cuts them."""

import asyncio
import io
import types

import numpy as np
import pytest
import soundfile

from asr.config import Config
from asr.inference.segmentation import Segment
from asr.serve.decoding import DecodePool
from asr.serve.metrics import Metrics
from asr.serve.settings import ServeSettings
from asr.serve.speech import make_finder

RATE_HZ = 16000
SETTINGS = ServeSettings(max_sound_s=20.0, decode_workers=1, decode_timeout_s=10.0)


class Loud:
    """A detector for which the samples above 0.5 are speech."""

    def split(self, blocks, rate_hz, settings):
        wave_n = np.concatenate(list(blocks))
        loud = np.flatnonzero(np.abs(wave_n) > 0.5)
        if loud.size:
            yield Segment(int(loud[0]), wave_n[loud[0] : loud[-1] + 1])


def transcriber_with(detector):
    return types.SimpleNamespace(vad=detector, config=Config())


@pytest.fixture(scope="module")
def pool():
    pool = DecodePool(Config(), SETTINGS, Metrics(SETTINGS), make_finder(transcriber_with(Loud())))
    pool.start()
    yield pool
    pool.stop()


def decode(pool, wave_n):
    file = io.BytesIO()
    soundfile.write(file, wave_n, RATE_HZ, "FLOAT", format="WAV")
    return asyncio.run(pool.decode(file.getvalue()))


def test_the_detector_sees_the_whole_sound_and_says_what_is_recognised(pool):
    wave_n = 0.1 * np.ones(3 * RATE_HZ, np.float32)  # of constant level, which counts as silence without a detector
    wave_n[20_000:30_000] = 0.6
    decoded = decode(pool, wave_n)
    (segment,) = decoded.segments
    assert (segment.start, decoded.num_samples) == (20_000, len(wave_n))
    np.testing.assert_array_equal(segment.wave, wave_n[20_000:30_000])
    assert decoded.why_empty.startswith("no text: the model wrote nothing for 0.6 s")
    silent = decode(pool, wave_n[:20_000] * np.linspace(0, 1, 20_000, dtype=np.float32))
    assert silent.segments == ()
    assert silent.why_empty == "no speech: the detector found none in sound whose peak is -20 dBFS"


def test_without_a_detector_nothing_changes():
    assert make_finder(transcriber_with(None)) is None
