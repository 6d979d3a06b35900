"""A data set of sound files that a manifest lists."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from asr.config import DataConfig
from asr.data.dataset import SpeechDataset, Utterance
from asr.data.manifests.entries import Entries
from asr.data.manifests.kaldi import read_kaldi
from asr.data.manifests.manifest import Reading, read_jsonl, read_tsv
from asr.data.sounds.audio import DEFAULT_MAX_SECONDS, END_TOLERANCE_S, WHOLE, Span, audio_duration_s, read_audio
from asr.errors import UserError

COUNTING_RATE_HZ = 16000  # rate at which a sound is decoded to find its length
MAX_LISTED = 20  # problems that an error message lists; the check command lists all


class ManifestDataset(SpeechDataset):
    """Sound files with their texts."""

    def __init__(self, entries: Entries, durations_s: np.ndarray, sample_rate_hz: int, channel: int = 0):
        """Take the lines of a manifest and their lengths; a file may be decoded to twice its length, or to an hour."""
        self.entries, self._durations_s = entries, durations_s
        self._sample_rate_hz, self._channel = sample_rate_hz, channel

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Utterance:
        entry = self.entries[index]
        span = WHOLE if entry.start_s is None else Span(entry.start_s, entry.stated_s)
        longest_s = max(DEFAULT_MAX_SECONDS, 2 * self._durations_s[index])
        try:
            wave_n = read_audio(entry.path, self._sample_rate_hz, longest_s, self._channel, span)
        except UserError as error:
            raise UserError(f"{entry.where}: {error}") from None
        return Utterance(wave_n, self._sample_rate_hz, entry.text, entry.name)

    def durations_s(self) -> np.ndarray:
        """Return float64[len], seconds by the manifest, or else by the header of the sound file."""
        return self._durations_s

    def texts(self) -> list[str]:
        """Return the text of each utterance as the manifest has it."""
        return list(self.entries.texts)

    def names(self) -> list[str]:
        """Return the name of each utterance."""
        return list(self.entries.names)

    def sound_files(self) -> list[str]:
        """Return the path of each utterance's sound file."""
        return [self.entries.paths[number] for number in self.entries.path_numbers]

    def starts_s(self) -> np.ndarray:
        """Return float64[len], where each utterance begins in its sound file, in seconds."""
        return np.nan_to_num(np.array(self.entries.starts_s))

    def where(self, index: int) -> str:
        """Return the manifest's file and line of utterance `index`."""
        return self.entries.where(index)


def open_manifest_dataset(
    config: DataConfig, split: Literal["train", "val", "test"], sample_rate_hz: int
) -> ManifestDataset:
    """Return a split; the headers are read of those sound files whose length the manifest does not state.

    Raises:
        UserError: a manifest that is missing or empty, or lines that cannot be used; the first of them are listed.
    """
    reading, name = read_manifest(config, split), getattr(config, f"{split}_split")
    if not reading.entries and not reading.problems:
        raise UserError(f"data.{split}_split: {name!r} has no utterance (in {Path(config.root) / name})")
    durations_s, problems = read_durations(reading.entries, max(config.num_threads, 1))
    problems = reading.problems + problems
    if problems:
        listed = "\n  ".join(problems[:MAX_LISTED])
        more = f"\n  … {len(problems)} in all; python -m asr.check lists them" if len(problems) > MAX_LISTED else ""
        unusable = f"lines that cannot be used: {len(problems)}\n  {listed}{more}"
        raise UserError(f"data.{split}_split {name!r}: {unusable}")
    return ManifestDataset(reading.entries, durations_s, sample_rate_hz, config.channel)


def read_manifest(config: DataConfig, split: Literal["train", "val", "test"]) -> Reading:
    """Return the lines of a split's manifest; no sound file is opened."""
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


def read_durations(entries: Entries, num_threads: int) -> tuple[np.ndarray, list[str]]:
    """Return (float64[len], seconds of each entry; a problem for each entry whose sound cannot be read)."""
    stated_s, path_numbers, starts_s = map(np.array, (entries.stated_s, entries.path_numbers, entries.starts_s))
    is_part, starts_s = ~np.isnan(starts_s), np.nan_to_num(starts_s)
    needs_length = np.zeros(len(entries.paths), bool)
    needs_length[path_numbers[np.isnan(stated_s) | is_part]] = True
    with ThreadPoolExecutor(num_threads) as pool:
        lengths = list(pool.map(_read_length, entries.paths, needs_length))
    header_s = np.array([seconds for seconds, _ in lengths], np.float64)[path_numbers]
    reasons = ((index, lengths[number][1]) for index, number in enumerate(path_numbers))
    problems = [f"{entries.where(index)}: {reason}" for index, reason in reasons if reason]
    places_s = starts_s + np.nan_to_num(stated_s)  # its end, or where that is the file's its start
    beyond = (places_s > header_s + END_TOLERANCE_S) | (starts_s >= header_s)
    for index in np.flatnonzero(is_part & (header_s > 0) & beyond):
        where = f"{entries.where(index)}: {entries[index].path}"
        problems.append(f"{where}: expected sound at {places_s[index]:.2f} s, found its end at {header_s[index]:.2f} s")
    return np.where(np.isnan(stated_s), header_s - starts_s, stated_s), problems


def _read_length(path: str, needed: bool) -> tuple[float, str]:
    """Return the length of a sound file in seconds, 0 where it is not needed, and what is wrong with the file."""
    try:
        if not needed and Path(path).is_file():
            return 0.0, ""
        duration_s = audio_duration_s(Path(path))
        if math.isnan(duration_s):  # the header does not state it
            duration_s = len(read_audio(Path(path), COUNTING_RATE_HZ)) / COUNTING_RATE_HZ
    except UserError as error:
        return 0.0, str(error)
    except OSError as error:  # such as a name that is too long
        return 0.0, str(error.strerror or error)
    return duration_s, ""
