"""The hot words of a request in the forms of both protocols, and their limits."""

import pytest

from asr.errors import UserError
from asr.inference.hotwords import Hotword
from asr.serve.hotwords import example_hotwords, read_field, read_funasr
from asr.serve.settings import ServeSettings
from tiny_model import TOKENIZER

SETTINGS = ServeSettings(max_hotwords=3, max_hotword_characters=5)
A, AB = Hotword("a"), Hotword("a b")


def test_a_form_has_phrases_between_commas_and_a_list():
    assert read_field("", [], SETTINGS) == ()
    assert read_field("a b,c :2", ["a", "c"], SETTINGS) == (AB, Hotword("c", 2.0), A)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ()),
        (" , ", ()),
        ({}, ()),
        ("a", (A,)),
        ("a c", (A, Hotword("c"))),
        ("a，c", (A, Hotword("c"))),
        ("a b 20\nc 40", (AB, Hotword("c", 2.0))),
        ('{"a b": 20, "c": "10"}', (AB, Hotword("c", 0.5))),
        ({"a": 20}, (A,)),
        (["a", "a b"], (A, AB)),
    ],
)
def test_a_client_of_funasr_states_them_in_many_forms(value, expected):
    assert read_funasr(value, SETTINGS) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "expected words, or an object of words and weights, found 7"),
        ([1, 2], "expected words, or an object"),
        ({"a": "x"}, "'a': expected a number as its weight, found 'x'"),
        ({"a": []}, "expected a number as its weight"),
        ({"a": -20}, "expected a weight of 0 to 100"),
        ("a b c d", "expected at most 3 words of at most 5 characters"),
        ("abcdef", "expected at most 3 words of at most 5 characters"),
    ],
)
def test_what_cannot_be_used_is_refused(value, message):
    with pytest.raises(UserError) as caught:
        read_funasr(value, SETTINGS)
    assert message in str(caught.value)


def test_a_service_without_hot_words_says_so():
    off = ServeSettings(max_hotwords=0)
    assert read_funasr("", off) == ()
    with pytest.raises(UserError, match="this service takes no hot words: its limit max_hotwords is 0"):
        read_funasr("a", off)


def test_the_service_compiles_with_a_word_that_the_model_can_write():
    (hotword,) = example_hotwords(TOKENIZER)
    assert not TOKENIZER.unknown_characters(hotword.text)
