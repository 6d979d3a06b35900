"""The encoders: shapes, causality and independence of padding by gradient, the scanned and the recomputed form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.config import EncoderConfig
from asr.models.encoder import Encoder
from asr.models.stacking import stack_blocks, unstack_blocks
from asr.ops.masks import length_mask

B, T, WIDTH_IN, D = 2, 12, 10, 8
SMALL = EncoderConfig(num_layers=2, width=D, num_heads=2, ffn_width=16, kernel_size=3, dropout=0.2)
KINDS = ("sanm", "conformer", "conv")
PROBE = np.cos(np.arange(D), dtype=np.float32)
"""Weights of a frame's channels in tests of gradients: the last norm makes their plain sum, and that of their squares,
the same for every frame."""


@functools.cache
def run(module):
    """Return the compiled `module.apply`."""
    return jax.jit(module.apply, static_argnames=("train", "method", "num_rows"))


def build(kind, **changes):
    return Encoder(dataclasses.replace(SMALL, kind=kind, **changes))


def start(encoder, key):
    features = jax.random.normal(key, (B, T, WIDTH_IN))
    valid = length_mask(jnp.array([T, 7]), T)
    return jax.jit(lambda: encoder.init({"params": key}, features, valid, train=False))(), features, valid


@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_parameters_with_gradient(key, kind):
    encoder = build(kind)
    variables, features, valid = start(encoder, key)
    assert run(encoder)(variables, features, valid, train=False).shape == (B, T, D)

    @jax.jit
    @jax.grad
    def gradient(variables):
        return (encoder.apply(variables, features, valid, train=False) * PROBE[None, None]).sum()

    gradients = gradient(variables)
    flat = jax.tree_util.tree_leaves_with_path(gradients)
    still = [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0]
    assert not still, still


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_in_real_frames(key, kind):
    """By values and by gradient: no real frame depends on a padded one, the other way round is free."""
    encoder = build(kind)
    variables, features, valid = start(encoder, key)

    def real_frames(x):
        return run(encoder)(variables, x, valid, train=False)[1, :7]

    gradient = jax.jit(jax.grad(lambda x: (real_frames(x) * PROBE[None]).sum()))(features)
    assert not gradient[1, 7:].any() and gradient[1, :7].any() and not gradient[0].any()
    alone = run(encoder)(variables, features[1:, :7], jnp.ones((1, 7), bool), train=False)
    np.testing.assert_allclose(real_frames(features.at[1, 7:].set(99.0)), alone[0], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_causal_encoder_sees_no_later_frame(key, kind):
    encoder = build(kind, causal=True)
    variables, features, _ = start(encoder, key)

    def frames(x):
        return run(encoder)(variables, x, jnp.ones((1, T), bool), train=False)[0] @ PROBE

    influence_tj = np.abs(jax.jit(jax.jacobian(frames))(features[:1])[:, 0]).sum(-1)
    assert not np.triu(influence_tj, 1).any() and (np.diag(influence_tj) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_scanned_encoder_is_the_unrolled_one(key, kind):
    unrolled, scanned = build(kind, num_layers=3), build(kind, num_layers=3, scan=True)
    variables, features, valid = start(unrolled, key)
    stacked = stack_blocks({"encoder": variables["params"]})["encoder"]
    shapes = jax.eval_shape(lambda: scanned.init({"params": key}, features, valid, train=False))["params"]
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, shapes)
    expected = run(unrolled)(variables, features, valid, train=False)
    by_scan = run(scanned)({"params": stacked}, features, valid, train=False)
    np.testing.assert_allclose(by_scan, expected, atol=1e-5)
    back = unstack_blocks({"encoder": stacked})["encoder"]
    assert jax.tree.structure(back) == jax.tree.structure(variables["params"])
    jax.tree.map(np.testing.assert_array_equal, back, variables["params"])


@pytest.mark.parametrize("scan", [False, True])
def test_remat_changes_memory_but_no_gradient(key, scan):
    config = dataclasses.replace(SMALL, num_layers=3, scan=scan)
    plain, saving = Encoder(config), Encoder(config, remat=True)
    variables, features, valid = start(plain, key)

    def gradient(encoder):
        def loss(v):
            hidden = encoder.apply(v, features, valid, train=True, rngs={"dropout": key})
            return (hidden * PROBE[None, None]).sum()

        return jax.jit(jax.grad(loss)), loss

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *(gradient(e)[0](variables) for e in (plain, saving))
    )
    assert "remat" in str(jax.make_jaxpr(gradient(saving)[1])(variables))
    assert "remat" not in str(jax.make_jaxpr(gradient(plain)[1])(variables))


def test_dropout_acts_in_training_alone(keys):
    encoder = build("sanm", attention_dropout=0.2, input_dropout=0.2)
    variables, features, valid = start(encoder, keys())
    one_key, other_key = keys(), keys()
    one, other, again = (
        run(encoder)(variables, features, valid, train=True, rngs={"dropout": key})
        for key in (one_key, other_key, other_key)
    )
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(other, again)


def test_the_first_sanm_block_changes_the_width_without_a_residual(key):
    """With zero projections nothing of the input is left: there is no residual around the first block."""
    encoder = Encoder(dataclasses.replace(SMALL, num_layers=1))
    variables, features, valid = start(encoder, key)
    block = variables["params"]["block0"]
    for name in ("out", "memory"):
        block[name] = jax.tree.map(jnp.zeros_like, block[name])
    block["qkv"] = jax.tree.map(jnp.zeros_like, block["qkv"])
    hidden = run(encoder)(variables, features, valid, train=False)
    np.testing.assert_allclose(hidden - hidden[:1, :1], 0, atol=1e-6)


def test_positions_tell_frames_apart(key):
    features, valid = jnp.ones((1, T, WIDTH_IN)), jnp.ones((1, T), bool)
    for position, differs in (("sincos", True), ("none", False)):
        encoder = Encoder(dataclasses.replace(SMALL, position=position, kernel_size=1))
        variables = jax.jit(lambda encoder=encoder: encoder.init({"params": key}, features, valid, train=False))()
        hidden = run(encoder)(variables, features, valid, train=False)
        assert (np.abs(hidden - hidden[:, :1]).max() > 1e-3) == differs
