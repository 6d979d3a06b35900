"""References and answers are compared in one form: what a model writes in one way only is no error."""

import hypothesis
import hypothesis.strategies as st
import pytest

from asr.data.text.comparison import MAX_GROWTH, comparable, compare, comparison_case, suit_characters
from asr.data.text.tokenizer import Tokenizer, with_special_tokens

WORDS = {"hello": ("he@@", "llo"), "world": ("wor@@", "ld"), "am": ("am",), "it's": ("it's",), "42": ("42",)}
CHARACTERS = tuple("今天abcni7")
SEG_DICT = WORDS | {c: (c,) for c in CHARACTERS}
PIECES = ("he@@", "llo", "wor@@", "ld", "am", "it's", "42", "%", "1@@", "é", *CHARACTERS)


def funasr(tokens=PIECES, seg_dict=SEG_DICT, text_case="lower"):
    return Tokenizer(with_special_tokens(tokens), "funasr", text_case, seg_dict=seg_dict)


TOKENIZERS = {
    "pieces": funasr(),
    "upper pieces": funasr(
        [t.upper() for t in PIECES], {w: tuple(p.upper() for p in ps) for w, ps in SEG_DICT.items()}
    ),
    "no seg_dict": funasr(tuple("今天カメ안녕привabc'7@▁"), {}, "keep"),
    "both cases": funasr(tuple("今天abcABC7"), {}, "keep"),
    "list with @@": Tokenizer(with_special_tokens(("今", "天", "he@@", "llo", "l", "o", "h", "e", "a", "b")), "file"),
    "list with ▁": Tokenizer(with_special_tokens(("▁he", "llo", "a", "b", "今", "▁")), "file"),
}


def errors(tokenizer, text, ids):
    found = compare(tokenizer, text, ids)
    return found.words.errors, found.characters.errors, found.tokens.errors


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@hypothesis.given(data=st.data())
def test_an_answer_beside_its_own_text_has_no_error(tokenizer, data):
    ids = data.draw(st.lists(st.integers(3, tokenizer.vocab_size - 2), max_size=7))
    assert errors(tokenizer, tokenizer.decode(ids), ids) == (0, 0, 0)


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@hypothesis.given(data=st.data())
def test_a_covered_text_beside_its_own_tokens_has_no_error(tokenizer, data):
    words = ["今天", "ab", "a", "A", "hello", "HELLO", "it's", "7", "42", "今7a", "カメ", "при", "c", "今hello"]
    covered = [word for word in words if tokenizer.unknown_id not in tokenizer.encode(word)]
    text = " ".join(data.draw(st.lists(st.sampled_from(covered), max_size=6)))
    ids = tokenizer.encode(text)
    assert tokenizer.unknown_id not in ids
    assert errors(tokenizer, text, ids) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("今天 hello", "今 天 he@@ llo"),
        ("今天hello", "今 天 he@@ llo"),
        ("i am a b c", "i am a b c"),
        ("I AM ABC", "i am a b c"),
        ("CNN 今天", "c n n 今 天"),
        ("it's 7 42 今", "it's 7 42 今"),
    ],
)
def test_spellings_that_the_model_cannot_tell_apart_are_no_error(text, tokens):
    tokenizer = TOKENIZERS["pieces"]
    assert errors(tokenizer, text, [tokenizer.tokens.index(token) for token in tokens.split()]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("今天 hello", "今 今 he@@ llo", (1, 1, 1)),
        ("i am a b c", "i am a b", (1, 1, 1)),
        ("hello world", "he@@ llo", (1, 6, 2)),
        ("hello tide", "he@@ llo", (1, 5, 4)),  # no token for t, d and e: errors all the same
        ("hello ¿what@@", "he@@ llo", (1, 7, 1)),
    ],
)
def test_errors_are_counted(text, tokens, expected):
    tokenizer = TOKENIZERS["pieces"]
    assert errors(tokenizer, text, [tokenizer.tokens.index(token) for token in tokens.split()]) == expected


def test_texts_are_compared_in_the_only_case_of_the_vocabulary():
    upper = Tokenizer(with_special_tokens("ABC▁"), "characters")
    assert comparison_case(upper) == "in upper case"
    assert errors(upper, "ab c", [3, 4, 6, 5]) == (0, 0, 0)
    both = Tokenizer(with_special_tokens("aABC▁"), "characters")
    assert comparison_case(both) == "case counts"
    assert errors(both, "ABC", [3, 5, 6]) == (1, 1, 1)
    chinese = Tokenizer(with_special_tokens("今天"), "characters", "lower")
    assert comparison_case(chinese) == "in lower case"


def test_tokens_of_learned_pieces_are_those_that_were_said():
    tokenizer = Tokenizer(with_special_tokens("ab▁"), "characters")
    assert errors(tokenizer, "a b", [3, 5, 5, 4]) == (0, 0, 1)


def test_a_list_of_words_that_grow_ends():
    tokenizer = funasr(("aa", "b"), {"aa": ("aa",) * 9, "b": ("b",)})
    assert len(comparable(tokenizer, "aa b aa")) < 100 * MAX_GROWTH


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["今天天气很好", "你好"], True),
        (["今天hello", "你好 world"], True),
        (["สวัสดีครับ"], True),
        (["HELLOWORLDHOWAREYOU"], True),
        (["今 天 天 气"], False),
        (["good morning", "yes"], False),
        (["안녕 하세요"], False),
        (["epäjärjestelmällisyydellä on monta nimeä"], False),
        (["7 12"], False),
        ([], False),
        (["", " "], False),
    ],
)
def test_texts_without_blanks_between_words_suit_characters(texts, expected):
    assert suit_characters(Tokenizer(with_special_tokens(""), "characters"), texts) == expected


def test_words_that_a_model_joins_suit_characters():
    letters = funasr(tuple("ABC"), {})
    assert suit_characters(letters, ["a b c", "ab c"]) and not suit_characters(letters, ["ab", "c"])
    assert not suit_characters(TOKENIZERS["pieces"], ["hello world am"])
