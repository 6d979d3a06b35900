"""Words of strangers are shown without harm."""

import os

import pytest

from asr.untrusted import HARMFUL, MAX_SHOWN, escaped, harmless, indented, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "plain ä 語 \u200d\u3000\u200c",
            "plain ä 語 \u200d\u3000\u200c",
        ),  # joiners and wide blanks are parts of texts
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b]0;title\x07\x9b2J\r", "\\x1b]0;title\\x07\\x9b2J\\r"),
        ("\u202eexe\u2069\u2028", "\\u202eexe\\u2069\\u2028"),
        (os.fsdecode(b"\xff"), "\\udcff"),
    ],
)
def test_harmless_texts_stay_and_the_others_are_written_out(text, expected):
    assert harmless(text) == expected
    assert harmless(expected) == expected
    assert not HARMFUL.search(harmless(text, kept=""))
    harmless(text).encode("utf-8")


def test_a_line_in_a_name_cannot_pass_for_one_of_ours():
    assert indented("a\nerror: b\n  c\n") == "a\n  error: b\n  c\n  "


def test_what_is_shown_of_a_value_is_short_and_on_one_line():
    for text in (shown("x\n" * 1000), escaped("\x1b" * 1000), shown(10**5000), shown({"a": [[[["deep"]]]]})):
        assert text.isprintable() and len(text) < 10 * MAX_SHOWN
