"""Lets several models vote on every word, and prints the error rates of each and of the vote.

    python scripts/vote.py RUN/eval_test RUN/eval_test RUN/eval_test --out vote

Each folder is one that `python -m asr.eval` wrote, all for the same utterances. With --out the vote's texts are written
as another such table, utterances.csv.

ROVER: the first hypothesis is a row of slots with one word each. Every further one is aligned with the row, where a
word matches a slot that holds it; a word that fits nowhere opens a slot. Then each slot elects its most frequent word,
which may be none; of equal ones that of the model named first wins.

Reference: Fiscus 1997, "A post-processing system to yield reduced word error rates: Recognizer output voting error
reduction (ROVER)"; votes by frequency, without confidences.
"""

import argparse
import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from asr.cli import run_command
from asr.errors import UserError
from asr.eval import make_folder
from asr.files import replace_text
from asr.metrics import bootstrap_interval, character_errors, format_table, sum_counts, word_errors

Slot = list[str | None]
"""What each hypothesis so far has in one place; None: nothing."""
Step = tuple[int, int, int]
"""Errors, slots and words of an alignment up to some place."""


def vote(hypotheses: Sequence[Sequence[str]]) -> list[str]:
    """Return the words that most hypotheses agree on; the order of the hypotheses breaks ties."""
    slots: list[Slot] = [[word] for word in hypotheses[0]]
    for number, words in enumerate(hypotheses[1:], 1):
        slots = add_hypothesis(slots, words, number)
    # Counter keeps the order in which words are met: `most_common` prefers the first.
    elected = [Counter(slot).most_common(1)[0][0] for slot in slots]
    return [word for word in elected if word is not None]


def add_hypothesis(slots: Sequence[Slot], words: Sequence[str], number: int) -> list[Slot]:
    """Return the slots with one more hypothesis in each, the one after `number` others.

    The alignment has the fewest errors: a word is right in a slot that holds it, and no word in one that holds None.
    """
    # cost[i][j]: the fewest errors that align the first i slots with the first j words.
    cost = [[0] * (len(words) + 1) for _ in range(len(slots) + 1)]
    for i in range(len(slots) + 1):
        for j in range(len(words) + 1):
            steps = _steps(cost, slots, words, i, j)
            cost[i][j] = min((step[0] for step in steps), default=0)
    i, j, merged = len(slots), len(words), []
    while i or j:
        _, i_before, j_before = min(_steps(cost, slots, words, i, j), key=lambda step: step[0])
        slot = slots[i_before] if i_before < i else [None] * number
        merged.append([*slot, words[j_before] if j_before < j else None])
        i, j = i_before, j_before
    return merged[::-1]


def _steps(cost: list[list[int]], slots: Sequence[Slot], words: Sequence[str], i: int, j: int) -> list[Step]:
    """Return the ways to come to slot i and word j: their errors, and where they come from."""
    steps = []
    if i and j:
        steps.append((cost[i - 1][j - 1] + (words[j - 1] not in slots[i - 1]), i - 1, j - 1))
    if i:
        steps.append((cost[i - 1][j] + (None not in slots[i - 1]), i - 1, j))
    if j:
        steps.append((cost[i][j - 1] + 1, i, j - 1))
    return steps


def read_table(folder: Path) -> dict[str, dict[str, str]]:
    """Return name → row of the table of an evaluation.

    Raises:
        UserError: there is none, or it is not what `asr.eval` writes.
    """
    file = folder / "utterances.csv"
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = {row["name"]: row for row in csv.DictReader(lines)}
        for row in rows.values():
            row["reference"] + row["hypothesis"]
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected a folder that python -m asr.eval wrote") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: expected the table that asr.eval writes, with name, reference, hypothesis") from None
    if not rows:
        raise UserError(f"{file}: no utterances")
    return rows


def read_tables(folders: Sequence[Path]) -> list[dict[str, dict[str, str]]]:
    """Return the tables of evaluations of the same utterances.

    Raises:
        UserError: they are of different utterances.
    """
    tables = [read_table(folder) for folder in folders]
    references = [{name: row["reference"] for name, row in table.items()} for table in tables]
    for folder, own in zip(folders, references, strict=True):
        if own != references[0]:
            raise UserError(f"{folder}: other utterances or other references than in {folders[0]}")
    return tables


def main() -> None:
    """Vote and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of an evaluation: RUN/eval_test")
    parser.add_argument("--out", type=Path, help="folder for the vote's utterances.csv")
    arguments = parser.parse_args()
    if len(arguments.folders) < 2:
        raise UserError("a vote needs two folders or more")
    tables = read_tables(arguments.folders)
    names = list(tables[0])
    texts = {
        str(folder): [table[name]["hypothesis"] for name in names]
        for folder, table in zip(arguments.folders, tables, strict=True)
    }
    elected = [" ".join(vote([text.split() for text in said])) for said in zip(*texts.values(), strict=True)]
    references = [tables[0][name]["reference"] for name in names]
    for title, errors in (("words", word_errors), ("characters", character_errors)):
        counts = {
            folder: [errors(r, h) for r, h in zip(references, said, strict=True)]
            for folder, said in (texts | {"vote": elected}).items()
        }
        intervals = {folder: bootstrap_interval(each) for folder, each in counts.items()}
        print(format_table({folder: sum_counts(each) for folder, each in counts.items()}, intervals, title), end="\n\n")
    if arguments.out:
        make_folder(arguments.out)
        table = io.StringIO(newline="")
        rows = [("name", "reference", "hypothesis"), *zip(names, references, elected, strict=True)]
        csv.writer(table, lineterminator="\n").writerows(rows)
        replace_text(arguments.out / "utterances.csv", table.getvalue())


if __name__ == "__main__":
    run_command(main)
