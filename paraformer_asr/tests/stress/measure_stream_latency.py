"""Measures what a listener waits for: utterances of a split are streamed one by one at the pace of their sound.

    python tests/stress/measure_stream_latency.py --run RUN --split test --number 40 data.root=FOLDER_OF_AN4
    python tests/stress/measure_stream_latency.py --run RUN … 'model.streaming.chunk_size=[5,5,0]'

    first token      from the begin of an utterance's first token to its text
    a token          from the end of each token to its text
    last event       from the end of the sound to the event that ends the stream
    real-time factor computing per second of sound

Times of tokens are the model's own. All include the sound that had to be heard and the computing behind it.
"""

import argparse
from pathlib import Path

import numpy as np

import asr
from asr.cli import run_command
from asr.data import build_dataset
from asr.inference.live import PIECE_S, paced, run_stream

QUANTILES = 0.5, 0.95, 0.99


def pieces_of(wave_n: np.ndarray, rate_hz: int) -> list[np.ndarray]:
    """Return the sound as a microphone brings it."""
    size = round(PIECE_S * rate_hz)
    return [wave_n[start : start + size] for start in range(0, len(wave_n), size)]


def main() -> int:
    """Stream the utterances; print the table."""
    parser = argparse.ArgumentParser(description="Measure the latency of a streaming model on a split.")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--number", type=int, default=40, help="utterances, evenly spread over the split (default: 40)")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    transcriber = asr.load(arguments.run, checkpoint="last", overrides=arguments.overrides)
    rate_hz = transcriber.config.features.sample_rate_hz
    dataset = build_dataset(transcriber.config, arguments.split)
    transcriber.stream().warm_up()
    measured = []
    for index in np.linspace(0, len(dataset) - 1, arguments.number).astype(int):
        pieces = paced(iter(pieces_of(dataset[int(index)].wave, rate_hz)), rate_hz)
        measured.append(run_stream(transcriber.stream(), pieces, rate_hz, lambda event: None))
    waits = {
        "first token": [one.first_s for one in measured if one.first_s is not None],
        "a token": [delay_s for one in measured for delay_s in one.delays_s],
        "last event": [one.end_s for one in measured],
        "real-time factor": [one.compute_s / one.sound_s for one in measured],
    }
    print(f"{'seconds':16} {'number':>6}" + "".join(f" {q:>8.0%}" for q in QUANTILES))
    for name, values in waits.items():
        print(f"{name:16} {len(values):6}" + "".join(f" {value:8.3f}" for value in np.quantile(values, QUANTILES)))
    return 0


if __name__ == "__main__":
    run_command(main)
