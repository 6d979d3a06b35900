"""The text of a stream: it only grows, is that of all tokens together, and needs few of them at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.text.building import load_funasr_tokenizer
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.funasr_folder import TextFiles
from asr.inference.recognition import Recognition
from asr.inference.stream_text import StreamText
from asr.inference.words import join_words, make_tokens, make_words
from tiny_model import TOKENIZER

FOLDER = Path(__file__).parent / "recorded" / "streaming_tiny"
PIECES = ["▁he", "llo", "▁wor", "ld", "s", "▁", "a", "▁the", "今", "天"]


def published():
    """Return the tokenizer of a published model, whose words are joined as FunASR does."""
    files = TextFiles(FOLDER / "tokens.json", FOLDER / "seg_dict")
    return load_funasr_tokenizer(FOLDER, "lower", files, len(json.loads((FOLDER / "tokens.json").read_text())))


TOKENIZERS = {
    "characters": TOKENIZER,
    "pieces": Tokenizer(with_special_tokens(PIECES), kind="bpe"),
    "published": published(),
}


def spelled(tokenizer, ids):
    """Return the text of all tokens at once."""
    columns = np.array(ids, np.int32), *(np.zeros(len(ids), np.float32) for _ in range(3))
    return join_words(make_words(tokenizer, *make_tokens(tokenizer, *columns)))


def recognition(ids):
    times = np.arange(len(ids), dtype=np.float32)
    return Recognition(np.array(ids, np.int32), np.full(len(ids), 0.5, np.float32), times, times)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_text_grows_to_that_of_all_tokens(name, data):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    sizes = data.draw(st.lists(st.integers(0, 4), max_size=20))
    text, written, place = StreamText(tokenizer), "", 0
    for size in [*sizes, len(ids)]:
        new = text.push(recognition(ids[place : place + size]))
        written, place = written + new.text, place + size
        assert text.text == written
    assert list(text.recognition.ids) == ids
    assert spelled(tokenizer, ids).startswith(written)
    if name != "published":  # a piece that nothing follows is lost there, as FunASR loses it
        assert written == spelled(tokenizer, ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_stream_of_hours_spells_a_few_tokens_at_a_time(name):
    tokenizer, rng = TOKENIZERS[name], np.random.default_rng(0)
    ids, text = rng.integers(3, tokenizer.vocab_size - 1, 3000).tolist(), StreamText(tokenizer)
    longest = 0
    for place in range(0, len(ids), 3):
        text.push(recognition(ids[place : place + 3]))
        longest = max(longest, len(text._rest.ids))
    assert longest < 300
    assert spelled(tokenizer, ids).startswith(text.text)
    assert len(text.text) > 0.9 * len(spelled(tokenizer, ids))
