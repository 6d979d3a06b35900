"""A data set of sound files that a manifest lists."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from asr.config import DataConfig
from asr.data.dataset import SpeechDataset, Utterance
from asr.data.manifests.entries import Entries, Entry
from asr.data.manifests.jsonl import read_jsonl
from asr.data.manifests.kaldi import read_kaldi
from asr.data.manifests.manifest import Reading
from asr.data.manifests.tsv import read_tsv
from asr.data.sounds.audio import DEFAULT_MAX_SECONDS, audio_duration_s, read_audio
from asr.errors import UserError

COUNTING_RATE_HZ = 16000
"""Rate at which a sound is decoded to find its length."""

MAX_LISTED = 20
"""Problems that an error message lists; the check command lists all."""


class ManifestDataset(SpeechDataset):
    """Sound files with their texts; `asr.data.manifests` reads the lists of them.

    Attributes:
        entries: the lines of the manifest.
    """

    def __init__(self, config: DataConfig, split: Literal["train", "val", "test"], sample_rate_hz: int):
        """Read the manifest of a split, and the headers of sound files whose length it does not state.

        Args:
            config: the section `data`.
            split: "train", "val" or "test".
            sample_rate_hz: that all sound is resampled to.

        Raises:
            UserError: a missing manifest or file, or lines that cannot be used; the first of them are listed.
        """
        entries, durations_s, problems = open_split(config, split)
        if problems:
            listed = "\n  ".join(problems[:MAX_LISTED])
            more = f"\n  … {len(problems)} in all; python -m asr.check lists them" if len(problems) > MAX_LISTED else ""
            raise UserError(
                f"data.{split}_split {getattr(config, f'{split}_split')!r}: "
                f"lines that cannot be used: {len(problems)}\n  {listed}{more}"
            )
        self._init(entries, durations_s, sample_rate_hz, config.channel)

    def _init(self, entries: Entries, durations_s: np.ndarray, sample_rate_hz: int, channel: int) -> None:
        self.entries, self._durations_s = entries, durations_s
        self._sample_rate_hz, self._channel = sample_rate_hz, channel

    @classmethod
    def of_entries(
        cls, entries: Entries, durations_s: np.ndarray, sample_rate_hz: int, channel: int = 0
    ) -> "ManifestDataset":
        """Return a data set of the given lines, whose lengths are known."""
        dataset = cls.__new__(cls)
        dataset._init(entries, durations_s, sample_rate_hz, channel)
        return dataset

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Utterance:
        entry = self._entry(index)
        longest_s = max(DEFAULT_MAX_SECONDS, 2 * self._durations_s[index])
        try:
            wave_n = read_audio(entry.path, self._sample_rate_hz, longest_s, self._channel)
        except UserError as error:
            raise UserError(f"{entry.where}: {error}") from None
        return Utterance(wave_n, self._sample_rate_hz, entry.text, entry.name)

    def durations_s(self) -> np.ndarray:
        """Return float64[len], as the manifest states them, or else the header of the sound file."""
        return self._durations_s

    def texts(self) -> list[str]:
        """Return the text of each utterance, as it stands in the manifest."""
        return self.entries.texts()

    def names(self) -> list[str]:
        """Return the name of each utterance."""
        return self.entries.names()

    def sound_files(self) -> list[str]:
        """Return the path of each utterance's sound file."""
        return [self.entries.paths[number] for number in self.entries.path_numbers()]

    def where(self, index: int) -> str:
        """Return the manifest's file and line of utterance `index`."""
        return self._checked(index).where(index)

    def _entry(self, index: int) -> Entry:
        return self._checked(index)[index]

    def _checked(self, index: int) -> Entries:
        if not 0 <= index < len(self.entries):
            raise IndexError(f"the data set has {len(self.entries)} utterances, asked for index {index}")
        return self.entries


def open_split(config: DataConfig, split: Literal["train", "val", "test"]) -> tuple[Entries, np.ndarray, list[str]]:
    """Return the entries of a split whose files exist, float64[len] their lengths, and all other lines as problems.

    Raises:
        UserError: no manifest, or one that is empty.
    """
    reading = read_manifest(config, split)
    if not reading.entries and not reading.problems:
        name = getattr(config, f"{split}_split")
        raise UserError(f"data.{split}_split: {name!r} has no utterance (in {Path(config.root) / name})")
    entries = reading.entries
    durations_s, wrong_by_path = _durations(entries, max(config.num_threads, 1))
    wrong = [wrong_by_path[number] for number in entries.path_numbers()]
    bad = np.array([bool(problem) for problem in wrong], bool)
    problems = [f"{entries.where(int(i))}: {wrong[i]}" for i in np.flatnonzero(bad)]
    return entries.select(np.flatnonzero(~bad)), durations_s[~bad], reading.problems + problems


def _durations(entries: Entries, num_threads: int) -> tuple[np.ndarray, list[str]]:
    """Return float64[len], the length of each entry, and what is wrong with each of `entries.paths`.

    Each sound file is looked at once, however many entries have it.
    """
    stated_s, numbers = entries.stated_s(), entries.path_numbers()
    unknown = np.zeros(len(entries.paths), bool)
    unknown[numbers[np.isnan(stated_s)]] = True
    with ThreadPoolExecutor(num_threads) as pool:
        found = list(pool.map(_look_at, entries.paths, unknown))
    header_s = np.array([seconds for seconds, _ in found], np.float64)
    lengths_s = header_s[numbers] if len(found) else stated_s
    return np.where(np.isnan(stated_s), lengths_s, stated_s), [problem for _, problem in found]


def read_manifest(config: DataConfig, split: Literal["train", "val", "test"]) -> Reading:
    """Return what the manifest of a split says; no sound file is looked at.

    Raises:
        UserError: a root or manifest that is missing or has not the form that `data.dataset` names.
    """
    root, name = Path(config.root), getattr(config, f"{split}_split")
    if not root.is_dir():
        raise UserError(f"data.root: expected the folder of the data set, found no folder {root}")
    if not name:
        raise UserError(f"data.{split}_split is empty; it names the split")
    match config.dataset:
        case "jsonl":
            return read_jsonl(root / name, root)
        case "kaldi":
            return read_kaldi(root / name, root)
        case "tsv":
            return read_tsv(root / config.tsv_file, name, root)
    raise UserError(f"data.dataset: {config.dataset} has no manifest")


def _look_at(path: str, length_wanted: bool) -> tuple[float, str]:
    """Return the length of a sound file in seconds, 0 where it is not wanted, and what is wrong with the file."""
    try:
        if not length_wanted and Path(path).is_file():
            return 0.0, ""
        duration_s = audio_duration_s(Path(path))
        if math.isnan(duration_s):  # a header that does not say it
            duration_s = len(read_audio(Path(path), COUNTING_RATE_HZ)) / COUNTING_RATE_HZ
    except UserError as error:
        return 0.0, str(error)
    except OSError as error:  # such as a name that is too long
        return 0.0, str(error.strerror or error)
    return duration_s, ""
