"""Error rates and errors as text: a table for the terminal, and the utterances line by line beside their truth."""

import dataclasses
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from asr.metrics.error_rate import Alignment, ErrorCounts, sum_counts

Interval = tuple[float, float]  # (low, high) of an error rate, as fractions


@dataclasses.dataclass(frozen=True)
class Confusions:
    """Which errors were made, and how often."""

    substitutions: Counter  # (unit of the truth, what was recognised instead) → count
    deletions: Counter  # unit of the truth that was left out → times
    insertions: Counter  # unit that was added → times


def count_confusions(alignments: Iterable[Alignment]) -> Confusions:
    """Return the errors of all utterances, sorted into kinds and counted."""
    confusions = Confusions(Counter(), Counter(), Counter())
    for alignment in alignments:
        for truth, recognised in alignment.pairs:
            if truth is None:
                confusions.insertions[recognised] += 1
            elif recognised is None:
                confusions.deletions[truth] += 1
            elif truth != recognised:
                confusions.substitutions[truth, recognised] += 1
    return confusions


def format_table(
    counts: Mapping[str, ErrorCounts], intervals: Mapping[str, Interval] | None = None, head: str = ""
) -> str:
    """Return error rates as an aligned table for the terminal, one line a kind of unit or a part of the data.

    Rates are shown in percent, and "–" where a value is not defined.

    `counts` is name → summed counts, as {"words": …, "characters": …}; `intervals` may lack names; `head` is that of
    the column with the names.
    """
    intervals = intervals or {}
    header = [head, "error %", "interval", "substituted", "deleted", "inserted", "of"]
    rows = [
        [
            name,
            _percent(c.rate),
            _interval(intervals.get(name)),
            f"{c.substitutions:,}",
            f"{c.deletions:,}",
            f"{c.insertions:,}",
            f"{c.reference_length:,}",
        ]
        for name, c in counts.items()
    ]
    if not intervals:
        header, *rows = ([*row[:2], *row[3:]] for row in [header, *rows])
    return "\n".join(_aligned([header, *rows]))


def format_alignment(alignment: Alignment, name: str, width: int = 100) -> str:
    """Return one utterance beside its truth, as NIST's sclite prints it.

        id: (name)
        Scores: (#C #S #D #I) 2 1 0 1
        REF:  the *** cat SAT
        HYP:  the BIG cat SIT
        Eval:     I       S

    Stars mark a missing unit. Wrong units are in capitals where their script has them. Wide characters
    (Chinese, Japanese, Korean) count as two columns. Lines longer than `width` wrap into further triples of lines.
    Units are written with `str`; a line has `width` columns.
    """
    columns = [_column(truth, recognised) for truth, recognised in alignment.pairs]
    c = alignment.counts
    lines = [f"id: ({name})", f"Scores: (#C #S #D #I) {c.hits} {c.substitutions} {c.deletions} {c.insertions}"]
    start, used = 0, 0
    blocks = []
    for i, column in enumerate(columns):
        size = max(map(_display_width, column)) + 1
        if used and used + size > width - len("Eval: "):
            blocks.append(columns[start:i])
            start, used = i, 0
        used += size
    for block in [*blocks, columns[start:]]:
        widths = [max(map(_display_width, column)) for column in block]
        for row, head in enumerate(("REF:  ", "HYP:  ", "Eval: ")):
            cells = (_padded(column[row], size) for column, size in zip(block, widths, strict=True))
            lines.append((head + " ".join(cells)).rstrip())
    return "\n".join(lines)


def format_report(
    alignments: Sequence[tuple[str, Alignment]], num_confusions: int = 20, only_errors: bool = True
) -> str:
    """Return a report of the errors: their sums, the most frequent ones, and the utterances beside their truth.

    `num_confusions` is the most entries in the list of one kind of error. `only_errors`: omit the other utterances.
    """
    confusions = count_confusions(alignment for _, alignment in alignments)
    total = sum_counts(alignment.counts for _, alignment in alignments)
    shown = [(name, alignment) for name, alignment in alignments if not only_errors or alignment.counts.errors]
    wrong = sum(alignment.counts.errors > 0 for _, alignment in alignments)
    parts = [f"{len(alignments):,} utterances, {wrong:,} with errors\n\n" + format_table({"all": total})]
    pairs = Counter({f"{truth} → {recognised}": n for (truth, recognised), n in confusions.substitutions.items()})
    for title, errors in [
        ("substituted", pairs),
        ("deleted", confusions.deletions),
        ("inserted", confusions.insertions),
    ]:
        if errors:
            # Ties in the order of their names, so that the report of equal results is equal.
            ranked = sorted(errors.items(), key=lambda item: (-item[1], str(item[0])))[:num_confusions]
            number = len(f"{ranked[0][1]:,}")
            more = f", the first {num_confusions} of {len(errors):,}" if len(errors) > num_confusions else ""
            parts.append("\n".join([f"{title}{more}", *(f"  {n:>{number},}  {unit}" for unit, n in ranked)]))
    return "\n\n".join([*parts, *(format_alignment(alignment, name) for name, alignment in shown)]) + "\n"


def _column(truth: object | None, recognised: object | None) -> tuple[str, str, str]:
    """Return the three cells of one unit: truth, hypothesis, kind of error."""
    above, below = str(truth), str(recognised)
    if truth is None:
        return "*" * _display_width(below), below.upper(), "I"
    if recognised is None:
        return above.upper(), "*" * _display_width(above), "D"
    if truth == recognised:
        return above, below, ""
    # Units that differ in case alone would look alike in capitals.
    return (above, below, "S") if above.upper() == below.upper() else (above.upper(), below.upper(), "S")


def _display_width(text: str) -> int:
    """Return the columns that a text takes on a terminal: wide characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _display_width(text))


def _percent(rate: float) -> str:
    return "–" if math.isnan(rate) else f"{100 * rate:.2f}"


def _interval(interval: Interval | None) -> str:
    return "–" if interval is None or math.isnan(interval[0]) else " … ".join(_percent(rate) for rate in interval)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return a line for each row: the first column flush left, all other columns flush right, two spaces between."""
    widths = [max(_display_width(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            " " * (width - _display_width(cell)) + cell if i else _padded(cell, width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
