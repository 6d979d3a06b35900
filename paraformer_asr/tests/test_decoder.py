"""The parallel decoder: what each kind of block is, and that padding on either side changes nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.config import DecoderConfig
from asr.models.decoder import Decoder
from drawn import draw, draw_like

B, U, T, D, V = 2, 6, 9, 8, 11
SMALL = DecoderConfig(num_layers=1, num_memory_layers=1, num_ffn_layers=1, num_heads=2, ffn_width=16, kernel_size=3)


@functools.cache
def run(module):
    """Return the compiled `module.apply`."""
    return jax.jit(module.apply, static_argnames=("train", "method", "num_rows"))


def start(**changes):
    decoder = Decoder(dataclasses.replace(SMALL, **changes), D, V)
    token_valid, mask = np.arange(U) < np.array([[U], [4]]), np.arange(T) < np.array([[[T]], [[5]]])
    inputs = draw(B, U, D), token_valid, draw(B, T, D, seed=1), mask
    shapes = jax.eval_shape(lambda: decoder.init({"params": jax.random.key(0)}, *inputs, train=False))
    return decoder, draw_like(shapes), inputs


def test_logits_are_float32_and_all_parameters_but_the_sampler_s_learn():
    decoder, variables, inputs = start()

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def slopes(variables):
        logits = decoder.apply(variables, *inputs, train=False)
        return jnp.square(logits).sum(), logits

    gradients, logits = slopes(variables)
    assert logits.shape == (B, U, V) and logits.dtype == jnp.float32
    flat = jax.tree_util.tree_leaves_with_path(gradients)
    still = {jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0}
    assert still == {"['params']['embedding']"}


def test_padding_of_tokens_and_of_frames_changes_nothing():
    decoder, variables, (embedding, token_valid, hidden, mask) = start()

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def slopes(embedding, hidden):
        tokens = decoder.apply(variables, embedding, token_valid, hidden, mask, train=False)[1, :4]
        return jnp.square(tokens).sum(), tokens

    (by_embedding, by_hidden), tokens = jax.device_get(slopes(embedding, hidden))
    assert not by_embedding[1, 4:].any() and not by_hidden[1, 5:].any() and by_hidden[1, :5].any()
    alone = run(decoder)(
        variables, embedding[1:, :4], np.ones((1, 4), bool), hidden[1:, :5], np.ones((1, 1, 5), bool), train=False
    )
    np.testing.assert_allclose(tokens, alone[0], atol=2e-5)


@pytest.mark.parametrize(
    ("layers", "sees_hidden", "sees_neighbours"),
    [((1, 0, 0), True, True), ((0, 1, 0), False, True), ((0, 0, 1), False, False)],
)
def test_what_each_kind_of_block_sees(layers, sees_hidden, sees_neighbours):
    attending, memory, ffn = layers
    decoder, variables, (embedding, _, hidden, _) = start(
        num_layers=attending, num_memory_layers=memory, num_ffn_layers=ffn
    )

    def token(embedding, hidden):
        valid, mask = np.ones((B, U), bool), np.ones((B, 1, T), bool)
        return jnp.square(decoder.apply(variables, embedding, valid, hidden, mask, train=False)[0, 2]).sum()

    by_embedding, by_hidden = jax.device_get(jax.jit(jax.grad(token, argnums=(0, 1)))(embedding, hidden))
    assert by_hidden.any() == sees_hidden
    reached_u = np.abs(by_embedding[0]).sum(-1) > 0
    assert reached_u.tolist() == [n == 2 or (sees_neighbours and abs(n - 2) <= 1) for n in range(U)]


def test_a_block_without_a_residual_of_the_feed_forward_network():
    """With a zero memory and zero attention the block is the identity: the feed-forward result is not added itself."""
    decoder, variables, (embedding, token_valid, hidden, mask) = start(
        num_layers=1, num_memory_layers=0, num_ffn_layers=0
    )
    block = variables["params"]["block0"]
    # the memory adds norm2's vector itself, so that is silenced too
    for name in ("norm2", "out"):
        block[name] = jax.tree.map(np.zeros_like, block[name])
    logits = run(decoder)(variables, embedding, token_valid, hidden, mask, train=False)
    normal = (embedding - embedding.mean(-1, keepdims=True)) / embedding.std(-1, keepdims=True)
    output = variables["params"]["output"]
    np.testing.assert_allclose(logits, normal @ output["kernel"], atol=1e-4)


def test_embed_looks_up_the_labels():
    decoder, variables, _ = start()
    tokens = np.array([[3, 1], [0, 10]])
    np.testing.assert_array_equal(
        run(decoder)(variables, tokens, method="embed"), variables["params"]["embedding"][tokens]
    )


def test_remat_is_on_when_asked_for_and_changes_no_gradient(key):
    plain, variables, inputs = start()

    def gradient(decoder):
        def loss(v):
            return jnp.square(decoder.apply(v, *inputs, train=True, rngs={"dropout": key})).sum()

        return jax.jit(jax.grad(loss)).trace(variables)

    traced = [gradient(decoder) for decoder in (plain, Decoder(SMALL, D, V, remat=True))]
    assert ["remat" in str(gradient.jaxpr) for gradient in traced] == [False, True]
    gradients = [gradient.lower().compile()(variables) for gradient in traced]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *gradients)
