"""Score a model on a split with hot words and without: their recall and precision, and the other words' error rate.

    python scripts/score_hotwords.py --run RUN --split val data.root=FOLDER

Without --hotwords the list is what is rare in training: of the texts of the training split and the scored one, words of
several letters and names spelled letter by letter (texts of at least three single letters) that occur at most --rare
times in training. The names of the training split are distractors: the scored texts hold few of them.
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asr.api import load
from asr.cli import run_command
from asr.data import SpeechDataset, build_dataset
from asr.data.text.comparison import suit_characters
from asr.errors import EXIT_OK
from asr.inference.hotwords import Hotword, read_hotwords
from asr.inference.scoring import count_phrases, score_utterances, warm_up_for
from asr.inference.transcriber import Transcriber
from asr.metrics import sum_counts

SPELLED_LETTERS = 3


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="run directory or model folder")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="default: val")
    parser.add_argument("--hotwords", metavar="FILE_OR_LIST", help="default: what is rare in training")
    parser.add_argument("--rare", type=int, default=2, metavar="N", help="most occurrences in training (default: 2)")
    parser.add_argument("--weights", type=float, nargs="+", metavar="NATS", help="default: inference.hotword_weight")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.root=FOLDER")
    return parser.parse_intermixed_args()


def names_in(text: str) -> Iterator[str]:
    """Yield the words of several letters, or the text itself if it is a name spelled letter by letter."""
    words = text.split()
    if len(words) >= SPELLED_LETTERS and all(len(word) == 1 for word in words):
        yield text
    yield from (word for word in words if len(word) > 1)


def pick_rare(training: Sequence[str], scored: Iterable[str], most: int) -> tuple[Hotword, ...]:
    """Return what occurs at most `most` times in training, in the order of the texts."""
    counts = Counter(name for text in training for name in names_in(text))
    names = (name for text in (*scored, *training) for name in names_in(text))
    return read_hotwords([name for name in names if counts[name] <= most])


def score(
    transcriber: Transcriber, dataset: SpeechDataset, hotwords: tuple[Hotword, ...], counted: tuple[Hotword, ...]
) -> str:
    """Return the line of the table for one decoding of the split with `hotwords`; those in `counted` are counted."""
    scores = list(score_utterances(transcriber, dataset, frozenset(), hotwords))
    by_characters = suit_characters(transcriber.tokenizer, dataset.texts())
    counts = count_phrases(scores, transcriber.tokenizer, counted, by_characters=by_characters)
    wer = sum_counts(each.words for each in scores).rate
    recall = f"{counts.recall:7.1%} ({counts.hits}/{counts.in_reference})"
    precision = f"{counts.precision:7.1%} ({counts.hits}/{counts.in_hypothesis})"
    return f"{recall:>19}{precision:>19}{counts.others.rate:>17.2%}{wer:>10.2%}"


def main() -> int:
    """Print a line for no hot words, and one for each weight."""
    arguments = parse_arguments()
    transcriber = load(arguments.run, overrides=arguments.overrides)
    dataset = build_dataset(transcriber.config, arguments.split)
    if arguments.hotwords:
        hotwords = transcriber.read_hotwords(arguments.hotwords)
    else:
        training = build_dataset(transcriber.config, "train").texts()
        hotwords = pick_rare(training, dataset.texts(), arguments.rare)
    print(f"{len(dataset)} utterances, {len(hotwords)} hot words")
    print(f"{'weight':8}{'recall':>19}{'precision':>19}{'WER of others':>17}{'WER':>10}")
    warm_up_for(transcriber, dataset)
    print(f"{'none':8}{score(transcriber, dataset, (), hotwords)}", flush=True)
    warm_up_for(transcriber, dataset, hotwords)
    default = transcriber.config.inference.hotword_weight
    for weight in arguments.weights or [default]:
        # The weights of the hot words are data of the compiled program, that of the config is a constant.
        weighted = tuple(dataclasses.replace(each, weight=each.weight * weight / default) for each in hotwords)
        print(f"{weight:<8g}{score(transcriber, dataset, weighted, hotwords)}", flush=True)
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
