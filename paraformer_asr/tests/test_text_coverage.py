"""Texts that the vocabulary cannot write stop a training; the advice works when it is followed."""

import dataclasses
import shlex
import types

import pytest

from asr.config import Config, TokenizerConfig
from asr.config.reader import override_config
from asr.data.text.building import choose_tokenizer
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.errors import UserError
from asr.record.text_coverage import check_texts

UPPER = with_special_tokens("ABCDEHLO▁")


def dataset(*texts):
    return types.SimpleNamespace(texts=lambda: list(texts), where=lambda i: f"train.jsonl:{i + 1}")


def refuse(config, tokenizer, *texts):
    with pytest.raises(UserError) as error:
        check_texts(config, tokenizer, dataset(*texts), dataset("A"))
    return str(error.value)


def model_with(tokenizer, folder):
    tokenizer.save(folder)
    return dataclasses.replace(Config(), init=str(folder), tokenizer=TokenizerConfig(kind="init"))


def test_covered_texts_pass_and_validation_is_warned_of(caplog):
    tokenizer = Tokenizer(UPPER, "characters")
    check_texts(Config(), tokenizer, dataset("HELLO"), dataset("HELLO X"))
    assert "train.jsonl:1: 'X'" in caplog.text and "no token for 'X' (1 × in 1 text" in caplog.text


def test_an_upper_case_model_of_funasr_takes_texts_in_any_case(tmp_path):
    config = model_with(Tokenizer(UPPER[:-2] + UPPER[-1:], "funasr", "lower"), tmp_path)
    check_texts(config, choose_tokenizer(config, []), dataset("hello abc", "Hello"), dataset("A"))


@pytest.mark.parametrize("kind", ["characters", "file"])
def test_the_case_that_the_message_names_covers_the_texts(kind, tmp_path):
    config = model_with(Tokenizer(UPPER, kind), tmp_path)
    message = refuse(config, choose_tokenizer(config, []), "hello abc", "Hello")
    assert message.splitlines()[1] == "  train.jsonl:1: 'a', 'b', 'c', 'e', 'h', 'l', 'o'"
    assert "the vocabulary has 'L'" in message
    advice = message.splitlines()[-1].removeprefix("Set ").split(", or")[0]
    followed = override_config(config, shlex.split(advice))
    check_texts(followed, choose_tokenizer(followed, []), dataset("hello abc", "Hello"), dataset("A"))


def test_the_characters_that_the_message_names_cover_the_texts(tmp_path):
    config = model_with(Tokenizer(with_special_tokens("ab'▁"), "characters"), tmp_path)
    message = refuse(config, choose_tokenizer(config, []), "ab’", *["a!"] * 9)
    assert "… and 5 more" in message and 'first in train.jsonl:1; write "\'")' in message
    assert message.endswith("re-initialises the output layer; python -m asr.check lists them all")
    followed = override_config(config, ["tokenizer.kind=characters"])
    check_texts(followed, choose_tokenizer(followed, ["ab’", "a!"]), dataset("ab’", "a!"), dataset("a"))


def test_a_list_of_ones_own_can_be_completed():
    config = dataclasses.replace(Config(), tokenizer=TokenizerConfig(kind="file", file="list.txt"))
    assert "Add the tokens to tokenizer.file" in refuse(config, Tokenizer(UPPER, "file"), "A!")
