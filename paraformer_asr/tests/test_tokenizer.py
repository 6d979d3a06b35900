"""Text to numbers and back: numbering, exact reload, byte-pair pieces, lists of tokens, what is unknown."""

import io
import json
import logging
import unicodedata

import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from asr.config import TokenizerConfig
from asr.data.text.building import build_tokenizer
from asr.data.text.pieces import fewest_pieces, load_bpe
from asr.data.text.stored_tokenizer import load_tokenizer
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.errors import UserError

TEXTS = ["one two three", "two twenty two", "three thirty one", "a one and a two", "twenty thousand"] * 3
BPE = TokenizerConfig(kind="bpe", vocab_size=40)
FUNASR = ["<blank>", "<s>", "</s>", "你", "好", "th@@", "e", "re", "hello", "a", "<unk>"]

words = st.text("abcdefgh", min_size=1, max_size=6)
sentences = st.lists(words, min_size=1, max_size=5).map(" ".join)


def listed(*tokens):
    return Tokenizer(with_special_tokens(tokens), "file")


def surfaces(tokenizer, text):
    return [tokenizer.tokens[i] for i in tokenizer.encode(text)]


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_the_numbering_has_the_special_tokens_at_their_places(kind):
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=40), TEXTS)
    assert tokenizer.tokens[:3] == ("<blank>", "<s>", "</s>") and tokenizer.tokens[-1] == "<unk>"
    assert tokenizer.vocab_size == len(tokenizer.tokens) == len(set(tokenizer.tokens))
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert all(3 <= i < tokenizer.vocab_size - 1 for i in ids)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([1, *ids[:2], 0, *ids[2:], tokenizer.unknown_id, 2]) == text


def test_characters_are_sorted_and_the_space_is_a_token():
    tokenizer = build_tokenizer(TokenizerConfig(), ["b a", "c"])
    assert tokenizer.tokens == ("<blank>", "<s>", "</s>", "a", "b", "c", "▁", "<unk>")
    assert tokenizer.encode("a b") == [3, 6, 4]
    assert "▁" not in build_tokenizer(TokenizerConfig(), ["你好"]).tokens


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4))
def test_characters_of_any_script_come_back_normalised(texts):
    plain = listed("x")
    texts = [text for text in texts if plain.normalise(text)]
    if not texts:
        return
    tokenizer = build_tokenizer(TokenizerConfig(), texts)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.normalise(text)
        assert tokenizer.normalise(text) == unicodedata.normalize("NFC", tokenizer.normalise(text))
        assert not tokenizer.unknown_characters(text)


def test_equal_letters_written_in_two_ways_are_one_token():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    tokenizer = build_tokenizer(TokenizerConfig(), [composed])
    assert tokenizer.encode(decomposed) == tokenizer.encode(composed)
    assert tokenizer.encode("\t caf\u00e9\n") == tokenizer.encode(composed)
    assert tokenizer.encode("▁caf\u00e9▁") == tokenizer.encode(composed)


@pytest.mark.parametrize(("case", "expected"), [("keep", "Ab"), ("lower", "ab"), ("upper", "AB")])
def test_the_case_is_changed_first(case, expected):
    tokenizer = build_tokenizer(TokenizerConfig(text_case=case), ["Ab"])
    assert tokenizer.decode(tokenizer.encode("Ab")) == expected
    assert (tokenizer.encode("AB") == tokenizer.encode("ab")) == (case != "keep")


@pytest.mark.parametrize("kind", ["characters", "bpe", "file"])
def test_a_saved_tokenizer_loads_equal(kind, tmp_path):
    if kind == "file":
        tokenizer = Tokenizer(tuple(FUNASR), "file", "lower")
    else:
        tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=40, text_case="upper"), TEXTS)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded == tokenizer
    for text in (*TEXTS, "there 你好", "unknown ø"):
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.decode(loaded.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_pieces_are_the_same_at_each_training_and_in_any_form():
    one, other = build_tokenizer(BPE, TEXTS), build_tokenizer(BPE, iter(TEXTS))
    assert one == other and one.bpe_model
    assert one.vocab_size == 40 + 4
    assert "▁two" in one.tokens and surfaces(one, "two") == ["▁two"]


@given(sentences)
def test_pieces_spell_any_text_of_known_characters(text):
    tokenizer = _pieces_of_all_letters()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def _pieces_of_all_letters(cache={}):  # noqa: B006 (trained once for all examples)
    if not cache:
        cache["it"] = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=20), ["abc def gh hg fed cba abc def"])
    return cache["it"]


def test_pieces_leave_the_characters_as_they_are():
    wide = "ａｂ ﬁ ²"  # compatible forms that NFKC would replace
    tokenizer = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=12), [wide])
    assert tokenizer.decode(tokenizer.encode(wide)) == wide


def test_texts_that_support_fewer_pieces_give_fewer_and_say_so(caplog):
    with caplog.at_level(logging.INFO, logger="asr"):
        tokenizer = build_tokenizer(BPE, ["ab ab", "a"])
    assert 4 < tokenizer.vocab_size < 44
    assert f"give {tokenizer.vocab_size - 4} pieces, not 40" in caplog.text


def test_sentencepiece_is_silent(capfd):
    tokenizer = build_tokenizer(BPE, TEXTS)
    tokenizer.encode("two ø")
    assert capfd.readouterr() == ("", "")


SENTENCES = [
    f"the {a} {b} of {c}" for a in ("old", "new", "red") for b in ("house", "horse") for c in ("stone", "wood")
]


@pytest.mark.parametrize(
    ("texts", "vocab_size", "instead"),
    [
        (["今天天气很好", "我们去公园散步吧", "你吃饭了吗"], 40, "tokenizer.kind=characters"),
        (SENTENCES[:4], 120, "tokenizer.vocab_size=15"),
    ],
)
def test_pieces_that_are_learned_by_heart_are_named_with_a_remedy(texts, vocab_size, instead, caplog):
    with caplog.at_level(logging.WARNING, logger="asr"):
        build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=vocab_size), texts)
    (record,) = caplog.records
    assert f"pieces are too many for {len(texts)} training texts" in record.getMessage()
    assert record.getMessage().endswith(f"use {instead}")
    caplog.clear()
    changes = dict([instead.removeprefix("tokenizer.").split("=")])
    changes = {key: int(value) if value.isdigit() else value for key, value in changes.items()}
    with caplog.at_level(logging.WARNING, logger="asr"):
        build_tokenizer(TokenizerConfig(**{"kind": "bpe", "vocab_size": vocab_size} | changes), texts)
    assert not caplog.records


def test_pieces_that_occur_often_are_no_reason_for_a_warning(caplog):
    with caplog.at_level(logging.WARNING, logger="asr"):
        build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=30), SENTENCES * 3)
    assert not caplog.records


def test_fewer_pieces_than_characters_are_refused():
    with pytest.raises(UserError, match=r"tokenizer.vocab_size: expected at least 10, .* found 8"):
        build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=8), ["abc defghi"])


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_texts_without_a_character_are_refused(kind):
    with pytest.raises(UserError, match=f"tokenizer.kind: {kind} .* empty"):
        build_tokenizer(TokenizerConfig(kind=kind), ["", " "])


@pytest.mark.parametrize(
    "tokenizer",
    [build_tokenizer(TokenizerConfig(), TEXTS), build_tokenizer(BPE, TEXTS), listed("t@@", "w@@", "o", "one")],
    ids=["characters", "bpe", "file"],
)
def test_unknown_characters_are_exactly_those_that_become_unk(tokenizer):
    assert tokenizer.unknown_characters("two one") == set()
    assert tokenizer.unknown_id not in tokenizer.encode("two one")
    assert tokenizer.unknown_characters("two øne! two") >= {"ø", "!"}
    assert tokenizer.unknown_id in tokenizer.encode("ø")
    assert not tokenizer.unknown_characters("two øne! two") & set("two")


def test_words_begin_at_spaces_and_at_each_ideograph():
    characters = build_tokenizer(TokenizerConfig(), ["ab c 你好d"])
    assert characters.word_starts(characters.encode("ab c")) == [True, False, True, False]
    assert characters.word_starts(characters.encode("a 你好d")) == [True, True, False, True, True]
    pieces = build_tokenizer(BPE, TEXTS)
    text = "twenty one thousand"
    ids = pieces.encode(text)
    assert sum(pieces.word_starts(ids)) == 3
    assert pieces.word_starts(ids) == [pieces.tokens[i].startswith("▁") for i in ids]
    continued = Tokenizer(tuple(FUNASR), "file")
    assert continued.word_starts(continued.encode("the 你好 a")) == [True, False, True, True, True]


@given(st.text("ab你好 ", max_size=12))
def test_words_cut_at_their_starts_decode_to_the_words(text):
    for tokenizer in (build_tokenizer(TokenizerConfig(), ["ab 你好"]), listed("a", "b", "a@@", "b@@", "你", "好")):
        ids = tokenizer.encode(text)
        groups = []
        for token_id, starts in zip(ids, tokenizer.word_starts(ids), strict=True):
            groups += [[]] if starts else []
            groups[-1].append(token_id)
        spelled = [word for word in map(tokenizer.decode, groups) if word]
        assert "".join(spelled) == tokenizer.normalise(text).replace(" ", "")
        assert sorted("".join(spelled)) == sorted(tokenizer.decode(ids).replace(" ", ""))


def test_a_list_of_funasr_joins_its_pieces():
    tokenizer = Tokenizer(tuple(FUNASR), "file")
    assert surfaces(tokenizer, "你好there hello") == ["你", "好", "th@@", "e", "re", "hello"]
    assert tokenizer.decode(tokenizer.encode("你好 the hello 你")) == "你好 the hello 你"
    assert surfaces(tokenizer, "then") == ["th@@", "e", "<unk>"]
    whole = listed("th@@", "e@@", "re", "ther", "e")
    assert surfaces(whole, "there") == ["th@@", "e@@", "re"]  # though "ther" and "e" were fewer
    assert surfaces(listed("你好", "你", "们@@", "@@"), "你好你") == ["你好", "你"]


def test_a_list_with_spaces_in_its_tokens_is_read_as_pieces():
    assert surfaces(listed("▁on", "▁one", "e", "▁"), "one on") == ["▁one", "▁on"]
    assert surfaces(listed("on", "o", "n", "e", "▁"), "one no") == ["on", "e", "▁", "n", "o"]
    assert listed("on", "o", "n", "e", "▁").decode([3, 6, 7, 4]) == "one o"


@given(st.text("abc", max_size=6), st.sets(st.text("abc", min_size=1, max_size=3), max_size=6))
@example("abcc", {"a", "b", "c", "cc", "abc"})  # the longest piece at the end is not the best
def test_no_other_cut_has_fewer_unknown_characters_or_pieces(word, tokens):
    def cuts(rest):
        """Yield (unknown characters, pieces) of every possible cut."""
        if not rest:
            yield 0, 0
        for end in range(1, len(rest) + 1):
            known = rest[:end] in tokens
            if known or end == 1:
                for unknown, pieces in cuts(rest[end:]):
                    yield unknown + (not known), pieces + known

    found = fewest_pieces(word, tokens, 3)
    assert "".join(surface for surface, _ in found) == word
    assert all(token in (None, surface) for surface, token in found)
    unknown = sum(token is None for _, token in found)
    assert (unknown, len(found) - unknown) == min(cuts(word))


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return TokenizerConfig(kind="file", file=str(path))


def test_a_token_file_may_be_lines_or_json_with_or_without_special_tokens(tmp_path):
    from_json = build_tokenizer(write(tmp_path / "tokens.json", json.dumps(FUNASR)), [])
    from_lines = build_tokenizer(write(tmp_path / "tokens.txt", "\n".join(FUNASR) + "\n\n"), [])
    without = build_tokenizer(write(tmp_path / "plain.txt", "\n".join(FUNASR[3:-1])), [])
    assert from_json == from_lines == without
    assert from_json.tokens == tuple(FUNASR)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found an empty one"),
        ("a\n\nb", r":2: an empty token"),
        ("a\nb\na\n", r":3: the token 'a' is already entry 1"),
        ('["a", 5]', "entry 2: expected a token, found 5"),
        ("<blank>\n<unk>\na\n<sos/eos>\n", r"expected the tokens <blank>, <s>, </s>, …, <unk>; found <blank>, <unk>"),
        ("a\n<unk>\n", "expected the tokens"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_named(content, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        build_tokenizer(write(tmp_path / "tokens.txt", content), [])
    assert "tokens.txt" in str(error.value)


def test_a_missing_token_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        build_tokenizer(TokenizerConfig(kind="file", file=str(tmp_path / "nowhere.txt")), [])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.txt.* UTF-8"):
        build_tokenizer(TokenizerConfig(kind="file", file=str(tmp_path / "latin.txt")), [])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no json",
        "[]",
        '{"kind": "characters", "text_case": "keep"}',
        '{"kind": "words", "text_case": "keep", "tokens": ["<blank>", "<s>", "</s>", "a", "<unk>"]}',
        '{"kind": "characters", "text_case": "loud", "tokens": ["<blank>", "<s>", "</s>", "a", "<unk>"]}',
        '{"kind": "characters", "text_case": "keep", "tokens": ["<blank>", "<s>", "</s>", 3, "<unk>"]}',
        '{"kind": "characters", "text_case": "keep", "tokens": ["<blank>", "<s>", "</s>", "a", "a", "<unk>"]}',
        '{"kind": "characters", "text_case": "keep", "tokens": ["a", "b"]}',
        '{"kind": "characters", "text_case": "keep", "tokens": ["<blank>", "<s>", "</s>", "\\ud800", "<unk>"]}',
        '{"kind": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '["a"]',
        '{"kind": "characters", "text_case": "keep", "tokens": ["\\u001b[2J", "b"]}',
    ],
)
def test_a_malformed_tokenizer_is_named(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: ") as error:
        load_tokenizer(tmp_path)
    assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_a_list_with_a_space_inside_a_token_only_has_none_for_a_space():
    tokenizer = listed("a▁", "b")
    assert surfaces(tokenizer, "b b") == ["b", "<unk>", "b"] or tokenizer.encode("b b")[1] == tokenizer.unknown_id


def test_a_model_of_pieces_with_a_table_of_characters_is_refused(tmp_path):
    """Such a table is followed by sentencepiece as it stands, whatever it holds."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab abc"] * 9),
        model_writer=trained,
        vocab_size=7,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    with pytest.raises(RuntimeError, match="a table of characters"):
        load_bpe(trained.getvalue())
    tokenizer = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=10), ["ab abc"])
    tokenizer.save(tmp_path)
    model = (tmp_path / "bpe.model").read_bytes()
    assert load_tokenizer(tmp_path) == tokenizer
    for table in (b"\x00", b"\xff\xff\xff\x7f" + bytes(20)):
        normalizer = b"\x12" + bytes([len(table)]) + table
        (tmp_path / "bpe.model").write_bytes(model + b"\x1a" + bytes([len(normalizer)]) + normalizer)
        with pytest.raises(UserError, match=r"bpe\.model: expected a model that sentencepiece wrote"):
            load_tokenizer(tmp_path)
    for damaged in (b"", model[:-3], model + b"\x0b", b"\xff" * 30, model + b"\x80"):
        (tmp_path / "bpe.model").write_bytes(damaged)
        with pytest.raises(UserError, match=r"bpe\.model: "):
            load_tokenizer(tmp_path)


def test_a_model_of_pieces_that_is_missing_damaged_or_of_another_tokenizer_is_named(tmp_path):
    tokenizer = build_tokenizer(BPE, TEXTS)
    tokenizer.save(tmp_path)
    (tmp_path / "bpe.model").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"bpe\.model: expected a model"):
        load_tokenizer(tmp_path)
    (tmp_path / "bpe.model").write_bytes(build_tokenizer(BPE, ["other texts have other pieces"]).bpe_model)
    with pytest.raises(UserError, match=r"bpe\.model: its pieces are not"):
        load_tokenizer(tmp_path)
    (tmp_path / "bpe.model").unlink()
    with pytest.raises(UserError, match=r"bpe\.model: cannot read"):
        load_tokenizer(tmp_path)
