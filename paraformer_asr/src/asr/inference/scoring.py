"""Scores a transcriber on a data set; each utterance is recognised in one piece."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from asr.data import SpeechDataset
from asr.data.text.comparison import Comparison, comparable, compare
from asr.data.text.tokenizer import Tokenizer
from asr.inference.hotwords import Hotword
from asr.inference.shapes import plan_shapes
from asr.inference.transcriber import Transcriber
from asr.metrics import (
    Alignment,
    ErrorCounts,
    HotwordCounts,
    align,
    characters,
    count_hotwords,
    sum_hotword_counts,
    words,
)


@dataclasses.dataclass(frozen=True)
class UtteranceScore(Comparison):
    """The score of one utterance."""

    index: int  # position in the data set
    name: str  # that of the data set
    duration_s: float  # of the sound
    in_training: bool  # its text occurs in the training split

    def align(self, *, by_characters: bool) -> Alignment:
        """Return reference and hypothesis beside each other, in words or in characters."""
        units = characters if by_characters else words
        return align(units(self.reference), units(self.hypothesis))


def warm_up_for(transcriber: Transcriber, dataset: SpeechDataset, hotwords: tuple[Hotword, ...] = ()) -> None:
    """Compile the programs for the utterances of a data set."""
    rate_hz = transcriber.config.features.sample_rate_hz
    lengths = [math.ceil(seconds * rate_hz) for seconds in dataset.durations_s()]
    batch_size = transcriber.config.inference.batch_size
    transcriber.warm_up(plan_shapes(lengths, None, batch_size, rate_hz), hotwords)


def score_utterances(
    transcriber: Transcriber,
    dataset: SpeechDataset,
    training_texts: Collection[str],
    hotwords: tuple[Hotword, ...] = (),
) -> Iterator[UtteranceScore]:
    """Yield the score of each utterance, in order; `training_texts` are in the form that is compared."""
    indexed = ((i, dataset[i]) for i in range(len(dataset)))
    items = (((i, u.name, u.duration_s, u.text), u.wave) for i, u in indexed)
    for (index, name, duration_s, text), recognition in transcriber.recognise_many(items, hotwords):
        compared = compare(transcriber.tokenizer, text, recognition.ids)
        known = compared.reference in training_texts
        yield UtteranceScore(**vars(compared), index=index, name=name, duration_s=duration_s, in_training=known)


def count_phrases(
    scores: Iterable[UtteranceScore], tokenizer: Tokenizer, hotwords: Iterable[Hotword], *, by_characters: bool
) -> HotwordCounts:
    """Return how many hot words were recognised, and the errors in all other words; in characters for Chinese."""
    units = characters if by_characters else words
    phrases = {tuple(units(comparable(tokenizer, each.text))) for each in hotwords}
    return sum_hotword_counts(count_hotwords(score.align(by_characters=by_characters), phrases) for score in scores)


def count_parts(scores: Sequence[UtteranceScore], *, with_parts: bool) -> dict[str, list[ErrorCounts]]:
    """Return name → the counts of each utterance, for each line of the table.

    `with_parts`: also count utterances separately by whether their text occurs in the training split.
    """
    counts = {
        "words": [score.words for score in scores],
        "characters": [score.characters for score in scores],
        "tokens": [score.tokens for score in scores],
    }
    if with_parts:
        counts["words, text in training"] = [score.words for score in scores if score.in_training]
        counts["words, text not in training"] = [score.words for score in scores if not score.in_training]
    return counts


def pick_extremes(scores: Iterable[UtteranceScore], number: int) -> list[tuple[str, UtteranceScore]]:
    """Return ("best" or "worst", score) of the utterances with the lowest and the highest error rates in tokens.

    At most `number` of each kind, no utterance in both; the best first, then the worst first. Ties go to the longer
    utterance, which shows more. Utterances without a word in their reference are left out.
    """
    counted = [score for score in scores if score.tokens.reference_length]
    best = sorted(counted, key=lambda s: (s.tokens.rate, -s.tokens.reference_length, s.index))
    best = best[: min(number, (len(counted) + 1) // 2)]
    rest = [score for score in counted if score not in best]
    worst = sorted(rest, key=lambda s: (-s.tokens.rate, -s.tokens.reference_length, s.index))[:number]
    return [("best", s) for s in best] + [("worst", s) for s in worst]
