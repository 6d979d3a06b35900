"""Finds the speech in decoded sound with a voice activity detector.

The processes that decode own no device, so they hand the whole sound over, and its segments are found here.
"""

import dataclasses
from typing import TYPE_CHECKING

from asr.inference.transcription import Heard

if TYPE_CHECKING:
    from asr.inference.transcriber import Transcriber
    from asr.serve.decoding import Decoded, Finder


def make_finder(transcriber: "Transcriber") -> "Finder | None":
    """Return the function from a sound in one segment to one with the segments that the detector finds.

    None without a detector.
    """
    detector, config = transcriber.vad, transcriber.config
    if detector is None:
        return None

    def find_speech(whole: "Decoded") -> "Decoded":
        rate_hz = config.features.sample_rate_hz
        heard = Heard(iter([segment.wave for segment in whole.segments]), rate_hz, detected=True)
        segments = tuple(detector.split(heard, rate_hz, config.inference))
        for segment in segments:
            heard.add(segment.wave)
        why_empty = heard.why_empty() if whole.num_samples else whole.why_empty
        return dataclasses.replace(whole, segments=segments, why_empty=why_empty)

    return find_speech
