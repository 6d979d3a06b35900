"""Makes new utterances of AN4's own words: a speaker's recordings are cut at their pauses and put together anew.

    python scripts/splice_an4.py --an4 FOLDER_OF_AN4 --run RUN --out spliced --number 2500

No other data are used. AN4 has few texts, and a network that trains on them for long knows them by heart; it has to
hear the words of a text that it has not met. RUN, a trained run with a CTC head, says when each word is spoken. The
folder gets sounds of 16 kHz and manifest.tsv: AN4's own splits, and `spliced`, made of the splits of --splits.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from synthesize_an4 import COLUMNS, RATE_HZ, read_an4, write_table

import asr
from asr.cli import run_command
from asr.data.sounds.audio import read_audio
from asr.errors import UserError
from asr.eval import make_folder

WINDOW = RATE_HZ // 50
"""Samples that a loudness is measured over: 20 ms."""

STEP = RATE_HZ // 200
"""Samples from one window to the next: 5 ms."""

PEAK_S = 0.1
"""A word's CTC peak lies so far inside the times that are given for it, which are wider than its frame."""

REACH_S = 0.2
"""The words beside a pause are as loud as their loudest window within this time of the peaks."""

PAUSE_DB = -18
"""A recording is cut where it is softer by this than the softer of the words at both sides."""

FADE = RATE_HZ // 100
"""Samples in which a piece fades into the next: 10 ms."""

MOST_WORDS = 3
"""Words that are taken at once, unless no pause separates more."""


class Recording(NamedTuple):
    """A recording, cut at its pauses into p pieces."""

    pieces: list[np.ndarray]
    """Their sounds, float32[samples]."""

    words: list[list[str]]
    """Their words."""


def measure_loudness(wave: np.ndarray) -> np.ndarray:
    """Return the loudness, in dB, of the window around every STEP-th sample: float64[len(wave) // STEP + 1]."""
    energy = np.concatenate([np.zeros(1), np.cumsum(np.square(wave, dtype=np.float64))])
    centres = np.arange(0, len(wave) + 1, STEP)
    first, end = np.maximum(centres - WINDOW // 2, 0), np.minimum(centres + WINDOW // 2, len(wave))
    return 10 * np.log10((energy[end] - energy[first]) / np.maximum(end - first, 1) + 1e-12)


def find_pause(loudness: np.ndarray, before_s: float, after_s: float) -> int | None:
    """Return the sample at which to cut between two words.

    Args:
        loudness: of the recording, as `measure_loudness` returns it.
        before_s: time of the first word's last peak.
        after_s: time of the second word's first peak.

    Returns:
        The softest place between the peaks, or None where it is not much softer than both words.
    """
    a, b, reach = (round(time_s * RATE_HZ / STEP) for time_s in (before_s, after_s, REACH_S))
    if not 0 <= a < b < len(loudness):
        return None
    cut = a + int(np.argmin(loudness[a : b + 1]))
    words = loudness[max(a - reach, 0) : cut + 1].max(), loudness[cut : b + reach + 1].max()
    return cut * STEP if loudness[cut] < min(words) + PAUSE_DB else None


def cut_recording(wave: np.ndarray, words: Sequence["asr.Word"]) -> Recording:
    """Cut a recording at its pauses."""
    loudness = measure_loudness(wave)
    recording, start, said = Recording([], []), 0, []
    for word, following in zip(words, [*words[1:], None], strict=True):
        said.append(word.text)
        end = find_pause(loudness, word.end_s - PEAK_S, following.start_s + PEAK_S) if following else len(wave)
        if end is not None and end - start >= 2 * FADE:
            recording.pieces.append(wave[start:end])
            recording.words.append(said)
            start, said = end, []
    if said:  # what is left is too short to be a piece
        return Recording([wave], [[word.text for word in words]])
    return recording


def join(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Return the pieces, one after the other, each faded into the next: float32[samples]."""
    rise = np.linspace(0, 1, FADE, dtype=np.float32)
    wave = pieces[0]
    for piece in pieces[1:]:
        both = wave[-FADE:] * (1 - rise) + piece[:FADE] * rise
        wave = np.concatenate([wave[:-FADE], both, piece[FADE:]])
    return wave


def draw_utterance(
    recordings: Sequence[Recording], num_words: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Return the sound and the words, at least `num_words`, of a new utterance of one speaker."""
    pieces, said = [], []
    while len(said) < num_words:
        recording = recordings[rng.integers(len(recordings))]
        start = end = int(rng.integers(len(recording.pieces)))
        most = min(int(rng.integers(1, MOST_WORDS + 1)), num_words - len(said))
        taken: list[str] = []
        while end < len(recording.pieces) and (not taken or len(taken) + len(recording.words[end]) <= most):
            taken += recording.words[end]
            end += 1
        pieces += recording.pieces[start:end]
        said += taken
    return join(pieces), said


def read_recordings(
    folder: Path, rows: list[dict[str, str]], transcriber: "asr.Transcriber"
) -> dict[str, list[Recording]]:
    """Return the recordings of each speaker whose text the model recognises: of those it knows the times."""
    speakers = defaultdict(list)
    transcripts = transcriber.transcribe([folder / row["path"] for row in rows])
    for row, transcript in zip(rows, transcripts, strict=True):
        if transcript.words and [word.text for word in transcript.words] == row["text"].split():
            wave = read_audio(folder / row["path"], RATE_HZ)
            speakers[row["speaker"]].append(cut_recording(wave, transcript.words))
    return dict(speakers)


def main() -> None:
    """Cut, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--an4", type=Path, required=True, metavar="FOLDER", help="of AN4, with manifest.tsv")
    parser.add_argument("--run", type=Path, required=True, help="that recognises the words, with a CTC head")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new folder")
    parser.add_argument("--splits", nargs="+", default=["train", "dev"], help="to cut (default: train dev)")
    parser.add_argument("--number", type=int, default=2500, help="of new utterances (default: 2500)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    an4 = read_an4(arguments.an4)
    if arguments.out.exists():
        raise UserError(f"--out {arguments.out}: exists already")
    if arguments.number < 1:
        raise UserError(f"--number: expected at least 1, found {arguments.number}")
    if missing := sorted(set(arguments.splits) - {row["split"] for row in an4}):
        raise UserError(f"--splits: no utterance of {arguments.an4 / 'manifest.tsv'} is in {', '.join(missing)}")
    transcriber = asr.load(arguments.run, checkpoint="last", overrides=["inference.decoder=ctc"])
    taken = [row for row in an4 if row["split"] in arguments.splits]
    speakers = read_recordings(arguments.an4, taken, transcriber)
    recordings = [recording for own in speakers.values() for recording in own]
    if not recordings:
        raise UserError(f"--run {arguments.run}: recognises none of the {len(taken)} utterances")
    num_pieces = sum(len(recording.pieces) for recording in recordings)
    print(f"{len(recordings)} of {len(taken)} utterances are recognised, and cut into {num_pieces} pieces")
    make_folder(arguments.out / "wav")
    rows = [{**row, "path": str((arguments.an4 / row["path"]).absolute())} for row in an4]
    rng = np.random.default_rng(arguments.seed)
    lengths = [len(row["text"].split()) for row in taken]
    for i in range(arguments.number):
        speaker = rng.choice(sorted(speakers))
        wave, words = draw_utterance(speakers[speaker], max(2, rng.choice(lengths)), rng)
        name = f"wav/{i:05d}.flac"
        soundfile.write(arguments.out / name, wave, RATE_HZ)
        values = (f"spliced{i:05d}", speaker, "spliced", name, f"{len(wave) / RATE_HZ:.4f}", " ".join(words))
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    write_table(arguments.out, rows)


if __name__ == "__main__":
    run_command(main)
