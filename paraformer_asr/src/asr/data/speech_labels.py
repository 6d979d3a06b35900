"""Frame labels of speech and silence as the texts of a data set: what a voice activity detector is trained with.

They come from the level of the sound, or from stretches of speech that are known, such as those of an RTTM file:

    SPEAKER talk 1 0.45 2.17 <NA> <NA> speaker <NA> <NA>        2.17 s of speech from 0.45 s on in "talk"

A text has one character for each frame, "1" for speech and "0" for silence.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from asr.config import FeaturesConfig
from asr.data.dataset import SpeechDataset, Utterance
from asr.data.frontend import num_feature_frames
from asr.data.manifests.manifest import read_lines
from asr.data.sounds.levels import frame_levels, is_sound, loudness
from asr.errors import UserError
from asr.untrusted import shown

SILENCE, SPEECH = "0", "1"
LEVEL_S = 0.01  # length of the frames whose level is measured, in seconds

Stretches = Sequence[tuple[float, float]]
"""(start, end) of each stretch of speech, in seconds."""


class SpeechLabels(SpeechDataset):
    """The utterances of another data set with frame labels for texts."""

    def __init__(
        self,
        dataset: SpeechDataset,
        features: FeaturesConfig,
        *,
        speech: Mapping[str, Stretches] | None = None,
        silence_db: float = 40.0,
    ):
        """Label the frames of a data set.

        Args:
            dataset: the utterances; their own texts are not used.
            features: the front end, one frame every `output_shift_ms`.
            speech: the speech in each utterance, by its name; one that is not named has none. None: speech is what is
                less than `silence_db` below the loudest frames of its utterance, all of which are read for that.
            silence_db: in dB; in recordings with noise less than the default.
        """
        self._dataset, self._features = dataset, features
        if speech is None:
            self._texts = [self._by_level(dataset[index], silence_db) for index in range(len(dataset))]
        else:
            known = zip(dataset.names(), dataset.durations_s(), strict=True)
            self._texts = [self._by_stretches(speech.get(name, ()), duration_s) for name, duration_s in known]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Utterance:
        utterance = self._dataset[index]
        return Utterance(utterance.wave, utterance.sample_rate_hz, self._texts[index], utterance.name)

    def durations_s(self) -> np.ndarray:
        """Return float64[len], the length of each utterance in seconds."""
        return self._dataset.durations_s()

    def texts(self) -> list[str]:
        """Return the labels of each utterance."""
        return self._texts

    def names(self) -> list[str]:
        """Return the name of each utterance."""
        return self._dataset.names()

    def sound_files(self) -> list[str]:
        """Return the path of the sound file of each utterance."""
        return self._dataset.sound_files()

    def _by_level(self, utterance: Utterance, silence_db: float) -> str:
        level_t = frame_levels(utterance.wave, round(LEVEL_S * utterance.sample_rate_hz))
        if not level_t.size:
            return ""
        sound_t = is_sound(level_t, loudness(level_t), silence_db)
        centres = (self._centres_s(len(utterance.wave)) / LEVEL_S).astype(int)
        return _text(sound_t[np.minimum(centres, len(sound_t) - 1)])

    def _by_stretches(self, stretches: Stretches, duration_s: float) -> str:
        centres_s = self._centres_s(round(duration_s * self._features.sample_rate_hz))
        speech_t = np.zeros(len(centres_s), bool)
        for start_s, end_s in stretches:
            speech_t |= (start_s <= centres_s) & (centres_s < end_s)
        return _text(speech_t)

    def _centres_s(self, num_samples: int) -> np.ndarray:
        """Return float64[t], the middle of each frame's window."""
        num_frames = int(num_feature_frames(num_samples, self._features))
        shift_s, length_s = self._features.output_shift_ms / 1000, self._features.frame_length_ms / 1000
        return np.arange(num_frames) * shift_s + length_s / 2


def read_rttm(path: str | Path) -> dict[str, list[tuple[float, float]]]:
    """Return the stretches of speech in an RTTM file, by the name of the recording; speakers are not told apart.

    Raises:
        UserError: a file or line that cannot be read.
    """
    stretches: dict[str, list[tuple[float, float]]] = {}
    for number, line in read_lines(Path(path), "lines of RTTM: SPEAKER name channel start duration …"):
        kind, *fields = line.split()
        if kind != "SPEAKER":
            continue
        try:
            name, start_s, length_s = fields[0], float(fields[2]), float(fields[3])
        except (IndexError, ValueError):
            name, start_s, length_s = "", math.nan, math.nan
        if not (start_s >= 0 and 0 <= length_s < math.inf):
            expected = "SPEAKER name channel start duration, in seconds"
            raise UserError(f"{path}:{number}: expected {expected}, found {shown(line)}")
        stretches.setdefault(name, []).append((start_s, start_s + length_s))
    return stretches


def _text(speech_t: np.ndarray) -> str:
    return "".join(SPEECH if speech else SILENCE for speech in speech_t)
