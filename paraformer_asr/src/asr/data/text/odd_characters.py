"""Finds characters that a model cannot learn or write: look-alikes, invisible ones, special tokens, unknown ones."""

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence

from asr.data.text.tokenizer import BLANK, END, START, UNKNOWN, Tokenizer

PLAIN = dict.fromkeys("’‘ʼ′`´＇", "'") | dict.fromkeys("“”„″", '"') | dict.fromkeys("‐‑‒–—−", "-") | {"…": "..."}
"""Signs that look like those of a keyboard. Unicode's compatible forms (NFKC) give more twins."""

MAX_LISTED = 10

JOINERS = "\u200c\u200d"
"""Invisible characters that are part of the spelling of Arabic and Indic scripts."""

FIRST_JOINED = "\u0600"
"""The first letter of these scripts."""


@dataclasses.dataclass
class Use:
    """Uses of a character or a word.

    Attributes:
        times: in all texts.
        lines: texts with it.
        first: where the first of them is.
    """

    times: int = 0
    lines: int = 0
    first: str = ""

    def __str__(self):
        """Return a phrase for messages."""
        return f"{self.times:,} × in {self.lines:,} text{'s' * (self.lines != 1)}, first in {self.first}"


Texts = Sequence[tuple[str, str]]
"""(file and line or name, text) of each utterance."""


def find_odd_characters(splits: Mapping[str, Texts], tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Return split → messages: each names what is odd, its uses, and what to write instead.

    Args:
        splits: split → its texts; "train" may be missing.
        tokenizer: of the model, which normalises the texts first.
    """
    normalised = {
        split: [(where, tokenizer.normalise(text)) for where, text in texts] for split, texts in splits.items()
    }
    uses = {split: count_characters(texts) for split, texts in normalised.items()}
    trained = uses.get("train")
    messages: dict[str, list[str]] = {}
    for split, own in uses.items():
        messages[split] = _special_tokens(normalised[split]) + _invisible(own)
        messages[split] += _twins(own) if trained is None or split == "train" else _untrained(own, trained)
    return messages


def find_unwritable(texts: Texts, tokenizer: Tokenizer) -> list[str]:
    """Return a message about the parts of texts without a token, most frequent first, or nothing."""
    uses: dict[str, Use] = {}
    for where, text in texts:
        form = tokenizer.normalise(text)
        for part in tokenizer.unknown_characters(text):
            _add(uses, part, form.count(part), where)
    if not uses:
        return []
    listed = [f"{shown(part)} ({use}{_instead(part, tokenizer)})" for part, use in _ranked(uses)]
    return [f"no token for {_list(listed)}"]


def count_characters(texts: Texts) -> dict[str, Use]:
    """Return character → its uses."""
    uses: dict[str, Use] = {}
    for where, text in texts:
        for character in dict.fromkeys(text):
            _add(uses, character, text.count(character), where)
    return uses


def twin(character: str) -> str:
    """Return the plain form of a character, itself if it is plain; case is kept."""
    return PLAIN.get(character) or unicodedata.normalize("NFKC", character)


def shown(part: str) -> str:
    """Return a character or a word for a message; a single character beyond ASCII has its name beside it."""
    if len(part) > 1 or part.isascii():
        return repr(part)
    code = f"U+{ord(part):04X} {unicodedata.name(part, 'without a name')}"
    return f"{part!r} ({code})" if part.isprintable() else code


def _add(uses: dict[str, Use], part: str, times: int, where: str) -> None:
    use = uses.setdefault(part, Use(first=where))
    use.times += times
    use.lines += 1


def _ranked(uses: Mapping[str, Use]) -> list[tuple[str, Use]]:
    return sorted(uses.items(), key=lambda item: (-item[1].times, item[0]))


def _list(listed: Sequence[str]) -> str:
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return "; ".join(listed[:MAX_LISTED]) + more


def _special_tokens(texts: Texts) -> list[str]:
    uses: dict[str, Use] = {}
    for where, text in texts:
        for token in (BLANK, START, END, UNKNOWN):
            if times := text.lower().count(token):
                _add(uses, token, times, where)
    return [
        f"the text {token!r} ({use}) is not the special token of this name, but letters to be said; remove it"
        for token, use in _ranked(uses)
    ]


def _invisible(uses: Mapping[str, Use]) -> list[str]:
    joined = any(character >= FIRST_JOINED and character.isalpha() for character in uses)
    hidden = {c: u for c, u in uses.items() if unicodedata.category(c) in ("Cf", "Cc", "Co", "Cn")}
    return [
        f"invisible: {shown(character)} ({use}); remove it"
        for character, use in _ranked(hidden)
        if not (joined and character in JOINERS)
    ]


def _twins(uses: Mapping[str, Use]) -> list[str]:
    """Return a message for each character whose plain form occurs, too."""
    twins = ((character, use, twin(character)) for character, use in _ranked(uses))
    return [
        f"{shown(character)} ({use}) and {plain!r} are two characters for the model; write {plain!r} for both"
        for character, use, plain in twins
        if plain != character and all(part in uses for part in plain)
    ]


def _untrained(uses: Mapping[str, Use], trained: Mapping[str, Use]) -> list[str]:
    missing = {c: use for c, use in uses.items() if c not in trained}
    if not missing:
        return []
    listed = [f"{shown(character)} ({use}{_trained_form(character, trained)})" for character, use in _ranked(missing)]
    return [f"never in the training texts: {_list(listed)}"]


def _trained_form(character: str, trained: Mapping[str, Use]) -> str:
    plain, other = twin(character), character.swapcase()
    for form in (plain, plain.lower(), plain.upper()) if plain != character else ():
        if all(part in trained for part in form):
            return f"; write {form!r}"
    if other != character and other in trained:
        return f"; {other!r} is: set tokenizer.text_case={'lower' if other.islower() else 'upper'}"
    return ""


def _instead(part: str, tokenizer: Tokenizer) -> str:
    plain = "".join(map(twin, part))
    for form in (plain, plain.lower(), plain.upper()) if plain != part else ():
        if not tokenizer.unknown_characters(form):
            return f"; write {form!r}"
    if part.swapcase() != part and not tokenizer.unknown_characters(part.swapcase()):
        return f"; the vocabulary has {part.swapcase()!r}"
    return ""
