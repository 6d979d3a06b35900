"""Score a model on the utterances of a split joined to one long sound, and made quieter.

    python scripts/score_joined.py --run RUN --split val data.root=FOLDER

The utterances follow each other in random order with pauses of noise that has the spectrum of their own background.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from asr.config import InferenceConfig
from asr.data import build_dataset
from asr.data.text.comparison import comparable
from asr.inference.segmentation import split_at_silences
from asr.inference.transcriber import Transcriber, load_transcriber
from asr.metrics.error_rate import ErrorCounts, sum_counts, word_errors

PAUSES_S = ((0.1, 0.4), (0.4, 1.0), (1.2, 2.0))
LEVELS_DB = (10, 0, -10, -20, -26, -32)
BACKGROUND_S, FRAME_S = 0.15, 0.01


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="run directory or model folder")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="default: val")
    parser.add_argument("--orders", type=int, default=2, help="random orders of the utterances (default: 2)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.root=FOLDER")
    return parser.parse_intermixed_args()


def background(wave: np.ndarray, num_samples: int, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Return float32[num_samples], noise with the spectrum and the level of the quietest stretch of a sound."""
    frame, length = round(FRAME_S * rate_hz), round(BACKGROUND_S / FRAME_S)
    powers = wave[: len(wave) // frame * frame].reshape(-1, frame).var(axis=1)
    start = int(np.convolve(powers, np.ones(min(length, len(powers))), "valid").argmin()) * frame
    quiet = wave[start : start + length * frame] - wave[start : start + length * frame].mean()
    magnitude = np.abs(np.fft.rfft(quiet * np.hanning(len(quiet))))
    spectrum = np.fft.rfft(rng.normal(size=num_samples + rate_hz))
    places = np.linspace(0, len(magnitude) - 1, len(spectrum))
    noise = np.fft.irfft(spectrum * np.interp(places, np.arange(len(magnitude)), magnitude))[:num_samples]
    return (noise * quiet.std() / max(noise.std(), 1e-12)).astype(np.float32)


def join(utterances: list, pause_s: tuple[float, float], seed: int) -> tuple[np.ndarray, str]:
    """Return the utterances as one sound, and what is said in it."""
    rng, pieces, texts = np.random.default_rng(seed), [], []
    for index in rng.permutation(len(utterances)):
        one = utterances[index]
        num_samples = round(rng.uniform(*pause_s) * one.sample_rate_hz)
        pieces += [one.wave, background(one.wave, num_samples, one.sample_rate_hz, rng)]
        texts.append(one.text)
    return np.concatenate(pieces), " ".join(texts)


def transcribe(transcriber: Transcriber, waves: list[np.ndarray]) -> list[str]:
    """Return the text of each piece of sound."""
    tokenizer = transcriber.tokenizer
    recognitions = transcriber.recognise_many((None, wave) for wave in waves)
    return [tokenizer.decode([int(i) for i in one.ids if tokenizer.is_ordinary(int(i))]) for _, one in recognitions]


def score(transcriber: Transcriber, texts: list[str], waves: list[np.ndarray]) -> ErrorCounts:
    """Return the errors of single utterances."""
    pairs = zip(texts, transcribe(transcriber, waves), strict=True)
    return sum_counts(word_errors(comparable(transcriber.tokenizer, text), hypothesis) for text, hypothesis in pairs)


def score_joined(transcriber: Transcriber, settings: InferenceConfig, joined: list) -> tuple[ErrorCounts, int]:
    """Return the errors of long sounds, and the number of segments."""
    counts, num_segments = [], 0
    for wave, text in joined:
        rate_hz = transcriber.config.features.sample_rate_hz
        segments = [segment.wave for segment in split_at_silences([wave], rate_hz, settings)]
        hypothesis = " ".join(filter(None, transcribe(transcriber, segments)))
        counts.append(word_errors(comparable(transcriber.tokenizer, text), hypothesis))
        num_segments += len(segments)
    return sum_counts(counts), num_segments


def main() -> None:
    """Print two tables."""
    arguments = parse_arguments()
    transcriber = load_transcriber(arguments.run, "last", arguments.overrides)
    dataset, settings = build_dataset(transcriber.config, arguments.split), transcriber.config.inference
    utterances = [dataset[i] for i in range(len(dataset))]
    texts, waves = [one.text for one in utterances], [one.wave for one in utterances]
    for level_db in LEVELS_DB:
        changed = [np.clip(wave * np.float32(10 ** (level_db / 20)), -1, 1) for wave in waves]
        print(f"single utterances, {level_db:+d} dB: {score(transcriber, texts, changed).rate:.1%} WER", flush=True)
    variants = {f"{s:g} s": dataclasses.replace(settings, max_segment_s=s) for s in (20.0, 6.0)}
    variants["as trained"] = dataclasses.replace(settings, max_segment_s=None)
    for pause_s in PAUSES_S:
        joined = [join(utterances, pause_s, seed) for seed in range(arguments.orders)]
        for name, variant in variants.items():
            counts, num_segments = score_joined(transcriber, variant, joined)
            print(f"pauses of {pause_s} s, segments {name}: {counts.rate:.1%} WER, {num_segments} segments", flush=True)


if __name__ == "__main__":
    main()
