"""Settings of voice activity detection: the network's sizes, its training, and the rules that make segments.

`docs/voice_activity.md` has the rules as a table. FunASR's names of the settings are in `asr.published.funasr_vad`.
"""

import dataclasses
from typing import Literal

from asr.config.fields import setting

FRAME_MS = 10
"""Time from one score to the next, in ms; times in the settings are rounded down to whole frames."""


@dataclasses.dataclass(frozen=True)
class VoiceActivityConfig:
    """When a segment of speech starts and ends. The defaults are those of the published model."""

    mode: Literal["many", "one"] = setting("many", "segments to look for; one: stop after the first")
    min_speech_margin: float = setting(0.6, "a frame is speech if P(speech) − P(silence) is at least this", -1, 1)
    silence_exponent: float = setting(1.0, "exponent of P(silence) in that comparison", 0.01, 100)
    silence_classes: tuple[int, ...] = setting((0,), "outputs of the network whose sum is P(silence)", 0, 10_000)
    min_level_db: float = setting(-100.0, "frames below this level, in dB, are silence", -200, 200)
    min_snr_db: float = setting(-100.0, "frames less than this above the noise level, in dB, are silence", -200, 200)
    noise_frames: int = setting(100, "frames that the running mean of the noise level remembers", 1, 100_000)
    window_ms: int = setting(200, "window in which frames of speech are counted, in ms", 10, 10_000)
    speech_onset_ms: int = setting(150, "speech in the window that starts speech, in ms", 10, 10_000)
    speech_offset_ms: int = setting(150, "speech in the window at or below which speech stops, in ms", 0, 10_000)
    extend: bool = setting(True, "extend segments by lookback_ms and lookahead_ms")
    lookback_ms: int = setting(200, "speech assumed before the window in which it was noticed, in ms", 0, 10_000)
    lookahead_ms: int = setting(100, "speech assumed after it stopped, in ms", 0, 10_000)
    max_end_silence_ms: int = setting(800, "silence after speech that ends a segment, in ms", 0, 600_000)
    max_start_silence_ms: int = setting(3000, "mode one: silence at the start after which to give up, in ms", 0)
    max_segment_ms: int = setting(60_000, "longest segment, in ms; longer speech is cut there", 100, 600_000)
    dynamic_end_silence: bool = setting(
        False, "the longer a segment, the less silence ends it, from 2 s to 0.1 s; and min_speech_margin is 0.5"
    )
    join_up_to_s: float = setting(
        0.0, "for recognition: join neighbouring segments up to this length, in seconds; 0: join none", 0, 120
    )
    keep_silence: bool = setting(
        False, "for recognition: keep silence, in pieces shorter than join_up_to_s; each begins where the last one ends"
    )


@dataclasses.dataclass(frozen=True)
class FsmnSizes:
    """Sizes of the hidden layers. The defaults are those of the published model."""

    input_affine_width: int = setting(140, "width of the first layer", 1, 4096)
    width: int = setting(250, "width between the blocks", 1, 4096)
    num_layers: int = setting(4, "blocks with a memory", 1, 100)
    projection: int = setting(128, "width of the memory", 1, 4096)
    taps: int = setting(20, "frames that a memory spans, the present one included", 1, 1000)
    output_affine_width: int = setting(140, "width of the layer before the last", 1, 4096)


@dataclasses.dataclass(frozen=True)
class FsmnConfig(FsmnSizes):
    """Sizes of the network. With the published model's it has 0.43 million parameters."""

    num_classes: int = setting(248, "outputs; the first is silence", 2, 100_000)


@dataclasses.dataclass(frozen=True)
class SpeechLabelsConfig:
    """Which frames are speech, for model.name vad; the texts of the data set are not used."""

    source: Literal["level", "rttm"] = setting("level", "level of the sound, or speech that is known, in RTTM files")
    silence_db: float = setting(40.0, "level: silence is this many dB below the loudest frames", 5, 100)
    train_rttm: str = setting("", "rttm: file of the training split; a relative path starts at data.root")
    val_rttm: str = setting("", "rttm: the same for validation")
    test_rttm: str = setting("", "rttm: the same for the final test")
