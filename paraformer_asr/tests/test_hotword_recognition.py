"""Hot words through a transcriber: its programs, its batches, its warnings; and how they are cut into tokens."""

import dataclasses
import logging

import numpy as np
import pytest

from asr.config import Config, FeaturesConfig, InferenceConfig, LossConfig, PredictorConfig, TokenizerConfig
from asr.data.text.building import build_tokenizer
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.inference.hotword_phrases import HotwordAutomata, spell_hotword, warn_of_unknown
from asr.inference.hotwords import Hotword, read_hotwords
from asr.inference.shapes import Shape
from asr.inference.transcriber import Transcriber
from tiny_model import CMVN, NUM_MELS, TOKENIZER, random_variables, tiny_model

CONFIG = Config(
    features=FeaturesConfig(num_mels=NUM_MELS, sample_rate_hz=8000),
    model=tiny_model(ctc_head=True, predictor=PredictorConfig(initial_bias=-1.0)),
    loss=LossConfig(ctc_weight=0.3),
    inference=InferenceConfig(batch_size=4, max_segment_s=1, beam_size=4),
)
VARIABLES = random_variables(CONFIG.model)
WAVES = [
    (0.3 * np.sin(np.arange(n) * 0.002) ** 2 * np.random.default_rng(n).standard_normal(n)).astype(np.float32)
    for n in (7900, 5000, 6500, 3000)
]


@pytest.fixture(scope="module", params=["cif", "ctc", "ctc_beam"])
def transcriber(request):
    settings = dataclasses.replace(CONFIG.inference, decoder=request.param)
    transcriber = Transcriber(dataclasses.replace(CONFIG, inference=settings), TOKENIZER, CMVN, VARIABLES)
    monkeypatch = pytest.MonkeyPatch()
    if request.param == "cif":  # one number of tokens, otherwise there are three programs
        monkeypatch.setattr(transcriber._programs, "_row_counts", lambda _: (18,))
    transcriber.warm_up([Shape(4, 8000)])
    yield transcriber
    monkeypatch.undo()


def recognise(transcriber, waves=WAVES, hotwords=()):
    return [recognition for _, recognition in transcriber.recognise_many(enumerate(waves), hotwords)]


def check_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        for name in ("ids", "confidence", "start_s", "end_s"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def changed_words(transcriber, wave):
    """Return hot words that differ in the last letter from the first word that is recognised."""
    word = TOKENIZER.decode(transcriber.recognise(wave).ids).split()[0]
    return tuple(Hotword(word[:-1] + letter, 3.0) for letter in "abcdefghijkl" if letter != word[-1])


def test_without_hot_words_nothing_changes(transcriber):
    plain, compiled = recognise(transcriber), transcriber.compilations
    for hotwords in ((), (Hotword("abc", 0.0),), (Hotword("ж"),)):
        check_equal(recognise(transcriber, hotwords=hotwords), plain)
    assert transcriber.compilations == compiled


def test_a_hot_word_is_recognised_where_something_like_it_is_said(transcriber):
    hotwords = changed_words(transcriber, WAVES[0])
    first, *_ = recognise(transcriber, hotwords=hotwords)
    assert {hotword.text for hotword in hotwords} & set(TOKENIZER.decode(first.ids).split())
    assert first.confidence.min() < 0.5  # still what the model thinks
    assert transcriber.transcribe(WAVES[0], 8000, hotwords).text == TOKENIZER.decode(first.ids)


def test_an_utterance_has_the_same_answer_alone_and_in_any_batch_by_the_same_program(transcriber):
    hotwords = *changed_words(transcriber, WAVES[0]), *changed_words(transcriber, WAVES[1])
    together, compiled = recognise(transcriber, hotwords=hotwords), transcriber.compilations
    for wave, expected in zip(WAVES, together, strict=True):
        check_equal(recognise(transcriber, [wave], hotwords), [expected])
    recognise(transcriber, hotwords=hotwords[:1])
    assert transcriber.compilations == compiled


def test_what_the_model_cannot_write_is_named_once(transcriber, caplog):
    with caplog.at_level(logging.WARNING, "asr"):
        transcriber.transcribe(WAVES[:2], 8000, "abc, aж, жж")
    assert [record.getMessage() for record in caplog.records] == [
        "hot words with parts that the model cannot write: 'aж' ('ж'), 'жж' ('ж'; ignored)"
    ]


def test_long_warnings_are_cut():
    hotwords = read_hotwords([f"ж{i}" for i in range(7)])
    warning = warn_of_unknown(TOKENIZER, hotwords, 2)
    assert warning.count("ignored") == 2 and warning.endswith(", … 7 in all")


PIECES = build_tokenizer(TokenizerConfig("bpe", 30), ["ANNA AND HANNA SANG AND RAN"] * 3)
FUNASR = Tokenizer(with_special_tokens(["he@@", "llo", "张", "三", "a"]), "funasr", seg_dict={"hello": ("he@@", "llo")})


@pytest.mark.parametrize(
    ("tokenizer", "text", "tokens"),
    [
        (TOKENIZER, "ad  be", "a d ▁ b e"),
        (TOKENIZER, "AD", "a d"),  # the vocabulary has small letters only
        (FUNASR, "张三", "张 三"),
        (FUNASR, "HELLO 张三", "he@@ llo 张 三"),
    ],
)
def test_a_phrase_is_cut_into_the_tokens_of_the_model(tokenizer, text, tokens):
    assert [tokenizer.tokens[i] for i in spell_hotword(tokenizer, text)] == tokens.split()


def test_a_phrase_in_pieces_begins_with_the_start_of_a_word():
    assert PIECES.tokens[spell_hotword(PIECES, "anna")[0]].startswith("▁")


@pytest.mark.parametrize(
    ("tokenizer", "token", "edges"),
    [
        (TOKENIZER, "a", (False, False)),
        (TOKENIZER, "▁", (True, True)),
        (TOKENIZER, "</s>", (True, True)),
        (PIECES, "▁AN", (True, False)),
        (FUNASR, "he@@", (False, False)),
        (FUNASR, "llo", (False, True)),
        (FUNASR, "张", (False, True)),
        (Tokenizer(with_special_tokens(["张", "▁", "ก"]), "characters"), "ก", (True, True)),
    ],
)
def test_where_words_begin_and_end(tokenizer, token, edges):
    assert tokenizer.word_edges(tokenizer.tokens.index(token)) == edges


def test_the_automata_of_the_latest_lists_are_kept():
    automata, hotwords = HotwordAutomata(TOKENIZER, 1.5), (Hotword("ad"),)
    assert automata(hotwords) is automata((Hotword("ad"),)) is not automata((Hotword("ad", 2.0),))
    assert HotwordAutomata(TOKENIZER, 0.0)(hotwords) is None
