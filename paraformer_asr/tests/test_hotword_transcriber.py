"""A transcriber of SeACo-Paraformer: hot words by way of `asr.load`, batches, and its model folder."""

import logging

import jax
import numpy as np
import pytest

import asr
from drawn import draw
from hotword_folders import write_folder

HOTWORDS = ["今天", "北京大学", "hello world"]


@pytest.fixture(scope="module")
def seaco(tmp_path_factory):
    settings = ("inference.max_segment_s=1", "inference.batch_size=2", "inference.whole_up_to_s=1")
    return asr.load(write_folder(tmp_path_factory.mktemp("seaco") / "seaco", "seaco"), overrides=settings)


@pytest.fixture(scope="module")
def waves():
    """All of one of the few lengths that programs are compiled for."""
    return [draw(n, seed=n) * np.float32(0.1) for n in (13000, 15500, 14200)]


def recognise(seaco, pair, hotwords):
    return [recognition for _, recognition in seaco.recognise_many(enumerate(pair), hotwords)]


def test_what_else_is_in_the_batch_does_not_change_an_answer(seaco, waves):
    hotwords = seaco.read_hotwords(HOTWORDS)
    beside = [recognise(seaco, [waves[0], other], hotwords)[0] for other in waves[1:]]
    for name in ("ids", "confidence", "start_s", "end_s"):
        np.testing.assert_array_equal(getattr(beside[0], name), getattr(beside[1], name))
    assert (beside[0].ids != recognise(seaco, waves[:2], ())[0].ids).any()


def test_an_empty_list_compares_with_no_hot_word_and_none_does_not(seaco, waves):
    texts = [[t.text for t in seaco.transcribe(waves[:2], 16000, hotwords=hotwords)] for hotwords in (None, [], "")]
    plain = [seaco.tokenizer.decode(recognition.ids) for recognition in recognise(seaco, waves[:2], ())]
    assert texts[0] == plain != texts[1] == texts[2]


def test_words_that_became_unknown_are_logged(seaco, caplog):
    with caplog.at_level(logging.WARNING, "asr"):
        seaco.read_hotwords("今天, it12, 龙井")
    (record,) = caplog.records
    assert record.message.endswith("no tokens for them: 'it12' ('it12'), '龙井' ('龙', '井')")


def test_a_model_folder_has_all_of_it_but_hot_words_in_the_program(seaco, tmp_path):
    asr.save(seaco, tmp_path / "saved")
    again = asr.load(tmp_path / "saved")
    assert again.config.model == seaco.config.model
    assert again.tokenizer == seaco.tokenizer
    jax.tree.map(np.testing.assert_array_equal, again.variables, seaco.variables)
    assert "The program takes no hot words" in (tmp_path / "saved" / "README.txt").read_text()
