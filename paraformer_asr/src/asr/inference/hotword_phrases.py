"""Hot words in the tokens of a model, and their automaton."""

import functools
from collections.abc import Iterable

from asr.data.text.tokenizer import Tokenizer, in_case
from asr.decode import HotwordAutomaton, TokenKinds, build_automaton
from asr.inference.hotwords import Hotword
from asr.untrusted import shown

MAX_LISTED = 100  # most hot words listed in a warning
LISTS_KEPT = 8
"""Lists whose automaton is kept, for the batches and requests that repeat them."""


def spell_hotword(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of a hot word, in the case of the vocabulary if that has only one."""
    return tokenizer.encode(in_case(text, tokenizer.only_case))


def warn_of_unknown(tokenizer: Tokenizer, hotwords: Iterable[Hotword], most: int = MAX_LISTED) -> str:
    """Return a warning that names up to `most` hot words with parts that no token covers, and these; "" for none."""
    problems = []
    for each in hotwords:
        unknown = tokenizer.unknown_characters(in_case(each.text, tokenizer.only_case))
        if unknown:
            ignored = "; ignored" if not _is_writable(tokenizer, spell_hotword(tokenizer, each.text)) else ""
            problems.append(f"{shown(each.text)} ({', '.join(map(shown, sorted(unknown)))}{ignored})")
    if not problems:
        return ""
    more = f", … {len(problems)} in all" if len(problems) > most else ""
    listed = ", ".join(problems[:most])
    return f"hot words with parts that the model cannot write: {listed}{more}"


class HotwordAutomata:
    """Makes the automata of one model, and keeps those of the latest lists.

    Args:
        tokenizer: of the model.
        weight: bonus per token in nats, which the weights of the hot words multiply.
    """

    def __init__(self, tokenizer: Tokenizer, weight: float):
        self._tokenizer, self._weight = tokenizer, weight
        self._kept = functools.lru_cache(LISTS_KEPT)(self._build)

    def __call__(self, hotwords: tuple[Hotword, ...]) -> HotwordAutomaton | None:
        """Return the automaton of hot words; None if none of them has a bonus, or none can be written."""
        return self._kept(hotwords) if hotwords and self._weight else None

    def _build(self, hotwords: tuple[Hotword, ...]) -> HotwordAutomaton | None:
        spelled = ((spell_hotword(self._tokenizer, each.text), self._weight * each.weight) for each in hotwords)
        phrases = [(ids, bonus) for ids, bonus in spelled if bonus and _is_writable(self._tokenizer, ids)]
        return build_automaton(phrases, self._kinds) if phrases else None

    @functools.cached_property
    def _kinds(self) -> TokenKinds:
        ids = range(self._tokenizer.vocab_size)
        begins, ends = zip(*map(self._tokenizer.word_edges, ids), strict=True)
        return TokenKinds(begins, ends, [self._tokenizer.is_ordinary(i) for i in ids])


def _is_writable(tokenizer: Tokenizer, ids: list[int]) -> bool:
    return any(map(tokenizer.is_ordinary, ids))
