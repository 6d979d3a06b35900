"""Scores of the validation split: what is counted, and what is handed on to be shown."""

import dataclasses
import types

import numpy as np
import pytest

from asr.config import Config, LossConfig, TokenizerConfig, TrainingConfig
from asr.custom import CustomParts
from asr.data.text.building import build_tokenizer
from asr.data.text.tokenizer import END_ID
from asr.training.evaluate import evaluate
from asr.training.setup import with_selection
from asr.watch.interruption import Interruption
from asr.watch.supervisor import Supervisor

TOKENIZER = build_tokenizer(TokenizerConfig(text_case="lower"), ["a b c d"])
TEXTS = ["AB  cd", "a", "b b"]
NAMES = ["first", "second", "third"]


class ValSet:
    def __len__(self):
        return len(TEXTS)

    def texts(self):
        return TEXTS

    def names(self):
        return NAMES


def ids(text):
    return [*TOKENIZER.encode(text), END_ID]


def results_of(decoded, num_tokens, index_b):
    """Return what the evaluation step returns of one batch in which `decoded` was understood."""
    index_b = np.asarray(index_b)
    tokens_bu = np.zeros((len(decoded), 9), np.int32)
    for row, understood in enumerate(decoded):
        tokens_bu[row, : len(understood)] = understood
    return {
        "sums": {
            "cross_entropy": np.float32(2.0 * num_tokens),
            "quantity": np.float32(0),
            "token_accuracy": np.float32(0.5 * num_tokens),
        },
        "counts": {"tokens": np.int32(num_tokens), "utterances": np.int32((index_b >= 0).sum())},
        "quantity_error_b": np.where(index_b >= 0, 0.5 * (index_b + 1), 99).astype(np.float32),
        "tokens_bu": tokens_bu,
        "token_lengths_b": np.array([len(understood) for understood in decoded], np.int32),
        "mel_btm": np.arange(len(decoded))[:, None, None] + np.zeros((1, 20, 4), np.float32),
        "mel_lengths_b": np.array([10 + row for row in range(len(decoded))], np.int32),
        "feature_lengths_b": np.array([5 + row for row in range(len(decoded))], np.int32),
        "alignment_but": np.ones((len(decoded), 9, 9), np.float32),
    }


def setup(batches, num_pictures=1, loss=None, metrics=None):
    """Return a setup whose evaluation step gives canned results; batches are [(index_b, results)]."""
    answers = iter([results for _, results in batches])
    return types.SimpleNamespace(
        config=Config(training=TrainingConfig(num_sample_pictures=num_pictures), loss=loss or LossConfig()),
        tokenizer=TOKENIZER,
        val_set=ValSet(),
        val_loader=types.SimpleNamespace(
            iterate=lambda: ({"index": np.array(index_b)} for index_b, _ in batches), num_batches=len(batches)
        ),
        put_batch=lambda batch: batch,
        flags={False: 0, True: 1},
        custom=CustomParts(metrics=metrics or {}),
        eval_step=lambda variables, batch, stop: next(answers) | {"stop": stop},
    )


def scores(given):
    """Return what `evaluate` finds with a setup."""
    return evaluate(given, types.SimpleNamespace(variables=None), Supervisor(Interruption()), given.eval_step)


@pytest.fixture
def found():
    """Two batches; the second has a row that only fills it up, in which anything may stand."""
    first = results_of([ids("a"), ids("b c b")], 6, [1, 2])
    second = results_of([ids("ab d"), ids("d d d")], 7, [0, -1])
    given = setup([([1, 2], first), ([0, -1], second)], num_pictures=2)
    return scores(given)


def test_metrics_of_the_callers_own_get_all_texts_in_the_order_of_the_data():
    batch = results_of([ids("a"), ids("b c b"), ids("ab d")], 6, [1, 2, 0])
    metrics = {
        "longer": lambda references, hypotheses: sum(
            len(h) > len(r) for r, h in zip(references, hypotheses, strict=True)
        )
    }
    metrics["first"] = lambda references, hypotheses: float((references[0], hypotheses[0]) == ("ab cd", "ab d"))
    assert scores(setup([([1, 2, 0], batch)], metrics=metrics)).custom == {"longer": 1.0, "first": 1.0}


def test_errors_are_counted_in_words_characters_and_tokens(found):
    # "ab cd" → "ab d", "a" → "a", "b b" → "b c b"
    assert (found.words.substitutions, found.words.insertions, found.words.reference_length) == (1, 1, 5)
    assert (found.characters.deletions, found.characters.insertions, found.characters.reference_length) == (1, 2, 9)
    assert (found.tokens.errors, found.tokens.reference_length) == (1 + 2, 9)  # spaces are tokens
    assert found.rates == {"wer": 2 / 5, "cer": 3 / 9, "ter": 3 / 9}


def test_means_are_over_tokens_or_utterances_and_leave_filled_rows_out(found):
    assert found.loss == pytest.approx(2.0) and found.losses["token_accuracy"] == pytest.approx(0.5)
    assert found.quantity_error == pytest.approx((0.5 + 1.0 + 1.5) / 3)


def test_each_part_of_the_loss_has_its_own_divisor():
    """3 utterances with 13 tokens; the sums are those of training, over all batches."""
    batches = [([1, 2], results_of([ids("a"), ids("b")], 6, [1, 2])), ([0, -1], results_of([[], []], 7, [0, -1]))]
    for _, results in batches:
        results["sums"]["ctc"] = np.float32(6)
    loss = LossConfig(ctc_weight=0.25, ctc_normaliser="utterances")
    losses = scores(setup(batches, loss=loss)).losses
    assert losses["cross_entropy"] == pytest.approx(2.0) and losses["ctc"] == pytest.approx(12 / 3)
    assert losses["loss"] == pytest.approx(0.75 * 2 + 0.25 * 4)
    losses = scores(setup(batches, loss=dataclasses.replace(loss, normaliser="utterances"))).losses
    assert losses["cross_entropy"] == pytest.approx(26 / 3) and losses["token_accuracy"] == pytest.approx(0.5)


def test_the_first_utterances_are_shown_whatever_batch_they_are_in(found):
    shown = [(t.name, t.reference, t.hypothesis) for t in found.transcripts]
    assert shown == [("first", "ab cd", "ab d"), ("second", "a", "a"), ("third", "b b", "b c b")]
    assert [transcribed.name for transcribed, _ in found.alignments] == ["first", "second"]


def test_an_alignment_ends_with_its_tokens_and_its_tail(found):
    first, second = (aligned for _, aligned in found.alignments)
    assert first.tokens == ("a", "b", "▁", "d", "</s>") and second.tokens == ("a", "</s>")
    assert first.alignment_ut.shape == (5, 5 + 1) and second.alignment_ut.shape == (2, 5 + 1)
    assert first.mel_tm.shape == (10, 4) and (first.mel_tm == 0).all()


def test_what_the_tokenizer_does_not_know_counts_as_an_error(monkeypatch):
    monkeypatch.setattr(ValSet, "texts", lambda self: ["aß"])
    monkeypatch.setattr(ValSet, "__len__", lambda self: 1)
    given = setup([([0], results_of([[*TOKENIZER.encode("a"), TOKENIZER.unknown_id, END_ID]], 3, [0]))])
    found = scores(given)
    assert found.transcripts[0].hypothesis == "a"
    assert found.rates == {"wer": 1.0, "cer": 0.5, "ter": 0.5}


@pytest.mark.parametrize(
    ("select_by", "texts", "chosen", "said"),
    [
        ("auto", ["a b", "c d"], "wer", "the best checkpoint is the one with the lowest WER"),
        (
            "auto",
            ["今天天气", "你好"],
            "cer",
            "lowest CER: the model writes no spaces",
        ),
        ("wer", ["今天天气", "你好"], "wer", "wer hardly distinguishes checkpoints"),
        ("ter", ["今天天气", "你好"], "ter", ""),
    ],
)
def test_what_chooses_the_best_checkpoint_is_decided_and_said(select_by, texts, chosen, said, caplog):
    with caplog.at_level("INFO", logger="asr"):
        config = with_selection(Config(training=TrainingConfig(select_by=select_by)), TOKENIZER, texts)
    assert config.training.select_by == chosen
    assert said in caplog.text and bool(said) == bool(caplog.text)
