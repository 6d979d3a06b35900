"""The few shapes that transcription compiles programs for.

A program is compiled for one batch size and one length of sound. Many shapes cost compilations, few cost padding:
lengths are 1/4, 2/4, 3/4 and 4/4 of the longest possible sound, and fewer if there is little sound.
"""

import dataclasses
from collections.abc import Sequence

PARTS = 4
MARGIN_S = 0.1
"""Slack for sound longer than its header claims, in seconds: rounding, and the padding of compressed files."""
PARTS_BY_SOUND = ((60.0, 1), (600.0, 2))
"""(seconds of sound, parts): below this duration, padding is cheaper than compiling for more lengths."""


@dataclasses.dataclass(frozen=True, order=True)
class Shape:
    """Shape of the sound in a batch."""

    batch_size: int  # rows
    num_samples: int  # samples in a row


def make_ladder(longest: int, batch_sizes: Sequence[int], parts: int = PARTS) -> tuple[Shape, ...]:
    """Return a shape for each batch size and each part of the longest sound, in samples: 1/4, 2/4, 3/4 and 4/4."""
    lengths = sorted({-(-longest * part // parts) for part in range(1, parts + 1)})
    return tuple(Shape(size, length) for size in sorted(set(batch_sizes)) for length in lengths)


def plan_shapes(lengths: Sequence[int], longest: int | None, batch_size: int, sample_rate_hz: int) -> tuple[Shape, ...]:
    """Return the shapes to compile for sounds of known lengths; none if there is no sound.

    If the sounds are few and not split, the batch size is their number. Lengths are in samples; sounds longer than
    `longest` are split, None: nothing is.
    """
    lengths = [length for length in lengths if length > 0]
    if not lengths:
        return ()
    top = whole_seconds(max(lengths) + round(MARGIN_S * sample_rate_hz), sample_rate_hz)
    if longest is not None:
        top = min(top, longest)
    if max(lengths) <= top:
        batch_size = min(batch_size, len(lengths))
    sound_s = sum(lengths) / sample_rate_hz
    parts = next((parts for limit_s, parts in PARTS_BY_SOUND if sound_s <= limit_s), PARTS)
    return make_ladder(top, [batch_size], parts)


def whole_seconds(num_samples: int, sample_rate_hz: int) -> int:
    """Return the number of samples rounded up to whole seconds: fewer shapes, more hits in the compile cache."""
    return -(-num_samples // sample_rate_hz) * sample_rate_hz


def row_counts(num_frames: int, tokens_per_frame: float) -> tuple[int, ...]:
    """Return the row counts to compile the decoder for: 1/4 and 1/2 of the frames, and all tokens that can fire.

    `num_frames` are the encoder's, the tail not counted; at most `tokens_per_frame` tokens fire in one.
    """
    most = int(num_frames * max(tokens_per_frame, 1.0)) + 1
    return tuple(sorted({-(-num_frames // 4), -(-num_frames // 2), most} - {0}))
