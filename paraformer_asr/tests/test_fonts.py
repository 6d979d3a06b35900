"""Letters that no installed font has are named once and replaced; those that one font has are drawn with it."""

import logging

import pytest

from asr import fonts
from asr.fonts import find_fonts, without

COVERED = {"DejaVu Sans": "abc…", "Noto Sans CJK SC": "今天", "Thai": "กข", "Other": "ก"}


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr(fonts, "_installed", lambda: {family: family for family in COVERED})
    monkeypatch.setattr(fonts, "_characters", lambda path: frozenset(COVERED[path]))
    monkeypatch.setattr(fonts, "_named", set())


def test_any_installed_font_that_has_a_letter_is_taken():
    assert find_fonts(["abc"]) == (["DejaVu Sans", "Noto Sans CJK SC"], set())
    assert find_fonts(["a กข", "今"]) == (["DejaVu Sans", "Noto Sans CJK SC", "Other", "Thai"], set())


def test_letters_that_no_font_has_are_named_once(caplog):
    with caplog.at_level(logging.WARNING, logger="asr"):
        for _ in range(2):
            assert find_fonts(["a안", "녕今\n"])[1] == {"안", "녕"}
        assert find_fonts(["안 하"])[1] == {"안", "하"}
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "no installed font has 녕 안",
        "no installed font has 하",
    ]


def test_runs_of_letters_that_cannot_be_drawn_are_shortened():
    assert without("said: 안녕 a안b", {"안", "녕"}) == "said: … a…b"
    assert without("abc", set()) == "abc"


def test_the_fonts_that_are_there_are_read(monkeypatch):
    monkeypatch.undo()
    families, missing = find_fonts(["abc ß п"])
    assert families[0] == "DejaVu Sans" and not missing
    assert not any(family.startswith("Last Resort") for family in fonts._installed())
