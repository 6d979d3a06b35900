"""The same error counts as jiwer, and the same losses as torch."""

import random

import jax
import numpy as np
import pytest

jiwer = pytest.importorskip("jiwer")
torch = pytest.importorskip("torch")

from asr.losses import ctc_loss, masked_cross_entropy  # noqa: E402
from asr.metrics import character_errors, sum_counts, word_errors  # noqa: E402


def random_texts(number=300):
    """Return truths and hypotheses of 1 to 14 words from a small vocabulary, half of them close to the truth."""
    generator = random.Random(0)
    vocabulary = ["one", "two", "to", "three", "tree", "four", "for", "o", "你好", "naïve", "É"]
    truths, said = [], []
    for i in range(number):
        truth = [generator.choice(vocabulary) for _ in range(generator.randrange(1, 15))]
        if i % 2:
            words = [generator.choice(vocabulary) for _ in range(generator.randrange(15))]
        else:
            words = [word for word in truth if generator.random() < 0.85]
            words = [generator.choice(vocabulary) if generator.random() < 0.15 else word for word in words]
        truths.append(" ".join(truth))
        said.append("  ".join(words))
    return truths, said


def assert_same(counts, theirs, rate):
    assert (counts.substitutions, counts.deletions, counts.insertions, counts.hits) == (
        theirs.substitutions,
        theirs.deletions,
        theirs.insertions,
        theirs.hits,
    )
    assert counts.rate == pytest.approx(rate, rel=1e-12)


def test_word_errors():
    texts = random_texts()
    for truth, said in zip(*texts, strict=True):
        theirs = jiwer.process_words(truth, said)
        assert_same(word_errors(truth, said), theirs, theirs.wer)
    theirs = jiwer.process_words(*map(list, texts))
    assert_same(sum_counts(map(word_errors, *texts)), theirs, theirs.wer)


def test_character_errors():
    texts = random_texts()
    one_apart = [[" ".join(text.split()) for text in side] for side in texts]  # jiwer counts every blank, we count one
    theirs = jiwer.process_characters(*one_apart)
    assert_same(sum_counts(map(character_errors, *texts)), theirs, theirs.cer)


# ---- losses ----


def run(loss, logits, *rest):
    value, gradient = jax.value_and_grad(loss)(logits, *rest)
    return float(value), np.asarray(gradient)


def assert_same_loss(ours, theirs, logits):
    theirs.backward()
    assert ours[0] == pytest.approx(theirs.item(), rel=2e-6)
    np.testing.assert_allclose(ours[1], logits.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_label_smoothing_loss_of_funasr(smoothing):
    label_smoothing_loss = pytest.importorskip("funasr.losses.label_smoothing_loss")
    rng = np.random.default_rng(0)
    lengths = np.array([7, 4, 0], np.int32)
    logits = (2 * rng.normal(size=(3, 7, 50))).astype(np.float32)
    tokens = rng.integers(0, 50, (3, 7)).astype(np.int32)
    z = torch.tensor(logits, requires_grad=True)
    reference = label_smoothing_loss.LabelSmoothingLoss(50, padding_idx=-1, smoothing=smoothing)
    ignored = np.where(np.arange(7)[None] < lengths[:, None], tokens, -1)
    theirs = 3 * reference(z, torch.tensor(ignored, dtype=torch.int64))  # FunASR divides by the batch size
    ours = run(lambda x: masked_cross_entropy(x, tokens, lengths, smoothing), logits)
    assert_same_loss(ours, theirs, z)


def test_ctc_is_that_of_torch():
    rng = np.random.default_rng(1)
    frame_lengths, lengths = np.array([40, 23, 30, 5, 12], np.int32), np.array([12, 9, 0, 6, 1], np.int32)
    logits = rng.normal(size=(5, 40, 6)).astype(np.float32)
    tokens = rng.integers(1, 6, (5, 12)).astype(np.int32)
    z = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.ctc_loss(
        torch.log_softmax(z, -1).transpose(0, 1),
        torch.tensor(tokens, dtype=torch.int64),
        torch.tensor(frame_lengths, dtype=torch.int64),
        torch.tensor(lengths, dtype=torch.int64),
        reduction="sum",
        zero_infinity=True,  # the fourth row cannot fit
    )
    assert_same_loss(run(ctc_loss, logits, frame_lengths, tokens, lengths), theirs, z)
