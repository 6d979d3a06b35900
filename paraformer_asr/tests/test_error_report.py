"""The table and the aligned report."""

import pytest

from asr.metrics import (
    ErrorCounts,
    align,
    count_confusions,
    format_alignment,
    format_report,
    format_table,
    words,
)


def test_an_utterance_beside_its_truth():
    assert format_alignment(align(words("the cat sat"), words("the big cat sit")), "utt-1").splitlines() == [
        "id: (utt-1)",
        "Scores: (#C #S #D #I) 2 1 0 1",
        "REF:  the *** cat SAT",
        "HYP:  the BIG cat SIT",
        "Eval:     I       S",
    ]


def test_deletions_wide_characters_and_case():
    lines = format_alignment(align(["今天", "x", "a", "Be"], ["今", "a", "be"]), "u").splitlines()
    assert lines[1] == "Scores: (#C #S #D #I) 1 2 1 0"
    # A Chinese character is two columns wide; in capitals Be and be would look alike.
    assert lines[2:] == ["REF:  今天 X a Be", "HYP:  今   * a be", "Eval: S    D   S"]
    assert format_alignment(align(["ab"], []), "u").splitlines()[2:] == ["REF:  AB", "HYP:  **", "Eval: D"]


def test_long_lines_go_on_below():
    truth, said = [f"word{i}" for i in range(60)], [f"word{i}" for i in range(60) if i % 7]
    lines = format_alignment(align(truth, said), "u", width=60).splitlines()[2:]
    assert max(map(len, lines)) <= 60 and len(lines) % 3 == 0
    shown = " ".join(line[6:] for line in lines[0::3]).lower().split()
    assert shown == truth
    assert sum(line.count("D") for line in lines[2::3]) == len(truth) - len(said)


def test_an_utterance_without_words_has_empty_lines():
    assert format_alignment(align([], []), "u").splitlines()[2:] == ["REF:", "HYP:", "Eval:"]


def test_confusions_are_counted_by_kind():
    found = count_confusions([align(list("abc"), list("xbc")), align(list("ab"), list("xb")), align(["d"], ["d", "e"])])
    assert found.substitutions == {("a", "x"): 2}
    assert found.insertions == {"e": 1} and not found.deletions


def test_the_report_ranks_the_errors_and_shows_the_utterances_that_have_some():
    alignments = [
        ("good", align(["a"], ["a"])),
        *[(f"bad-{i}", align(["s", "b"], ["f", "b"])) for i in range(3)],
        ("worse", align(["m", "c"], ["n"])),
        ("tie", align(["d"], ["t"])),
    ]
    text = format_report(alignments, num_confusions=1)
    assert text.startswith("6 utterances, 5 with errors\n")
    assert "substituted, the first 1 of 3\n  3  s → f\n" in text and "m → n" not in text
    assert "deleted\n  1  c\n" in text and "inserted\n" not in text
    assert "(good)" not in text and all(f"(bad-{i})" in text for i in range(3))
    assert "(good)" in format_report(alignments, only_errors=False)
    assert format_report(alignments[::-1]).split("id: ")[0] == format_report(alignments).split("id: ")[0]


def test_the_report_of_nothing():
    assert format_report([]).startswith("0 utterances, 0 with errors\n")


def test_the_table_shows_rates_in_percent_and_what_is_not_defined_as_a_dash():
    counts = {"words": ErrorCounts(10, 2, 3, 200), "seen text": ErrorCounts()}
    lines = format_table(counts, {"words": (0.05, 0.1025)}).splitlines()
    assert lines[0].split() == ["error", "%", "interval", "substituted", "deleted", "inserted", "of"]
    assert lines[1].split() == ["words", "7.50", "5.00", "…", "10.25", "10", "2", "3", "200"]
    assert lines[2].split() == ["seen", "text", "–", "–", "0", "0", "0", "0"]
    assert len({len(line) for line in lines}) == 1
    assert "interval" not in format_table(counts)


@pytest.mark.parametrize("number", [1, 12345])
def test_large_counts_are_grouped(number):
    assert f"{number:,}" in format_table({"words": ErrorCounts(number, 0, 0, number)})
