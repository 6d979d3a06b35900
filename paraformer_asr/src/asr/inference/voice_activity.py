"""Voice activity detection: where there is speech in a sound, whole or as it arrives.

    detector = asr.load("fsmn-vad")
    for segment in detector.segments("talk.wav"):
        print(segment.start_s, segment.end_s)

docs/voice_activity.md describes the rules and settings.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from asr.config import InferenceConfig
from asr.config.parsing import parse_override
from asr.config.voice_activity import FRAME_MS, VoiceActivityConfig
from asr.data.sounds.samples import check_samples
from asr.data.sounds.sound_input import Sound, open_sound
from asr.errors import UserError
from asr.files import appearing
from asr.funasr_folder import WEIGHTS, is_funasr_folder
from asr.inference.frame_scores import FrameScorer, ScoredSound
from asr.inference.loading import load_parts
from asr.inference.model_folder import check_target
from asr.inference.segmentation import Segment
from asr.inference.speech_segments import SpeechEvent, SpeechSegments
from asr.inference.speech_splitting import split_at_speech
from asr.models import count_parameters
from asr.models.frame_labeller import network_sizes
from asr.published.funasr_vad import PublishedVad, load_funasr_vad, save_funasr_vad


@dataclasses.dataclass(frozen=True)
class SpeechSegment:
    """A stretch of speech, in seconds from the start of the sound."""

    start_s: float
    end_s: float


class VoiceActivityStream:
    """A sound that arrives in pieces. Nothing of it stays in the detector; any number may be open at once."""

    def __init__(self, detector: "VoiceActivityDetector"):
        self._sound, self._segments = ScoredSound(detector.scorer), SpeechSegments(detector.settings)
        self._ended = False

    @property
    def earliest_start_ms(self) -> int:
        """Where the next segment may start, in ms: what lies before is silence, or belongs to a segment."""
        return self._segments.first_free * FRAME_MS

    def accept(self, samples: np.ndarray, final: bool = False) -> tuple[SpeechEvent, ...]:
        """Return the starts and ends of segments that the next samples bring, in order.

        A start is known 0.15 s after speech set in, and lies before; an end when the silence has been long enough.

        Args:
            samples: one channel at the detector's rate, of any length: int16, or floats in −1…1.
            final: the sound ends here; an open segment ends with it.

        Raises:
            UserError: not such samples, or the sound had ended.
        """
        if self._ended:
            raise UserError("the stream has ended: detector.stream() begins a new one")
        self._ended = final
        return tuple(self._segments.accept(*self._sound.push(check_samples(samples), final), final))


class VoiceActivityDetector:
    """A trained FSMN-VAD.

    Attributes:
        settings: the rules.
        features: the front end.
        scorer: the compiled programs.
    """

    def __init__(self, stored: PublishedVad, settings: VoiceActivityConfig | None = None):
        self.stored, self.features = stored, stored.features
        self.settings = stored.settings if settings is None else settings
        self.scorer = FrameScorer(
            stored.features, stored.cmvn, stored.network, stored.variables, self.settings.silence_classes
        )

    def __repr__(self) -> str:
        number = count_parameters(self.stored.variables)
        return f"VoiceActivityDetector({self.sample_rate_hz} Hz, {number:,} parameters)"

    @property
    def sample_rate_hz(self) -> int:
        """Samples in a second of what a stream accepts."""
        return self.features.sample_rate_hz

    @property
    def weights(self) -> Any:
        """The arrays that the scores depend on: of the network, and the normalisation of its input."""
        return {"variables": self.stored.variables, "cmvn": vars(self.stored.cmvn) if self.stored.cmvn else {}}

    def warm_up(self) -> None:
        """Compile all programs, so that no sound has to wait for the compiler."""
        self.scorer.warm_up()

    def stream(self) -> VoiceActivityStream:
        """Return a new stream."""
        return VoiceActivityStream(self)

    def segments(self, sound: Sound, rate: float | None = None) -> tuple[SpeechSegment, ...]:
        """Return the stretches of speech in a sound of any length.

        Args:
            sound: a path, an open binary file, the bytes of a file, or an array, as for `Transcriber.transcribe`.
            rate: samples in a second of an array.

        Raises:
            UserError: naming the sound that cannot be read, and what to do.
        """
        blocks = open_sound(sound, rate).blocks(self.sample_rate_hz, 0)
        return tuple(self.find(blocks))

    def find(self, blocks: Iterable[np.ndarray]) -> Iterator[SpeechSegment]:
        """Yield the stretches of speech in a sound, float32[n] at the detector's rate in blocks of any lengths."""
        stream, start_s = self.stream(), 0.0
        for events in _events(stream, blocks):
            for event in events:
                if event.kind == "start":
                    start_s = event.time_s
                else:
                    yield SpeechSegment(start_s, event.time_s)

    def split(self, blocks: Iterable[np.ndarray], rate_hz: int, settings: InferenceConfig) -> Iterator[Segment]:
        """Yield the speech of a sound in pieces that a recogniser takes, in order; see `split_at_speech`."""
        return split_at_speech(self, blocks, rate_hz, settings)

    def transcribe(self, *sound: Any, **options: Any) -> NoReturn:
        """Refuse: a detector writes no text."""
        raise UserError(
            "this model finds speech and writes no text: call its segments(), or give it to a recogniser: "
            "asr.load(FOLDER, vad=DETECTOR)"
        )


def load_detector(
    folder: str | Path, which: str = "best", overrides: Sequence[str] = (), average: int = 1
) -> VoiceActivityDetector:
    """Return the detector in a folder of FunASR or in a run of this package.

    Args:
        folder: with FunASR's files, or a run directory.
        which: "best" or "last" checkpoint of a run.
        overrides: changes of `VoiceActivityConfig` as `key=value`.
        average: use the mean of this many checkpoints of a run.

    Raises:
        UserError: files that are missing or damaged, or settings that cannot be used.
    """
    folder = Path(folder)
    if is_funasr_folder(folder):
        if average > 1:
            raise UserError(f"--average {average}: {folder} is a model of FunASR, which holds one set of weights")
        stored = load_funasr_vad(folder)
    else:
        stored = _load_run(folder, which, average)
    settings = functools.reduce(parse_override, overrides, stored.settings)
    check_settings(settings, stored)
    return VoiceActivityDetector(stored, settings)


def save_detector(detector: VoiceActivityDetector, folder: Path, *, force: bool = False) -> None:
    """Write a detector as a new folder, in FunASR's layout; `force` replaces another such folder.

    Raises:
        UserError: the folder exists, or settings that FunASR does not have.
    """
    check_target(folder, force, lambda folder: (folder / WEIGHTS).is_file())
    with appearing(folder) as partial:
        save_funasr_vad(partial, detector.stored._replace(settings=detector.settings))


def check_settings(settings: VoiceActivityConfig, stored: PublishedVad) -> None:
    """Refuse settings that contradict each other or the network."""
    if not settings.silence_classes or max(settings.silence_classes) >= stored.network.num_classes:
        raise UserError(
            f"silence_classes: expected classes below {stored.network.num_classes}, the outputs of the network, found "
            f"{list(settings.silence_classes)}"
        )
    if settings.speech_onset_ms > settings.window_ms:
        raise UserError(
            f"speech_onset_ms {settings.speech_onset_ms} is above window_ms {settings.window_ms}: no speech could start"
        )
    if settings.keep_silence and not settings.join_up_to_s:
        raise UserError("keep_silence=true needs the length of the pieces: set it too, such as join_up_to_s=15")


def _load_run(folder: Path, which: str, average: int) -> PublishedVad:
    """Return the detector of a run; the rules have their defaults."""
    config, _, cmvn, variables = load_parts(folder, which, average=average)
    network = {"params": variables["params"]["network"]}
    return PublishedVad(VoiceActivityConfig(), config.features, cmvn, network_sizes(config.model), network)


def _events(stream: VoiceActivityStream, blocks: Iterable[np.ndarray]) -> Iterator[tuple[SpeechEvent, ...]]:
    """Yield the events of each block, and of the end of the sound."""
    for block_n in blocks:
        yield stream.accept(block_n)
    yield stream.accept(np.zeros(0, np.float32), final=True)
