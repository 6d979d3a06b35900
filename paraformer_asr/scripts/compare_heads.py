"""Asks whether several models' CTC heads write the same token at the same frame, and whether their mean can be read.

    python scripts/compare_heads.py --run RUN --run RUN --run RUN --split train data.root=FOLDER

Of the frames where the first head writes a token, the share where all others write it, too; the word error rate of each
head's best path, and of the best path through the mean of their probabilities. `scripts/vote.py` votes on words
instead, and `scripts/distill.py` learns from labels of tokens: neither needs common frames.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from asr.cli import run_command
from asr.config import FeaturesConfig
from asr.data import build_dataset
from asr.data.text.comparison import compare
from asr.decode import ctc_greedy
from asr.errors import EXIT_OK, UserError
from asr.inference.ctc_programs import make_read
from asr.inference.loading import load_parts
from asr.metrics import sum_counts

BLANK = 0
best_path = jax.jit(ctc_greedy)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, action="append", required=True, help="once for each model")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train", help="default: train")
    parser.add_argument("--number", type=int, default=160, help="utterances, spread over the split (default: 160)")
    parser.add_argument("--average", type=int, default=5, metavar="N", help="mean of the last checkpoints (default: 5)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.root=FOLDER")
    return parser.parse_intermixed_args()


class Head:
    """The CTC head of a trained model."""

    def __init__(self, folder: Path, average: int, overrides: Sequence[str]):
        self.config, self.tokenizer, cmvn, self._variables = load_parts(folder, "last", overrides, average)
        if not self.config.model.ctc_head:
            raise UserError(f"{folder}: its model has no CTC head (model.ctc_head)")
        self._read = jax.jit(make_read(self.config, cmvn))

    def read(self, wave_n: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the probabilities of a sound's frames, float32[t, v], and the number of real ones."""
        rate_hz = self.config.features.sample_rate_hz
        padded_1n = np.zeros((1, -(-len(wave_n) // rate_hz) * rate_hz), np.float32)  # whole seconds: few shapes
        padded_1n[0, : len(wave_n)] = wave_n
        read = self._read(self._variables, padded_1n, np.array([len(wave_n)]))
        return np.asarray(jax.nn.softmax(read.logits_btv[0])), int(read.frame_lengths_b[0])


def grid(features: FeaturesConfig) -> tuple[int, float]:
    """Return (sample rate in Hz, time from one frame of the encoder to the next in ms)."""
    return features.sample_rate_hz, features.frame_shift_ms * features.lfr_n


def count_common(paths_kt: np.ndarray) -> tuple[int, int]:
    """Return (frames where all paths have the first one's token, frames where the first path has a token)."""
    spikes_t = paths_kt[0] != BLANK
    return int((spikes_t & (paths_kt == paths_kt[:1]).all(axis=0)).sum()), int(spikes_t.sum())


def spell(probabilities_tv: np.ndarray, num_frames: int) -> np.ndarray:
    """Return the tokens of the best path through the first frames."""
    path = best_path(probabilities_tv[None], np.array([num_frames]))
    return np.asarray(path.tokens_bu)[0, : int(path.token_lengths_b[0])]


def main() -> int:
    """Print the share of common frames, and the error rates."""
    arguments = parse_arguments()
    if len(arguments.run) < 2 or arguments.number < 1:
        raise UserError("expected --run twice or more, and --number of 1 or more")
    heads = [Head(folder, arguments.average, arguments.overrides) for folder in arguments.run]
    if any(head.tokenizer.tokens != heads[0].tokenizer.tokens for head in heads):
        raise UserError("the models write different tokens, so their probabilities have no mean")
    if any(grid(head.config.features) != grid(heads[0].config.features) for head in heads):
        raise UserError("the models have different sample rates or frames, so their probabilities have no mean")
    dataset = build_dataset(heads[0].config, arguments.split)
    names = [*map(str, arguments.run), "mean of the probabilities"]
    common, spikes, errors = 0, 0, [[] for _ in names]
    for index in np.linspace(0, len(dataset) - 1, min(arguments.number, len(dataset))).astype(int):
        utterance = dataset[int(index)]
        each_tv, (num_frames, *_) = zip(*(head.read(utterance.wave) for head in heads), strict=True)
        counted = count_common(np.stack(each_tv)[:, :num_frames].argmax(axis=-1))
        common, spikes = common + counted[0], spikes + counted[1]
        for counts, probabilities_tv in zip(errors, (*each_tv, np.mean(each_tv, axis=0)), strict=True):
            tokens_u = spell(probabilities_tv, num_frames)
            counts.append(compare(heads[0].tokenizer, utterance.text, tokens_u).words)
    print(f"{common / max(spikes, 1):.1%} of the {spikes:,} frames with a token have the same one from all heads")
    for name, counts in zip(names, errors, strict=True):
        print(f"{name}: WER {sum_counts(counts).rate:.2%}")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
