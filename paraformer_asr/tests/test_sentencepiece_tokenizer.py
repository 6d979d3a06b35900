"""Tokenizers of published models that come with a model of sentencepiece: its numbers, its text, and bad files."""

import io
import json
import random
import shutil
from pathlib import Path

import pytest
import sentencepiece
import yaml

from asr.data.text.building import load_funasr_tokenizer
from asr.data.text.sentencepiece_tokenizer import DENORMALIZER, read_sentencepiece
from asr.data.text.stored_tokenizer import load_tokenizer
from asr.errors import UserError
from asr.funasr_folder import TextFiles
from asr.protobuf import whole_fields, write_field
from asr.published.funasr import load_funasr

RECORDED = Path(__file__).parent / "recorded" / "sense_voice_tiny"
TEXTS = ["the cat sat on the mat", "send it to me", "good morning", "今天天气很好", "我们去公园"]


def train(path, *, texts=TEXTS, vocab_size=60, rule="identity", **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        normalization_rule_name=rule,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_numbers_and_texts_are_those_of_sentencepiece(rule, tmp_path):
    expected, rng = train(tmp_path / "model", rule=rule), random.Random(0)
    tokenizer = read_sentencepiece(tmp_path / "model")
    assert tokenizer.tokens == tuple(expected.id_to_piece(i) for i in range(expected.get_piece_size()))
    assert tokenizer.encode("Send it  to me") == expected.encode("send it to me")  # pieces of one case
    for _ in range(200):
        ids = rng.choices(range(3, tokenizer.vocab_size), k=rng.randint(0, 9))
        text = tokenizer.decode([0, 1, *ids, 2])
        assert text == " ".join(expected.decode(ids).split())
        words = tokenizer.spell(ids)
        assert text == "".join(" " * (word.space_before and i > 0) + word.text for i, word in enumerate(words))


def test_the_table_of_a_normaliser_is_not_needed(tmp_path):
    """sentencepiece would read a table of characters in the file; here Unicode's own rule does its work."""
    expected = train(tmp_path / "model", rule="nmt_nfkc")
    tokenizer = read_sentencepiece(tmp_path / "model")
    assert tokenizer.encode("ｔｈｅ　ｃａｔ") == expected.encode("ｔｈｅ　ｃａｔ") == expected.encode("the cat")
    with (tmp_path / "model").open("ab") as file:
        file.write(write_field(DENORMALIZER, write_field(2, b"\xff" * 64)))  # a forged table
    assert read_sentencepiece(tmp_path / "model").decode(expected.encode("the cat")) == "the cat"


def test_characters_without_a_piece_are_spelled_in_bytes(tmp_path):
    expected = train(tmp_path / "model", vocab_size=320, byte_fallback=True)
    tokenizer = read_sentencepiece(tmp_path / "model")
    ids = tokenizer.encode("the é 园书")
    assert tokenizer.decode(ids) == expected.decode(ids) == "the é 园书"
    assert [word.text for word in tokenizer.spell(ids)][:2] == ["the", "é"]
    assert tokenizer.unknown_characters("書") == set()


def test_tags_are_no_text(tmp_path):
    train(tmp_path / "model", user_defined_symbols=["<|en|>", "<|HAPPY|>"])
    tokenizer = read_sentencepiece(tmp_path / "model")
    ids = [tokenizer.tokens.index(tag) for tag in ("<|en|>", "<|HAPPY|>")] + tokenizer.encode("the cat")
    assert (tokenizer.tagged(ids), tokenizer.decode(ids)) == ("<|en|><|HAPPY|> the cat", "the cat")
    train(tmp_path / "plain")
    assert read_sentencepiece(tmp_path / "plain").tagged([5, 6]) == ""


def test_a_saved_tokenizer_is_read_again(tmp_path):
    train(tmp_path / "model")
    tokenizer = read_sentencepiece(tmp_path / "model")
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path) == tokenizer
    train(tmp_path / "bpe.model", texts=["other words"], vocab_size=20)
    with pytest.raises(UserError, match="not those of tokenizer.json"):
        load_tokenizer(tmp_path)


def test_a_list_that_numbers_the_outputs_wins_over_the_model(tmp_path):
    """As in the English Paraformer, whose list has more tokens than its sentencepiece model has pieces."""
    pieces = train(tmp_path / "model")
    listed = ["<blank>", "<s>", "</s>", *(pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size())), "<unk>"]
    (tmp_path / "tokens.json").write_text(json.dumps(listed))
    files = TextFiles(tmp_path / "tokens.json", None, tmp_path / "model")
    tokenizer = load_funasr_tokenizer(tmp_path, files=files, num_outputs=len(listed))
    ids = [listed.index(piece) for piece in pieces.encode("the cat sat", out_type=str)]
    assert tokenizer.decode(ids) == "the cat sat"
    assert tokenizer.tokens == tuple(listed) and tokenizer.text_case == "lower"
    by_model = load_funasr_tokenizer(tmp_path, files=files, num_outputs=pieces.get_piece_size())
    assert by_model.decode(pieces.encode("the cat sat")) == "the cat sat"


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "model"
    model = (RECORDED / "tiny.model").read_bytes()
    first = next(field.raw for field in whole_fields(model))
    for content in (b"", b"text", model[:-3], first, b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match="expected a model of sentencepiece"):
            read_sentencepiece(path)


def test_a_folder_without_its_model_is_refused(tmp_path):
    folder = Path(shutil.copytree(RECORDED, tmp_path / "copy"))
    (folder / "configuration.json").unlink()
    with pytest.raises(UserError, match="tokenizer_conf.bpemodel"):
        load_funasr(folder)
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["tokenizer_conf"]["bpemodel"] = "../tiny.model"
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="outside of the folder"):
        load_funasr(folder)
