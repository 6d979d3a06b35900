"""Media files that FFmpeg reads, damaged: containers with and without an index, streams, and codecs of each sort."""

import random
import sys
from pathlib import Path

import numpy as np

from fuzzing.mutations import change_bytes, write_changed
from fuzzing.sounds import read_sound
from fuzzing.trials import Kind

sys.path.append(str(Path(__file__).parents[2]))  # for the helpers that the tests share
from media_files import make_media  # noqa: E402

VARIANTS = (
    ("ipod", "aac", 16_000, "stereo", False),
    ("mp4", "aac", 44_100, "mono", True),
    ("mov", "pcm_s16le", 16_000, "mono", False),
    ("webm", "libopus", 48_000, "mono", False),
    ("matroska", "flac", 16_000, "mono", True),
    ("adts", "aac", 22_050, "mono", False),
    ("asf", "wmav2", 22_050, "mono", False),
    ("avi", "pcm_s16le", 8000, "stereo", True),
    ("aiff", "pcm_s16be", 22_050, "mono", False),
    ("caf", "alac", 16_000, "mono", False),
)
SUFFIXES = ("m4a", "mp4", "webm", "mkv", "aac", "wma", "wav", "bin")


def _samples(folder: Path) -> list[bytes]:
    waves = {rate_hz: _wave(rate_hz) for _, _, rate_hz, _, _ in VARIANTS}
    return [
        make_media(waves[rate_hz], kind, codec, rate_hz, layout, video=video)
        for kind, codec, rate_hz, layout, video in VARIANTS
    ]


def _wave(rate_hz: int) -> np.ndarray:
    """Return float32[n]: a second of a tone that comes and goes."""
    time_n = np.arange(rate_hz) / rate_hz
    return (0.3 * np.sin(2 * np.pi * 300 * time_n) * np.sin(2 * np.pi * time_n)).astype(np.float32)


def _write(rng: random.Random, samples: list[bytes], folder: Path) -> list[str]:
    """Change the head, where containers have their tables, or the tail, where MPEG-4 has its index, or any place."""
    content = rng.choice(samples)
    if rng.random() < 0.4:
        start = max(len(content) - 1200, 1)
        content = content[:start] + change_bytes(rng, content[start:], samples, head=400)
    else:
        content = change_bytes(rng, content, samples, head=rng.choice((64, 1000, len(content))))
    path = folder / f"talk.{rng.choice(SUFFIXES)}"
    write_changed(rng, path, content)
    return [str(path)]


KINDS = (Kind("media", 16, _samples, _write, read_sound),)
