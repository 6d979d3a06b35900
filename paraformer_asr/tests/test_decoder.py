"""The parallel decoder: what each kind of block is, and that padding on either side changes nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.config import DecoderConfig
from asr.models.decoder import Decoder
from asr.ops.masks import length_mask

B, U, T, D, V = 2, 6, 9, 8, 11
SMALL = DecoderConfig(num_layers=2, num_memory_layers=1, num_ffn_layers=1, num_heads=2, ffn_width=16, kernel_size=3)


@functools.cache
def run(module):
    """Return the compiled `module.apply`."""
    return jax.jit(module.apply, static_argnames=("train", "method", "num_rows"))


def start(key, **changes):
    decoder = Decoder(dataclasses.replace(SMALL, **changes), D, V)
    embedding, hidden = jax.random.normal(key, (B, U, D)), jax.random.normal(key, (B, T, D))
    token_valid, mask = length_mask(jnp.array([U, 4]), U), length_mask(jnp.array([T, 5]), T)[:, None]
    given = embedding, token_valid, hidden, mask
    return decoder, jax.jit(lambda: decoder.init({"params": key}, *given, train=False))(), given


def test_logits_are_float32_and_all_parameters_but_the_sampler_s_learn(key):
    decoder, variables, given = start(key)
    logits = run(decoder)(variables, *given, train=False)
    assert logits.shape == (B, U, V) and logits.dtype == jnp.float32
    gradients = jax.jit(jax.grad(lambda v: jnp.square(decoder.apply(v, *given, train=False)).sum()))(variables)
    flat = jax.tree_util.tree_leaves_with_path(gradients)
    still = {jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0}
    assert still == {"['params']['embedding']"}


def test_padding_of_tokens_and_of_frames_changes_nothing(key):
    decoder, variables, (embedding, token_valid, hidden, mask) = start(key)

    def tokens(embedding, hidden):
        return run(decoder)(variables, embedding, token_valid, hidden, mask, train=False)[1, :4]

    gradient = jax.jit(jax.grad(lambda *x: jnp.square(tokens(*x)).sum(), argnums=(0, 1)))
    by_embedding, by_hidden = gradient(embedding, hidden)
    assert not by_embedding[1, 4:].any() and not by_hidden[1, 5:].any() and by_hidden[1, :5].any()
    alone = run(decoder)(
        variables, embedding[1:, :4], jnp.ones((1, 4), bool), hidden[1:, :5], jnp.ones((1, 1, 5), bool), train=False
    )
    np.testing.assert_allclose(tokens(embedding, hidden), alone[0], atol=2e-5)


@pytest.mark.parametrize(
    ("layers", "sees_hidden", "sees_neighbours"),
    [((1, 0, 0), True, True), ((0, 1, 0), False, True), ((0, 0, 1), False, False)],
)
def test_what_each_kind_of_block_sees(key, layers, sees_hidden, sees_neighbours):
    attending, memory, ffn = layers
    decoder, variables, (embedding, _, hidden, _) = start(
        key, num_layers=attending, num_memory_layers=memory, num_ffn_layers=ffn
    )

    def token(embedding, hidden):
        valid, mask = jnp.ones((B, U), bool), jnp.ones((B, 1, T), bool)
        return jnp.square(run(decoder)(variables, embedding, valid, hidden, mask, train=False)[0, 2]).sum()

    by_embedding, by_hidden = jax.jit(jax.grad(token, argnums=(0, 1)))(embedding, hidden)
    assert by_hidden.any() == sees_hidden
    reached_u = np.abs(by_embedding[0]).sum(-1) > 0
    assert reached_u.tolist() == [n == 2 or (sees_neighbours and abs(n - 2) <= 1) for n in range(U)]


def test_a_block_without_a_residual_of_the_feed_forward_network(key):
    """With a zero memory and zero attention the block is the identity: the feed-forward result is not added itself."""
    decoder, variables, (embedding, token_valid, hidden, mask) = start(
        key, num_layers=1, num_memory_layers=0, num_ffn_layers=0
    )
    block = variables["params"]["block0"]
    # the memory adds norm2's vector itself, so that is silenced too
    for name in ("norm2", "out"):
        block[name] = jax.tree.map(jnp.zeros_like, block[name])
    logits = run(decoder)(variables, embedding, token_valid, hidden, mask, train=False)
    normal = (embedding - embedding.mean(-1, keepdims=True)) / embedding.std(-1, keepdims=True)
    output = variables["params"]["output"]
    np.testing.assert_allclose(logits, normal @ output["kernel"], atol=1e-4)


def test_embed_looks_up_the_labels(key):
    decoder, variables, _ = start(key)
    tokens = jnp.array([[3, 1], [0, 10]])
    np.testing.assert_array_equal(
        run(decoder)(variables, tokens, method="embed"), np.asarray(variables["params"]["embedding"])[tokens]
    )


def test_remat_is_on_when_asked_for_and_changes_no_gradient(key):
    plain, variables, given = start(key)
    saving = Decoder(SMALL, D, V, remat=True)

    def loss(decoder):
        return lambda v: jnp.square(decoder.apply(v, *given, train=True, rngs={"dropout": key})).sum()

    assert "remat" in str(jax.make_jaxpr(loss(saving))(variables))
    gradients = (jax.jit(jax.grad(loss(decoder)))(variables) for decoder in (plain, saving))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *gradients)
