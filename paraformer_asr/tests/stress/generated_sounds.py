"""Writes generated speech of any length into sound files, to measure with.

    python tests/stress/generated_sounds.py FOLDER [--num 512] [--seconds 10]

FOLDER gets train.jsonl and dev.jsonl, as configs for JSONL data read them, and the sound files that they name. What is
said are words of random letters; the same call writes the same files.
"""

import argparse
import functools
import itertools
import json
from pathlib import Path

import numpy as np
import soundfile

from asr.config import DataConfig, FeaturesConfig, ToyConfig
from asr.data.dataset import Utterance
from asr.data.toy_seq2seq import ToySeq2Seq

NUM_DIFFERENT, MAX_WORDS, PAUSE_S = 32, 8, (0.1, 1.5)
"""Utterances that come again and again, the words of one, and the range of the pause behind each."""

NUM_DEV = 8


def write_sound(path: Path, seconds: float, sample_rate_hz: int = 16000, seed: int = 0) -> str:
    """Write speech of so many seconds, with pauses, as 16-bit WAV, block by block; return its text.

    Args:
        path: the file.
        seconds: its length; the last word may be cut off.
        sample_rate_hz: of the file.
        seed: another one gives the utterances in another order, with other pauses.
    """
    rng, left, texts = np.random.default_rng(seed), round(seconds * sample_rate_hz), []
    order = itertools.cycle(rng.permutation(NUM_DIFFERENT).tolist())
    with soundfile.SoundFile(path, "w", sample_rate_hz, 1, "PCM_16") as file:
        while left:
            utterance = _utterances(sample_rate_hz)[next(order)]
            pause_n = np.zeros(round(rng.uniform(*PAUSE_S) * sample_rate_hz), np.float32)
            block_n = np.concatenate([utterance.wave, pause_n])[:left]
            file.write(block_n)
            texts.append(utterance.text)
            left -= len(block_n)
    return " ".join(texts)


@functools.cache
def _utterances(sample_rate_hz: int) -> list[Utterance]:
    data = DataConfig(toy=ToyConfig(num_train=NUM_DIFFERENT, max_words=MAX_WORDS))
    dataset = ToySeq2Seq(data, FeaturesConfig(sample_rate_hz=sample_rate_hz), "train")
    return [dataset[index] for index in range(NUM_DIFFERENT)]


def write_split(folder: Path, name: str, num: int, seconds: float, seed: int) -> None:
    """Write `num` sound files, of 0.5 to 1 times `seconds`, and the JSONL file that names them."""
    lines, rng = [], np.random.default_rng(seed)
    for number in range(num):
        length_s, path = round(float(rng.uniform(0.5, 1.0)) * seconds, 2), Path(f"{name}_{number:05d}.wav")
        text = write_sound(folder / path, length_s, seed=seed + number)
        lines.append(json.dumps({"audio_filepath": str(path), "duration": length_s, "text": text}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=512, help="training utterances (default: 512)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the longest (default: 10)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_split(arguments.folder, "dev", NUM_DEV, arguments.seconds, seed=1_000_000)
    write_split(arguments.folder, "train", arguments.num, arguments.seconds, seed=0)
    print(f"{arguments.num} utterances for training and {NUM_DEV} for validation in {arguments.folder}")


if __name__ == "__main__":
    main()
