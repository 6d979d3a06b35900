"""The encoders: shapes, causality and independence of padding by gradient, the scanned and the recomputed form."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from asr.config import EncoderConfig
from asr.models.encoder import Encoder
from asr.models.stacking import stack_blocks, unstack_blocks
from drawn import draw, draw_like

B, T, WIDTH_IN, D = 2, 12, 10, 8
SMALL = EncoderConfig(num_layers=2, width=D, num_heads=2, ffn_width=16, kernel_size=3, dropout=0.2)
LAYERS = {"sanm": 2, "conformer": 1, "conv": 1}
"""By kind: as many blocks as differ; the first SAN-M block changes the width."""

KINDS = list(LAYERS)
PROBE = np.cos(np.arange(D), dtype=np.float32)
"""Weights of a frame's channels in tests of gradients: the last norm makes their plain sum, and that of their squares,
the same for every frame."""


VALID = np.arange(T) < np.array([[T], [7]])


@functools.cache
def run(module):
    """Return the compiled `module.apply`."""
    return jax.jit(module.apply, static_argnames=("train", "method", "num_rows"))


def build(kind, **changes):
    return Encoder(dataclasses.replace(SMALL, **{"kind": kind, "num_layers": LAYERS[kind]} | changes))


def start(encoder):
    features = draw(B, T, WIDTH_IN)
    shapes = jax.eval_shape(lambda: encoder.init({"params": jax.random.key(0)}, features, VALID, train=False))
    return draw_like(shapes), features


@functools.cache
def slopes(encoder):
    """Return the compiled function (variables, features) → frames, and the gradient of the second utterance's."""

    def score(variables, features):
        hidden = encoder.apply(variables, features, VALID, train=False)
        return (hidden[1, :7] * PROBE[None]).sum(), hidden

    return jax.jit(jax.grad(score, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_parameters_with_gradient(kind):
    encoder = build(kind)
    (gradients, _), hidden = slopes(encoder)(*start(encoder))
    assert hidden.shape == (B, T, D)
    flat = jax.tree_util.tree_leaves_with_path(gradients)
    still = [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0]
    assert not still, still


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_in_real_frames(kind):
    """By values and by gradient: no real frame depends on a padded one, the other way round is free."""
    encoder = build(kind)
    variables, features = start(encoder)
    gradient = np.asarray(slopes(encoder)(variables, features)[0][1])
    assert not gradient[1, 7:].any() and gradient[1, :7].any() and not gradient[0].any()
    alone = run(encoder)(variables, features[1:, :7], np.ones((1, 7), bool), train=False)
    features[1, 7:] = 99
    np.testing.assert_allclose(slopes(encoder)(variables, features)[1][1, :7], alone[0], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_causal_encoder_sees_no_later_frame(kind):
    encoder = build(kind, causal=True)
    variables, features = start(encoder)

    def frames(x):
        return encoder.apply(variables, x, np.ones((1, T), bool), train=False)[0] @ PROBE

    influence_tj = np.abs(jax.jit(jax.jacobian(frames))(features[:1])[:, 0]).sum(-1)
    assert not np.triu(influence_tj, 1).any() and (np.diag(influence_tj) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_scanned_encoder_is_the_unrolled_one(kind):
    layers = LAYERS[kind] + 1
    unrolled, scanned = build(kind, num_layers=layers), build(kind, num_layers=layers, scan=True)
    variables, features = start(unrolled)
    stacked = jax.jit(stack_blocks)({"encoder": variables["params"]})["encoder"]
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, start(scanned)[0]["params"])
    expected = run(unrolled)(variables, features, VALID, train=False)
    by_scan = run(scanned)({"params": stacked}, features, VALID, train=False)
    np.testing.assert_allclose(by_scan, expected, atol=1e-5)
    back = jax.jit(unstack_blocks)({"encoder": stacked})["encoder"]
    assert jax.tree.structure(back) == jax.tree.structure(variables["params"])
    jax.tree.map(np.testing.assert_array_equal, back, variables["params"])


@pytest.mark.parametrize("scan", [False, True])
def test_remat_changes_memory_but_no_gradient(key, scan):
    config = dataclasses.replace(SMALL, num_layers=1 + scan, scan=scan)
    variables, features = start(Encoder(config))

    def gradient(encoder):
        def loss(v):
            hidden = encoder.apply(v, features, VALID, train=True, rngs={"dropout": key})
            return (hidden * PROBE[None, None]).sum()

        return jax.jit(jax.grad(loss)).trace(variables)

    plain, saving = gradient(Encoder(config)), gradient(Encoder(config, remat=True))
    assert "remat" in str(saving.jaxpr) and "remat" not in str(plain.jaxpr)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        *(traced.lower().compile()(variables) for traced in (plain, saving)),
    )


def test_dropout_acts_in_training_alone(keys):
    encoder = build("sanm", attention_dropout=0.2, input_dropout=0.2)
    variables, features = start(encoder)
    one_key, other_key = keys(), keys()
    one, other, again = (
        run(encoder)(variables, features, VALID, train=True, rngs={"dropout": key})
        for key in (one_key, other_key, other_key)
    )
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(other, again)


def test_the_first_sanm_block_changes_the_width_without_a_residual():
    """With zero projections nothing of the input is left: there is no residual around the first block."""
    encoder = Encoder(dataclasses.replace(SMALL, num_layers=1))
    variables, features = start(encoder)
    block = variables["params"]["block0"]
    for name in ("out", "memory"):
        block[name] = jax.tree.map(np.zeros_like, block[name])
    block["qkv"] = jax.tree.map(np.zeros_like, block["qkv"])
    hidden = np.asarray(run(encoder)(variables, features, VALID, train=False))
    np.testing.assert_allclose(hidden - hidden[:1, :1], 0, atol=1e-6)


def test_positions_tell_frames_apart():
    features, valid = np.ones((B, T, WIDTH_IN), np.float32), np.ones((B, T), bool)
    for position, differs in (("sincos", True), ("none", False)):
        encoder = Encoder(dataclasses.replace(SMALL, position=position, kernel_size=1))
        hidden = np.asarray(run(encoder)(start(encoder)[0], features, valid, train=False))
        assert (np.abs(hidden - hidden[:, :1]).max() > 1e-3) == differs
