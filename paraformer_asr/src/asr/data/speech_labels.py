"""Frame labels of speech and silence as the texts of a data set: what a voice activity detector is trained with.

They come from the level of the sound, or from stretches of speech that are known, such as those of an RTTM file:

    SPEAKER talk 1 0.45 2.17 <NA> <NA> speaker <NA> <NA>        2.17 s of speech from 0.45 s on in "talk"

A text has one character for each frame, "1" for speech and "0" for silence.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from asr.config import Config
from asr.data.dataset import SpeechDataset, Utterance
from asr.data.frontend import num_feature_frames
from asr.data.manifests.manifest import read_lines
from asr.data.sounds.levels import frame_levels, is_sound, loudness
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.errors import UserError
from asr.untrusted import shown

SILENCE, SPEECH = "0", "1"
LEVEL_S = 0.01  # length of the frames whose level is measured, in seconds
MAX_SHOWN = 8  # tokens in a message

Stretches = Sequence[tuple[float, float]]
"""(start, end) of each stretch of speech, in seconds."""


class SpeechLabels(SpeechDataset):
    """The utterances of another data set with frame labels for texts."""

    def __init__(self, dataset: SpeechDataset, config: Config, speech: Mapping[str, Stretches] | None = None):
        """Label the frames of a data set; its own texts are not used.

        Args:
            dataset: the utterances.
            config: front end, and level of silence.
            speech: the speech in each utterance, by its name; one that is not named has none. None: speech is what is
                less than `silence_db` below the loudest frames of its utterance.
        """
        self._dataset, self._config, self._speech = dataset, config, speech

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Utterance:
        utterance = self._dataset[index]
        if self._speech is None:
            text = self._by_level(utterance)
        else:
            text = self._by_stretches(utterance.name, utterance.duration_s)
        return dataclasses.replace(utterance, text=text)

    def durations_s(self) -> np.ndarray:
        """Return float64[len], the length of each utterance in seconds."""
        return self._dataset.durations_s()

    @functools.cached_property
    def _texts(self) -> list[str]:
        if self._speech is None:
            with ThreadPoolExecutor(max(self._config.data.num_threads, 1)) as pool:
                return list(pool.map(lambda index: self[index].text, range(len(self))))
        return list(map(self._by_stretches, self.names(), self.durations_s()))

    def texts(self) -> list[str]:
        """Return the labels of each utterance; by the level all sound is read for that, the first time."""
        return self._texts

    def names(self) -> list[str]:
        """Return the name of each utterance."""
        return self._dataset.names()

    def sound_files(self) -> list[str]:
        """Return the path of the sound file of each utterance."""
        return self._dataset.sound_files()

    def starts_s(self) -> np.ndarray:
        """Return float64[len], where each utterance begins in its sound file, in seconds."""
        return self._dataset.starts_s()

    def where(self, index: int) -> str:
        """Return where utterance `index` comes from, for a message."""
        return self._dataset.where(index)

    def _by_level(self, utterance: Utterance) -> str:
        level_t = frame_levels(utterance.wave, round(LEVEL_S * utterance.sample_rate_hz))
        if not level_t.size:
            return ""
        sound_t = is_sound(level_t, loudness(level_t), self._config.data.speech_labels.silence_db)
        centres = (self._centres_s(len(utterance.wave)) / LEVEL_S).astype(int)
        return _text(sound_t[np.minimum(centres, len(sound_t) - 1)])

    def _by_stretches(self, name: str, duration_s: float) -> str:
        centres_s = self._centres_s(round(duration_s * self._config.features.sample_rate_hz))
        speech_t = np.zeros(len(centres_s), bool)
        for start_s, end_s in self._speech.get(name, ()):
            speech_t |= (start_s <= centres_s) & (centres_s < end_s)
        return _text(speech_t)

    def _centres_s(self, num_samples: int) -> np.ndarray:
        """Return float64[t], the middle of each frame's window."""
        features = self._config.features
        num_frames = int(num_feature_frames(num_samples, features))
        shift_s, length_s = features.output_shift_ms / 1000, features.frame_length_ms / 1000
        return np.arange(num_frames) * shift_s + length_s / 2


def label_speech(dataset: SpeechDataset, config: Config, split: Literal["train", "val", "test"]) -> SpeechLabels:
    """Return a split with the frame labels that the section `data.speech_labels` describes.

    Raises:
        UserError: no RTTM file where there should be one, or one that speaks of other utterances.
    """
    settings, key = config.data.speech_labels, f"data.speech_labels.{split}_rttm"
    if settings.source == "level":
        return SpeechLabels(dataset, config)
    if not (file := getattr(settings, f"{split}_rttm")):
        raise UserError(f"{key} is empty; with source: rttm it names the RTTM file of the split")
    speech, names = read_rttm(Path(config.data.root) / file), dataset.names()
    if names and speech.keys().isdisjoint(names):
        expected = f"speech in utterances of the split {split}, such as {shown(names[0])}"
        raise UserError(f"{key}: {file}: expected {expected}, found {shown(next(iter(speech), 'no line SPEAKER'))}")
    return SpeechLabels(dataset, config, speech)


def check_label_tokens(tokenizer: Tokenizer) -> None:
    """Refuse a vocabulary that is not the two labels."""
    if tokenizer.tokens != with_special_tokens([SILENCE, SPEECH]):
        raise UserError(
            "model.name: vad: expected frames with speech and frames without in the training split, and "
            f"tokenizer.kind: characters; found the tokens {', '.join(map(shown, tokenizer.tokens[:MAX_SHOWN]))}"
        )


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
