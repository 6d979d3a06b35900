"""A tiny streaming model, a detector that goes by the level, and a second pass, for the tests of live streams."""

import contextlib
import dataclasses

import numpy as np

from asr.inference.segmentation import Segment
from asr.serve.engine import Engine
from asr.serve.live import LiveEngine
from asr.serve.metrics import Metrics
from asr.serve.settings import ServeSettings
from tiny_model import RATE_HZ
from tiny_stream import make_config, make_transcriber

FRAME_MS, END_MS, MARGIN_MS, LOUD = 10, 200, 50, 0.02
SETTINGS = ServeSettings(batch_rows=2, batch_lengths=1, decode_workers=1, max_hotwords=0)


class LevelDetector:
    """Takes for speech what is loud; 0.2 s of silence end it."""

    features, sample_rate_hz = make_config().features, RATE_HZ

    def warm_up(self):
        pass

    def stream(self):
        return _Levels()

    def split(self, blocks, rate_hz, settings):
        wave_n, start = np.concatenate([np.zeros(0, np.float32), *blocks]), 0
        for event in _Levels().accept(wave_n, True):
            sample = min(event.time_ms * rate_hz // 1000, len(wave_n))
            if event.kind == "end":
                yield Segment(start, wave_n[start:sample])
            start = sample


@dataclasses.dataclass
class Change:
    kind: str
    time_ms: int


class _Levels:
    def __init__(self):
        self._rest_n, self._now_ms, self._loud_ms, self._free_ms, self._is_open = (
            np.zeros(0, np.float32),
            0,
            0,
            0,
            False,
        )

    @property
    def earliest_start_ms(self):
        return max(self._now_ms - MARGIN_MS, self._free_ms)

    def accept(self, samples, final=False):
        changes, size = [], RATE_HZ * FRAME_MS // 1000
        self._rest_n = np.concatenate([self._rest_n, samples])
        while len(self._rest_n) >= size:
            is_loud, self._rest_n = np.abs(self._rest_n[:size]).max() > LOUD, self._rest_n[size:]
            if is_loud and not self._is_open:
                changes, self._is_open = [*changes, Change("start", self.earliest_start_ms)], True
            self._now_ms += FRAME_MS
            self._loud_ms = self._now_ms if is_loud else self._loud_ms
            if self._is_open and self._now_ms - self._loud_ms >= END_MS:
                changes += self._end(self._loud_ms + MARGIN_MS)
        if final and self._is_open:
            changes += self._end(self._now_ms + FRAME_MS)
        return tuple(changes)

    def _end(self, time_ms):
        self._is_open, self._free_ms = False, time_ms
        return [Change("end", time_ms)]


def speech(seed, parts=2):
    """Return int16 samples: stretches of tones of random lengths and pitches, with silences between them."""
    rng, waves = np.random.default_rng(seed), []
    for _ in range(parts):
        tones_hz = rng.uniform(150, 3500, 40)
        time_n = np.arange(round(rng.uniform(0.4, 1.6) * RATE_HZ)) / RATE_HZ
        tone_n = 0.3 * np.sin(2 * np.pi * tones_hz[(time_n * 10).astype(int)] * time_n)
        waves += [
            np.zeros(round(rng.uniform(0, 0.5) * RATE_HZ)),
            tone_n,
            np.zeros(round(rng.uniform(0.1, 0.5) * RATE_HZ)),
        ]
    return (32767 * np.concatenate(waves)).astype("<i2")


def make_models(*, detects=True):
    """Return the streaming model and the one of the second pass."""
    streaming, offline = make_transcriber(), make_transcriber(seed=9)
    streaming.vad = offline.vad = LevelDetector() if detects else None
    return streaming, offline


@contextlib.contextmanager
def running_live(streaming, offline, **limits):
    """Run a live engine and the engine of its second pass."""
    settings = dataclasses.replace(SETTINGS, **limits)
    metrics = Metrics(settings)
    engine = Engine(offline, settings, metrics)
    live = LiveEngine(streaming, engine, settings, metrics)
    live.start()
    engine.start()
    try:
        yield live
    finally:
        live.stop()
        engine.stop()
