"""The hot words of a request, within the limits of the service.

    HTTP        phrases between commas or line ends, ` :2` behind one for its weight, as for `asr infer --hotwords`
    websocket   a JSON object {"phrase": weight}, also as a text; or a text: words between blanks or commas, or a
                phrase and its weight on each line. As in FunASR the usual weight is 20: it counts as 1

A text of a client is never taken for the name of a file.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.inference.hotwords import Hotword, merge, parse_hotwords, read_hotwords
from asr.serve.settings import ServeSettings
from asr.untrusted import shown

FUNASR_WEIGHT = 20.0  # of a hot word in FunASR's clients

_items = re.compile("[,，、\r\n]")
_weighted = re.compile(r"(.*\S)\s+([0-9.]+)")


def read_field(hotwords: str, keywords: Sequence[str], settings: ServeSettings) -> tuple[Hotword, ...]:
    """Return the hot words of a form: those in one field, and those in a list.

    Raises:
        UserError: too many, too long, or with a wrong weight.
    """
    return check_limits(merge([*parse_hotwords(hotwords), *read_hotwords(list(keywords))]), settings)


def read_funasr(value: Any, settings: ServeSettings) -> tuple[Hotword, ...]:
    """Return the hot words of a field of FunASR's websocket protocol.

    Raises:
        UserError: another type, too many, too long, or with a wrong weight.
    """
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = dict.fromkeys(value, FUNASR_WEIGHT)
    if not isinstance(value, dict):
        raise UserError(f"expected words, or an object of words and weights, found {shown(value)}")
    hotwords = (Hotword(phrase, _weight(phrase, weight) / FUNASR_WEIGHT) for phrase, weight in value.items())
    return check_limits(merge(hotwords), settings)


def check_limits(hotwords: tuple[Hotword, ...], settings: ServeSettings) -> tuple[Hotword, ...]:
    """Return hot words that are within the limits of the service."""
    most, longest = settings.max_hotwords, settings.max_hotword_characters
    if hotwords and not most:
        raise UserError("this service takes no hot words: its limit max_hotwords is 0")
    if len(hotwords) > most or any(len(each.text) > longest for each in hotwords):
        raise UserError(f"expected at most {most} words of at most {longest} characters")
    return hotwords


def example_hotwords(tokenizer: Tokenizer) -> tuple[Hotword, ...]:
    """Return a hot word that a model can write, to compile with."""
    surfaces = (tokenizer.surface(i) for i in range(tokenizer.vocab_size) if tokenizer.is_ordinary(i))
    return (Hotword(next(filter(None, surfaces), "")),)


def _parsed(text: str) -> dict[str, Any]:
    """Return the words of a text, each with its weight."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    words: dict[str, Any] = {}
    for item in _items.split(text):
        match = _weighted.fullmatch(item.strip())
        words |= {match[1]: match[2]} if match else dict.fromkeys(item.split(), FUNASR_WEIGHT)
    return words


def _weight(phrase: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{shown(phrase)}: expected a number as its weight, found {shown(value)}") from None
