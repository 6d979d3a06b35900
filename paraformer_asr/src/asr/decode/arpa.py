r"""N-gram language models in ARPA form, and their back-off scores.

    \data\
    ngram 1=3
    ngram 2=1

    \1-grams:
    -0.60   <s>     -0.30         log10 probability, words, log10 back-off weight (0 where it is left out)
    -0.30   yes     -0.10
    -0.60   </s>

    \2-grams:
    -0.10   <s> yes

    \end\

Anything before `\data\` is a comment. Columns are separated by tabs or blanks.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

from asr.errors import UserError
from asr.files import open_file
from asr.untrusted import escaped

START, END = "<s>", "</s>"
UNKNOWN = ("<unk>", "<UNK>")  # spellings of the unknown word in different tools
UNKNOWN_LOG10 = -10.0  # log10 probability of an unknown word, if the model has no `<unk>`
LOWEST_LOG10 = -99.0  # stands for log 0, which some tools write as -99 and others as -inf
MAX_NGRAMS = 5_000_000  # largest model accepted, in n-grams: about 2 GB of memory
MAX_LINE_BYTES = 10_000
MAX_COMMENT_LINES = 10_000
"""Most lines before `\\data\\`: any other file is refused without reading all of it."""
LN_10 = math.log(10)


@dataclasses.dataclass(frozen=True)
class NgramModel:
    """Probabilities of a word given the words before it."""

    order: int  # longest n-gram; order − 1 words before the present one count
    scores: dict[tuple[str, ...], tuple[float, float]]  # n-gram → (ln probability, ln back-off weight)

    def __contains__(self, word: str) -> bool:
        """Return whether the model knows a word."""
        return (word,) in self.scores

    @property
    def words(self) -> list[str]:
        """The words that it knows, without `<s>`, `</s>` and the unknown word."""
        return [gram[0] for gram in self.scores if len(gram) == 1 and gram[0] not in (START, END, *UNKNOWN)]

    @property
    def start(self) -> tuple[str, ...]:
        """The context at the start of a sentence."""
        return self.context((START,)) if START in self else ()

    def log_probability(self, context: tuple[str, ...], word: str) -> float:
        """Return ln P(word | context).

            P(w | h) = p(h w)                        where the model holds the n-gram h w
                       backoff(h) · P(w | h')        otherwise, h' being h without its first word

        A word that it does not know is scored as `<unk>`, or with `UNKNOWN_LOG10` where there is none.
        """
        word = self._known(word)
        backed_off = 0.0
        for first in range(len(context) + 1):
            score = self.scores.get((*context[first:], word))
            if score:
                return backed_off + score[0]
            backed_off += self.scores.get(context[first:], (0.0, 0.0))[1]
        return backed_off + UNKNOWN_LOG10 * LN_10

    def context(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return what the next word depends on: the last order − 1 words."""
        return tuple(self._known(word) for word in words[max(len(words) - self.order + 1, 0) :])

    def _known(self, word: str) -> str:
        return word if word in self else next((unknown for unknown in UNKNOWN if unknown in self), word)


def read_arpa(path: Path) -> NgramModel:
    """Return the language model of a file in ARPA form.

    Raises:
        UserError: the file cannot be read, is malformed (with its line), or holds more than `MAX_NGRAMS` n-grams.
    """
    try:
        with open_file(Path(path)) as file:
            return _Reader(path, file).read()
    except OSError as error:
        raise UserError(f"{path}: cannot read the language model: {error.strerror or error}") from error


class _Reader:
    """Reads a file line by line, and names the line in its errors."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file
        self.number = 0

    def read(self) -> NgramModel:
        if self.file.peek(2)[:2] == b"\x1f\x8b":  # type: ignore[attr-defined]
            raise UserError(f"{self.path}: expected plain text in ARPA form, found a gzip file; unpack it first")
        while (line := self._line("\\data\\")) != "\\data\\":
            if self.number >= MAX_COMMENT_LINES:
                self._fail(f"\\data\\ in the first {MAX_COMMENT_LINES:,} lines", line)
        counts, line = self._counts()
        scores: dict[tuple[str, ...], tuple[float, float]] = {}
        for n, count in enumerate(counts, start=1):
            if line != f"\\{n}-grams:":
                self._fail(f"\\{n}-grams:", line)
            line = self._section(n, count, scores)
        if line != "\\end\\":
            self._fail("\\end\\", line)
        return NgramModel(len(counts), scores)

    def _counts(self) -> tuple[list[int], str]:
        counts: list[int] = []
        while match := re.fullmatch(r"ngram\s+(\d{1,3})\s*=\s*(\d{1,12})", line := self._line("ngram 1=…")):
            order, count = int(match[1]), int(match[2])
            if order != len(counts) + 1:
                self._fail(f"ngram {len(counts) + 1}=…", line)
            counts.append(count)
            if sum(counts) > MAX_NGRAMS:
                self._fail(f"at most {MAX_NGRAMS:,} n-grams, as they are held in memory", f"{line}; prune the model")
        if not counts:
            self._fail("ngram 1=…", line)
        return counts, line

    def _section(self, n: int, count: int, scores: dict) -> str:
        """Read the n-grams of one order into `scores`; return the first line behind them."""
        for number in range(count + 1):
            line = self._line(f"{count - number} more {n}-grams" if number < count else "the next section or \\end\\")
            if line.startswith("\\") != (number == count):
                self._fail(f"{count} {n}-grams, as many as the head of the file says", f"after {number}: {line}")
            if number == count:
                return line
            gram, score = self._ngram(line, n, scores)
            scores[gram] = score
        raise AssertionError("the loop returns or fails")

    def _ngram(self, line: str, n: int, scores: dict) -> tuple[tuple[str, ...], tuple[float, float]]:
        columns = line.split()
        if len(columns) not in (n + 1, n + 2):
            self._fail(f"a log10 probability, {n} word{'s' * (n > 1)} and perhaps a back-off weight", line)
        gram = tuple(columns[1 : n + 1])
        if gram in scores:
            self._fail("every n-gram once", f"{' '.join(gram)!r} again")
        strangers = [word for word in gram if n > 1 and (word,) not in scores]
        if strangers:
            self._fail("words of the 1-grams", repr(strangers[0]))
        probability = self._log(columns[0], highest=0.0)
        backoff = self._log(columns[n + 1], highest=-LOWEST_LOG10) if len(columns) == n + 2 else 0.0
        return gram, (probability * LN_10, backoff * LN_10)

    def _log(self, text: str, highest: float) -> float:
        """Return a log10 value, at least `LOWEST_LOG10`."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not value <= highest:  # NaN too
            self._fail(f"a log10 value of at most {highest:g}", repr(text))
        return max(value, LOWEST_LOG10)

    def _line(self, expected: str) -> str:
        """Return the next line that is not empty, without blanks at its ends."""
        while raw := self.file.readline(MAX_LINE_BYTES):
            self.number += 1
            if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
                self._fail(f"lines of less than {MAX_LINE_BYTES:,} bytes", "a longer one; this is no ARPA file")
            try:
                line = raw.decode("utf-8").strip()
            except UnicodeDecodeError:
                self._fail("UTF-8", f"the bytes {raw[:20]!r}…")
            if line:
                return line
        self._fail(expected, "the end of the file")

    def _fail(self, expected: str, actual: str) -> NoReturn:
        raise UserError(f"{self.path}:{self.number}: expected {expected}, found {escaped(actual)}")
