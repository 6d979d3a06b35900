"""Text as FunASR cuts and joins it."""

import hypothesis
import hypothesis.strategies as st
import pytest

from asr.config import TokenizerConfig
from asr.data.text.building import build_tokenizer, load_funasr_tokenizer
from asr.data.text.funasr_text import cut, join, read_seg_dict, spell, write_seg_dict
from asr.data.text.stored_tokenizer import load_tokenizer
from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.inference.transcript import Token
from asr.inference.words import make_words

SEG_DICT = {"hello": ("he@@", "llo"), "world": ("wor@@", "ld"), "我": ("我",), "you": ("you",)}
ORDINARY = ("今", "天", "我", "he@@", "llo", "wor@@", "ld", "you", "a", "b", "i", "it's", "7", "12")
TOKENS = ("<blank>", "<s>", "</s>", *ORDINARY, "<unk>")
TOKENIZER = Tokenizer(TOKENS, "funasr", "lower", seg_dict=SEG_DICT)
rows = st.lists(st.sampled_from(ORDINARY), max_size=8)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("", ""),
        ("今 天", "今天"),
        ("you a", "you a"),
        ("he@@ llo wor@@ ld", "hello world"),
        ("今 天 he@@ llo you", "今天hello you"),
        ("he@@ llo 今 天", "hello今天"),
        ("今 you 天 you", "今you天you"),
        ("it's 7 12 今", "it's712今"),  # digits are written as Chinese is
        ("you 12 you", "you12you"),
        ("a b", "AB"),
        ("you a b i you", "you ABI you"),
        ("a you b", "a you b"),
        ("a 今 b", "a今b"),
        ("a b 今 i b", "AB今IB"),
        ("wor@@ a b", "wora b"),  # a word that ends in one letter is no letter
        ("he@@ 今 天 llo", "今天hello"),  # kept until the next word in letters
        ("you he@@ 今 llo", "you 今hello"),
        ("he@@ he@@ llo", "hehello"),
        ("you he@@", "you"),
        ("he@@ wor@@", ""),
        ("1@@ you", "1@@you"),  # no letter in it: not a piece
        ("@@ 今@@ 7", "@@今@@7"),
        ("<OOV> you <OOV>", "you"),
        ("you % you", "you %you"),
        ("you % 今", "you 今"),  # lost
        ("п р カ メ 안 今", "п р カ メ 안今"),
        ("A B п", "AB п"),
        ("▁ a", "▁a"),
    ],
)
def test_tokens_are_joined_as_funasr_does(tokens, text):
    assert join(tokens.split()) == text


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("今 he@@ llo", [("今", 0, 1), ("hello", 1, 3)]),
        ("a b 今", [("AB", 0, 2), ("今", 2, 3)]),
        ("he@@ 今 llo", [("今", 1, 2), ("hello", 2, 3)]),
        ("he@@ 今 wor@@ ld", [("今", 1, 2), ("heworld", 2, 4)]),
    ],
)
def test_a_word_stands_at_the_places_of_its_last_parts(tokens, words):
    assert [(word.text, word.start, word.stop) for word in spell(tokens.split())] == words


@hypothesis.given(rows)
def test_words_with_their_blanks_are_the_text_and_lie_in_order(tokens):
    words = spell(tokens)
    assert "".join(" " * word.space_before + word.text for word in words) == join(tokens)
    places = [place for word in words for place in (word.start, word.stop)]
    assert places == sorted(places)
    assert all(word.start < word.stop <= len(tokens) for word in words)
    assert not words or not words[0].space_before


@hypothesis.given(rows)
def test_every_word_of_a_transcript_has_the_times_of_its_tokens(tokens):
    ids = [TOKENS.index(token) for token in tokens]
    timed = [Token(token, float(i), i + 0.5, 0.9) for i, token in enumerate(tokens)]
    words = make_words(TOKENIZER, ids, timed)
    assert "".join(" " * word.space_before + word.text for word in words) == TOKENIZER.decode(ids) == join(tokens)
    for word, spelled in zip(words, spell(tokens), strict=True):
        assert (word.start_s, word.end_s) == (spelled.start, spelled.stop - 0.5)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("hello 今天", "he@@ llo 今 天"),
        ("  Hello\tWORLD ", "he@@ llo wor@@ ld"),
        ("我 you", "我 you"),
        ("ab7", "a b 7"),
        ("今hello", "今 None None None None None"),  # only whole words are looked up
        ("它", "None"),
        ("¿hello?", "None"),  # begins with no letter
        ("", ""),
    ],
)
def test_text_is_cut_as_funasr_does(text, tokens):
    assert [str(token) for _, token in cut(text, SEG_DICT, set(ORDINARY))] == tokens.split()


@pytest.mark.parametrize(
    ("tokens", "text", "cut_as"),
    [
        ("ABHELO今天", "Hello ab 今", "H E L L O A B 今"),
        ("abhelo", "HELLO", "h e l l o"),
        ("abAHelo", "Hello Aa", "H e l l o A a"),
        ("приветм", "привет мир", "п р и в е т м и р"),
        ("カメラ日本語", "カメラ 日本語", "カ メ ラ 日 本 語"),
        ("안녕하세요", "안녕 하세요", "안 녕 하 세 요"),
        ("กนั", "กัน", "ก ั น"),
        ("7'@▁", "7'@@ ▁", "7 ' @ @ ▁"),
    ],
)
def test_without_a_seg_dict_text_is_cut_into_characters(tokens, text, cut_as):
    tokenizer = Tokenizer(("<blank>", "<s>", "</s>", *tokens, "<unk>"), "funasr", "keep")
    assert [tokenizer.tokens[i] for i in tokenizer.encode(text)] == cut_as.split()
    assert not tokenizer.unknown_characters(text)


def test_words_are_looked_up_in_lower_case_and_tokens_in_their_own():
    tokens = ("<blank>", "<s>", "</s>", "HE@@", "LLO", "A", "今", "<unk>")
    tokenizer = Tokenizer(tokens, "funasr", "lower", seg_dict={"hello": ("HE@@", "LLO")})
    for text in ("hello a 今", "HELLO A 今"):
        assert [tokens[i] for i in tokenizer.encode(text)] == ["HE@@", "LLO", "A", "今"]


def test_a_piece_that_is_no_token_is_unknown():
    row = cut("hello ¿x? 它", SEG_DICT, {"llo"})
    assert row == [("hello", None), ("hello", "llo"), ("¿x?", None), ("它", None)]


def test_the_tokenizer_numbers_the_pieces_and_says_what_is_unknown():
    ids = TOKENIZER.encode("Hello 它 我")
    assert [TOKENS[i] for i in ids] == ["he@@", "llo", "<unk>", "我"]
    assert TOKENIZER.decode([1, *ids, 2]) == "hello我"
    assert TOKENIZER.unknown_characters("Hello 它¿ 我们 ¿") == {"它", "¿", "们"}


@hypothesis.given(rows)
def test_what_the_tokenizer_joins_it_cuts_again(tokens):
    """Words of the `seg_dict`, characters and digits; abbreviations and broken words have no way back."""
    text = " ".join(word for word in tokens if word in SEG_DICT or word in "今天7")
    assert TOKENIZER.decode(TOKENIZER.encode(text)).replace(" ", "") == text.replace(" ", "")


def test_a_saved_tokenizer_loads_equal(tmp_path):
    TOKENIZER.save(tmp_path)
    assert load_tokenizer(tmp_path) == TOKENIZER
    write_seg_dict(tmp_path / "seg_dict", {})
    assert load_tokenizer(tmp_path).encode("hello") == [TOKENIZER.unknown_id] * 5


def test_the_files_of_funasr_make_the_same_tokenizer(tmp_path):
    quoted = ", ".join(f'"{token}"' for token in TOKENS)
    (tmp_path / "tokens.json").write_text(f"[{quoted}]", "utf-8")
    (tmp_path / "seg_dict").write_text("hello he@@ llo\n\n world\twor@@ ld \n我 我\nyou you\n", "utf-8")
    assert load_funasr_tokenizer(tmp_path, "lower") == TOKENIZER
    config = TokenizerConfig(kind="funasr", file=str(tmp_path), text_case="lower")
    assert build_tokenizer(config, []) == TOKENIZER
    (tmp_path / "seg_dict").unlink()
    assert load_funasr_tokenizer(tmp_path, "lower").seg_dict == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello he@@ llo\nworld\n", ":2: expected a word and its pieces, found 'world'"),
        (b"\xff\xfe", ":1: expected words and their pieces in UTF-8"),
    ],
)
def test_a_seg_dict_that_cannot_be_used_is_named(tmp_path, content, said):
    path = tmp_path / "seg_dict"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_seg_dict(path)
    assert str(error.value).startswith(f"{path}{said}")


def test_a_folder_without_usable_tokens_is_named(tmp_path):
    with pytest.raises(UserError, match=r"expected a model folder of FunASR, but it holds no tokens\.json"):
        load_funasr_tokenizer(tmp_path)
    (tmp_path / "tokens.json").write_text('["<blank>", "a", "<unk>"]')
    with pytest.raises(UserError, match=r"tokens\.json: expected the tokens <blank>, <s>, </s>"):
        load_funasr_tokenizer(tmp_path)
    TOKENIZER.save(tmp_path)
    (tmp_path / "seg_dict").unlink()
    with pytest.raises(UserError, match="seg_dict: cannot read"):
        load_tokenizer(tmp_path)
