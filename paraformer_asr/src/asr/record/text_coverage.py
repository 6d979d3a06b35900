"""Refuses training texts that the vocabulary does not cover, and suggests what does."""

import dataclasses
import logging

from asr.config import Config
from asr.data.dataset import SpeechDataset
from asr.data.text.odd_characters import find_unwritable
from asr.data.text.tokenizer import CASES, Tokenizer
from asr.errors import UserError

log = logging.getLogger("asr")

MAX_LINES_SHOWN = 5


def check_texts(config: Config, tokenizer: Tokenizer, train_set: SpeechDataset, val_set: SpeechDataset) -> None:
    """Refuse training texts that the tokenizer does not cover; of validation texts, warn.

    In validation, uncovered characters count as errors, as they should; in training they would teach `<unk>`.
    """
    if uncovered := _uncovered(tokenizer, train_set):
        raise UserError(
            f"training utterances with characters that the tokenizer does not cover: {len(uncovered)}\n"
            f"{_describe(uncovered, tokenizer)}\n{_remedy(config, tokenizer, uncovered)}; "
            "python -m asr.check lists them all"
        )
    if uncovered := _uncovered(tokenizer, val_set):
        log.warning(
            "validation utterances with characters that the tokenizer does not cover, which count as errors: %d\n%s",
            len(uncovered),
            _describe(uncovered, tokenizer),
        )


def _uncovered(tokenizer: Tokenizer, dataset: SpeechDataset) -> list[tuple[str, str]]:
    unknown = ((i, text) for i, text in enumerate(dataset.texts()) if tokenizer.unknown_characters(text))
    return [(dataset.where(i), text) for i, text in unknown]


def _describe(uncovered: list[tuple[str, str]], tokenizer: Tokenizer) -> str:
    lines = [
        f"  {where}: {', '.join(map(repr, sorted(tokenizer.unknown_characters(text))))}"
        for where, text in uncovered[:MAX_LINES_SHOWN]
    ]
    more = [f"  … and {len(uncovered) - MAX_LINES_SHOWN} more"] if len(uncovered) > MAX_LINES_SHOWN else []
    return "\n".join([*lines, *more, *(f"  {message}" for message in find_unwritable(uncovered, tokenizer))])


def _remedy(config: Config, tokenizer: Tokenizer, uncovered: list[tuple[str, str]]) -> str:
    kind = config.tokenizer.kind
    if case := _better_case(tokenizer, uncovered):
        return f"Set {'tokenizer.kind=init ' if kind == 'init' else ''}tokenizer.text_case={case}, or correct the texts"
    if kind == "file":
        return "Add the tokens to tokenizer.file, correct the texts, or choose another tokenizer.kind"
    if kind in ("init", "funasr"):
        return (
            "The vocabulary is that of the published or initial model: correct the texts, or set "
            "tokenizer.kind=characters, which re-initialises the output layer"
        )
    return "The vocabulary is that of the run: correct the texts, or start a new run"


def _better_case(tokenizer: Tokenizer, uncovered: list[tuple[str, str]]) -> str:
    """Return the case in which the most texts are covered, "" if none covers more than now."""
    covered = {"": 0}
    for case in CASES:
        other = dataclasses.replace(tokenizer, text_case=case)
        covered[case] = sum(not other.unknown_characters(text) for _, text in uncovered)
    return max(covered, key=lambda case: covered[case])
