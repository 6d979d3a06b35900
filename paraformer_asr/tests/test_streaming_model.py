"""The steps of a stream: the same as the whole utterance at once, in every setting, and independent of neighbours."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from asr.config import StreamingConfig
from asr.models import StreamingParaformer
from asr.models.stream_state import with_room
from drawn import draw
from tiny_model import INPUT_DIM, random_variables, tiny_model

LENGTHS = np.array([23, 12, 0, 7], np.int32)
NUM_FRAMES, NUM_TOKENS = 24, 16
SETTINGS = [
    ((0, 4, 2), 2, 1),
    ((0, 4, 0), 4, 1),
    ((0, 3, 5), 0, 0),
    ((2, 4, 0), -1, -1),
    ((3, 4, 2), 4, 2),
]


def build(chunk_size=(0, 4, 2), encoder=2, decoder=1, **fields):
    settings = StreamingConfig(chunk_size=chunk_size, encoder_look_back=encoder, decoder_look_back=decoder, **fields)
    config = tiny_model(name="streaming", streaming=settings, input_dim=INPUT_DIM)
    return StreamingParaformer(dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, num_layers=2)))


@functools.cache
def variables():
    drawn = random_variables(build().config, scale=0.3)
    # About one token in three frames, so that tokens are carried over the borders of chunks.
    drawn["params"]["predictor"]["bias"] -= 0.7
    return drawn


@functools.cache
def step_of(model):
    return jax.jit(functools.partial(model.apply, method="step"))


def hear(model, features_bti, lengths_b):
    """Return each utterance's logits, heard step by step in one batch, and the points of its tokens."""
    size, layout = model.config.streaming.layout.size, model.config.streaming.layout
    state = model.bind(variables()).start(len(lengths_b))
    pieces = [[] for _ in lengths_b]
    for number in range(lengths_b.max() // size + 1):
        state = with_room(state, layout, (number + 1) * size)
        num_new_b = np.clip(lengths_b - number * size, 0, size).astype(np.int32)
        is_last_b = lengths_b // size == number
        chunk_bti = np.zeros((len(lengths_b), size, INPUT_DIM), np.float32)
        part_bti = features_bti[:, number * size : (number + 1) * size]
        chunk_bti[:, : part_bti.shape[1]] = part_bti
        state, tokens = step_of(model)(variables(), state, chunk_bti, num_new_b, is_last_b)
        for row in np.flatnonzero(lengths_b // size >= number):
            count = int(tokens.token_lengths_b[row])
            pieces[row].append([np.asarray(array[row, :count]) for array in (tokens.logits_buv, tokens.points_bu2)])
    return [[np.concatenate(arrays) for arrays in zip(*of_row, strict=True)] for of_row in pieces]


@functools.cache
def at_once(model):
    def run(features_bti, lengths_b):
        acoustics = model.apply(variables(), features_bti, lengths_b, method="encode")
        return acoustics, model.apply(variables(), acoustics, NUM_TOKENS, method="decode")

    return jax.jit(run)


@pytest.mark.parametrize(("chunk_size", "encoder", "decoder"), SETTINGS)
def test_steps_give_what_the_whole_utterance_gives(chunk_size, encoder, decoder):
    model, features_bti = build(chunk_size, encoder, decoder), draw(len(LENGTHS), NUM_FRAMES, INPUT_DIM)
    acoustics, hypotheses = at_once(model)(features_bti, LENGTHS)
    steps = hear(model, features_bti, LENGTHS)
    counts = [len(logits_uv) for logits_uv, _ in steps]
    assert counts == list(acoustics.token_count_b)
    assert min(counts[:2]) > 2
    assert counts[2] == 0
    for row, (logits_uv, points_u2) in enumerate(steps):
        np.testing.assert_allclose(hypotheses.logits_buv[row, : len(logits_uv)], logits_uv, atol=2e-5)
        assert (np.diff(points_u2.ravel()) >= 0).all()
        assert ((points_u2 >= 0) & (points_u2 <= LENGTHS[row])).all()
