"""What a model cannot learn or write is named with its number, its first place and what to write instead."""

import pytest

from asr.data.text.odd_characters import MAX_LISTED, find_odd_characters, find_unwritable, twin
from asr.data.text.tokenizer import Tokenizer, with_special_tokens

TOKENIZER = Tokenizer(with_special_tokens("▁abcAé',-1今ｈ"), "characters")


def placed(*texts):
    return [(f"t:{number}", text) for number, text in enumerate(texts, 1)]


def odd(train, val=(), tokenizer=TOKENIZER):
    found = find_odd_characters({"train": placed(*train), "val": placed(*val)}, tokenizer)
    return found["train"], found["val"]


@pytest.mark.parametrize(
    ("character", "plain"),
    [("Ａ", "A"), ("１", "1"), ("，", ","), ("’", "'"), ("ﬁ", "fi"), ("–", "-"), ("a", "a"), ("今", "今"), ("H", "H")],
)
def test_twins_have_a_plain_form(character, plain):
    assert twin(character) == plain


def test_plain_texts_have_nothing_odd():
    assert odd(["a b's c", "今 1-1"], ["c a", "今"]) == ([], [])


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\t", "\u2009"])
def test_any_blank_is_a_blank(space):
    assert odd(["a b"], [f"a{space}b"]) == ([], [])


def test_composed_and_decomposed_letters_are_the_same():
    assert odd(["\u00e9a"], ["e\u0301a"]) == ([], [])


def test_two_forms_in_training_are_told_apart():
    assert odd(["a’b", "a'b ’’"])[0] == [
        "'’' (U+2019 RIGHT SINGLE QUOTATION MARK) (3 × in 2 texts, first in t:1) and \"'\" are two characters for the "
        'model; write "\'" for both'
    ]
    assert odd(["a’b"])[0] == []  # one form alone is as good as the other
    assert odd(["a'b", "a'b ''"])[0] == []  # the advice, followed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ｂa", "'ｂ' (U+FF42 FULLWIDTH LATIN SMALL LETTER B) (1 × in 1 text, first in t:1; write 'b')"),
        ("Ｂa", "'Ｂ' (U+FF22 FULLWIDTH LATIN CAPITAL LETTER B) (1 × in 1 text, first in t:1; write 'b')"),
        ("xx", "'x' (2 × in 1 text, first in t:1)"),
        ("B", "'B' (1 × in 1 text, first in t:1; 'b' is: set tokenizer.text_case=lower)"),
    ],
)
def test_what_training_never_has_is_listed_with_the_remedy(text, said):
    assert odd(["a b"], [text])[1] == [f"never in the training texts: {said}"]


def test_long_lists_end():
    (message,) = odd(["a"], ["bcdefghijklmnop"])[1]
    assert message.count(";") == MAX_LISTED - 1 and message.endswith(" and 5 more")


@pytest.mark.parametrize(
    ("character", "name"),
    [("\u200b", "ZERO WIDTH SPACE"), ("\u00ad", "SOFT HYPHEN"), ("\ufeff", "ZERO WIDTH NO-BREAK")],
)
def test_invisible_characters_are_named(character, name):
    (message,) = odd([f"a{character}b", "b"])[0]
    assert message.startswith(f"invisible: U+{ord(character):04X} {name}") and message.endswith("t:1); remove it")


def test_joiners_that_a_script_needs_are_not_odd():
    assert odd(["می\u200cخواهم"])[0] == []
    assert len(odd(["a\u200cb"])[0]) == 1


@pytest.mark.parametrize("token", ["<unk>", "<blank>", "<s>", "</s>", "<UNK>"])
def test_special_tokens_in_a_text_are_named(token):
    (message,) = odd([f"a{token}"])[0]
    assert message.startswith(f"the text '{token.lower()}' (1 × in 1 text, first in t:1) is not the special token")


def test_what_the_tokenizer_cannot_write_is_counted():
    assert find_unwritable(placed("a b", "今"), TOKENIZER) == []
    assert find_unwritable(placed("x ’", "xa’x’", "Ｃ"), TOKENIZER) == [
        "no token for 'x' (3 × in 2 texts, first in t:1); "
        "'’' (U+2019 RIGHT SINGLE QUOTATION MARK) (3 × in 2 texts, first in t:1; write \"'\"); "
        "'Ｃ' (U+FF23 FULLWIDTH LATIN CAPITAL LETTER C) (1 × in 1 text, first in t:3; write 'c')"
    ]
    funasr = Tokenizer(with_special_tokens(("it", "今")), "funasr", seg_dict={"it": ("it",)})
    assert find_unwritable(placed("it ＩＴ ¿it"), funasr) == [
        "no token for '¿it' (1 × in 1 text, first in t:1); 'ｉｔ' (1 × in 1 text, first in t:1; write 'it')"
    ]
