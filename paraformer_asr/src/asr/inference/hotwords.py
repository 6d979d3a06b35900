"""Hot words: names and terms that the recogniser is asked to prefer.

    Zhang San
    Kawasaki :2.5         the weight behind ` :`, a factor on the bonus; 1 where it is left out
    # a comment

The same line, without comments, is an item of a list; in one string commas (`,`, `，`, `、`) or line ends separate the
phrases. Neither jax nor numpy is imported here, so that `asr infer` answers a mistake at once.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr.errors import UserError
from asr.files import decoded, read_bounded
from asr.untrusted import is_printable, shown

MAX_HOTWORDS = 10_000
MAX_HOTWORD_CHARACTERS = 200
MAX_WEIGHT = 100.0
MAX_FILE_BYTES = 1 << 23  # largest file of hot words accepted, in bytes

SOURCE = "hot words"  # begins an error if no file is named

_separators = re.compile("[,，、\r\n]")
_weighted = re.compile(r"(.*?)\s+:(\S*)")


@dataclasses.dataclass(frozen=True)
class Hotword:
    """A phrase to prefer.

    Attributes:
        text: one or more words.
        weight: factor on the bonus, 0 to 100.
    """

    text: str
    weight: float = 1.0

    def __post_init__(self):
        if not isinstance(self.text, str):
            raise UserError(f"{SOURCE}: expected a text, found {shown(self.text)}")
        object.__setattr__(self, "text", " ".join(unicodedata.normalize("NFC", self.text).split()))
        if not is_printable(self.text):
            raise UserError(f"{SOURCE}: expected printable characters, found {shown(self.text)}")
        if len(self.text) > MAX_HOTWORD_CHARACTERS:
            limit = f"a phrase of at most {MAX_HOTWORD_CHARACTERS} characters"
            raise UserError(f"{SOURCE}: expected {limit}, found {len(self.text)} in {shown(self.text)}")
        number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if not number or not 0 <= self.weight <= MAX_WEIGHT:
            raise UserError(
                f"{SOURCE}: {shown(self.text)}: expected a weight of 0 to {MAX_WEIGHT:g}, found {shown(self.weight)}"
            )
        object.__setattr__(self, "weight", float(self.weight))


Hotwords = str | Path | Sequence[str | Hotword]
"""What a caller may pass as hot words: a path, phrases in one string, or a list of phrases."""


def read_hotwords(hotwords: Hotwords | None) -> tuple[Hotword, ...]:
    """Return hot words in the order of their first occurrence, each once, with the largest of its weights.

    Args:
        hotwords: a list of phrases; or a string of phrases between commas; or a file with a phrase on each line, as a
            `Path` or as a string that ends in `.txt` or names a file that exists. None: no hot words.

    Raises:
        UserError: a missing file, too many phrases, a phrase that is too long, or a wrong weight, with its line.
    """
    match hotwords:
        case None:
            return ()
        case Path():
            return _read_file(hotwords)
        case str() if _is_file_name(hotwords):
            return _read_file(Path(hotwords))
        case str():
            return parse_hotwords(hotwords)
        case list() | tuple():
            return merge(map(_parse, hotwords))
    raise UserError(f"{SOURCE}: expected a list of phrases, a string or a path, found {type(hotwords).__name__}")


def parse_hotwords(text: str) -> tuple[Hotword, ...]:
    """Return the hot words of a string, which is never taken for the name of a file."""
    return merge(_parse(phrase) for phrase in _separators.split(text))


def merge(hotwords: Iterable[Hotword], where: str | Path = SOURCE) -> tuple[Hotword, ...]:
    """Return each phrase once, with its largest weight; empty ones are left out.

    Raises:
        UserError: more than `MAX_HOTWORDS`.
    """
    weights: dict[str, float] = {}
    for each in hotwords:
        if each.text:
            weights[each.text] = max(each.weight, weights.get(each.text, 0.0))
        if len(weights) > MAX_HOTWORDS:
            raise UserError(f"{where}: expected at most {MAX_HOTWORDS:,} hot words, found more")
    return tuple(Hotword(text, weight) for text, weight in weights.items())


def _is_file_name(text: str) -> bool:
    try:
        return text.lower().endswith(".txt") or Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or a character that no name may have
        return False


def _read_file(path: Path) -> tuple[Hotword, ...]:
    try:
        content = read_bounded(path, MAX_FILE_BYTES)
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the hot words ({error.strerror or error}); expected a text file, a phrase a line"
        ) from None
    lines = enumerate(decoded(path, content, "a hot word on each line").split("\n"), 1)
    phrases = (_parse(line, f"{path}:{number}") for number, line in lines if not line.lstrip().startswith("#"))
    return merge(phrases, path)


def _parse(item: str | Hotword, where: str | Path = SOURCE) -> Hotword:
    """Return the hot word of `phrase` or `phrase :weight`."""
    if not isinstance(item, str):
        return item if isinstance(item, Hotword) else Hotword(item)  # which refuses any other type
    match = _weighted.fullmatch(item.strip())
    try:
        weight = float(match[2]) if match else 1.0
    except ValueError:
        message = f"expected a number behind ' :', such as 'Kawasaki :2', found {shown(item)}"
        raise UserError(f"{where}: {message}") from None
    try:
        return Hotword(match[1] if match else item, weight)
    except UserError as error:
        raise UserError(f"{where}{str(error).removeprefix(SOURCE)}") from None
