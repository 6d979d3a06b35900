"""The transformer: its loop over layers, masks, positions, dropout and stochastic depth."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.config import TransformerConfig
from seg.models.transformer import Block, FeedForward, MultiHeadAttention, Transformer, skip_rates

CONFIG = TransformerConfig(num_layers=3, num_heads=2, mlp_ratio=2.0, dropout=0.0)
B, S, D = 2, 5, 8


def tokens(b=B, s=S, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(b, s, D)), jnp.float32)


@functools.cache
def params_of(module):
    inputs = {Block: (0.0, None, False), FeedForward: (False,)}.get(type(module), ())
    kwargs = {"train": False} if isinstance(module, Transformer) else {}
    variables = jax.jit(lambda: module.init(jax.random.key(0), tokens(), *inputs, **kwargs))()
    random = np.random.default_rng(1)  # biases, too, are not zero
    return jax.tree.map(lambda x: x + random.normal(size=x.shape).astype(np.float32) * 0.1, variables)


@functools.partial(jax.jit, static_argnums=(0, 4))
def apply(module, variables, x_bsd, mask_bsj=None, train=False, key=None):
    return module.apply(variables, x_bsd, mask_bsj, train=train, rngs=None if key is None else {"dropout": key})


def test_the_loop_over_layers_is_block_after_block():
    model, x = Transformer(CONFIG), tokens()
    variables = params_of(model)
    expected = x
    for layer in range(3):
        params = jax.tree.map(lambda p: p[layer], variables["params"]["blocks"])  # noqa: B023
        expected, _ = Block(CONFIG).apply({"params": params}, expected, 0.0, None, False)
    centred = expected - expected.mean(-1, keepdims=True)
    norm = variables["params"]["norm"]
    expected = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    expected = expected * norm["scale"].reshape(1, 1, -1) + norm["bias"].reshape(1, 1, -1)
    np.testing.assert_allclose(apply(model, variables, x), expected, atol=1e-5)


def test_the_layers_start_different():
    fresh = jax.jit(lambda: Transformer(CONFIG).init(jax.random.key(0), tokens(), train=False))()
    kernel = fresh["params"]["blocks"]["attention"]["query"]["kernel"]
    assert kernel.shape == (3, D, 2, D // 2)
    assert jnp.abs(kernel[0] - kernel[1]).max() > 0.1


def test_attention_projects_and_joins_its_heads():
    module, x = MultiHeadAttention(CONFIG), tokens()
    variables = params_of(module)
    p = jax.tree.map(np.asarray, variables["params"])
    assert "bias" not in p["key"]
    expected = np.tile(p["out"]["bias"], (B, S, 1))
    for head in range(2):
        q, k, v = (x @ p[name]["kernel"][:, head] for name in ("query", "key", "value"))
        q, v = q + p["query"]["bias"][head].reshape(1, 1, -1), v + p["value"]["bias"][head].reshape(1, 1, -1)
        weights = np.asarray(jax.nn.softmax(jnp.einsum("bse,bje->bsj", q, k) / np.sqrt(D // 2)))
        expected += np.einsum("bsj,bje,ed->bsd", weights, v, p["out"]["kernel"][head])
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


def test_feed_forward_treats_each_token_alone():
    module = FeedForward(CONFIG)
    variables = params_of(module)
    p = jax.tree.map(np.asarray, variables["params"])
    hidden = np.asarray(tokens()) @ p["dense1"]["kernel"] + p["dense1"]["bias"]
    erf = np.vectorize(math.erf)
    expected = (hidden * (1 + erf(hidden / np.sqrt(2))) / 2) @ p["dense2"]["kernel"] + p["dense2"]["bias"]
    np.testing.assert_allclose(module.apply(variables, tokens(), False), expected, atol=1e-5)


def test_the_order_of_the_tokens_is_known_only_through_positions():
    model, order = Transformer(CONFIG), np.array([3, 0, 4, 1, 2])
    variables = params_of(model)
    shuffled = apply(model, variables, tokens()[:, order])
    np.testing.assert_allclose(shuffled, apply(model, variables, tokens())[:, order], atol=1e-5)


def test_masked_tokens_change_nothing():
    model, x = Transformer(CONFIG), tokens(s=7)
    variables = params_of(model)
    valid_bs = np.broadcast_to(np.arange(7) < S, (B, 7))
    mask = jnp.asarray(valid_bs[:, :, None] & valid_bs[:, None, :])
    np.testing.assert_allclose(apply(model, variables, x, mask)[:, :S], apply(model, variables, x[:, :S]), atol=1e-5)


def test_a_mask_limits_who_sees_whom():
    mask = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 1, 1]])
    model = Transformer(CONFIG)
    variables, x = params_of(model), tokens(b=1)
    target = jnp.asarray(np.random.default_rng(2).normal(size=D), jnp.float32)
    jacobian = jax.jit(jax.jacobian(lambda x: apply(model, variables, x, jnp.asarray(mask[None], bool))[0] @ target))(x)
    reached = np.abs(jacobian[:, 0]).max(-1) > 1e-7
    through_three_layers = np.linalg.matrix_power(mask, 3) > 0
    np.testing.assert_array_equal(reached.astype(int), through_three_layers.astype(int))


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
def test_the_implementation_is_taken_from_the_config(implementation):
    config = dataclasses.replace(CONFIG, attention=implementation)
    variables = params_of(Transformer(CONFIG))
    out = apply(Transformer(config), variables, tokens())
    np.testing.assert_allclose(out, apply(Transformer(CONFIG), variables, tokens()), atol=1e-5)


def test_dropout_is_drawn_from_the_key_layer_by_layer():
    model = Transformer(dataclasses.replace(CONFIG, dropout=0.5))
    variables = params_of(Transformer(CONFIG))
    results = [apply(model, variables, tokens(), None, True, jax.random.key(n)) for n in (1, 1, 2)]
    np.testing.assert_array_equal(results[0], results[1])
    assert jnp.abs(results[0] - results[2]).max() > 0.1
    in_inference = apply(model, variables, tokens())
    np.testing.assert_array_equal(in_inference, apply(Transformer(CONFIG), variables, tokens()))


def test_stochastic_depth_leaves_branches_out_at_the_rate():
    """Two branches, each left out with probability ¼: 9/16 of the images have both, 1/16 none."""
    block = Block(dataclasses.replace(CONFIG, stochastic_depth=0.9))
    variables, x = params_of(Block(CONFIG)), jnp.repeat(tokens(b=1), 400, 0)

    @jax.jit
    def run(rate):
        return block.apply(variables, x, rate, None, True, rngs={"dropout": jax.random.key(3)})[0]

    out = np.asarray(run(0.25))
    kinds, counts = np.unique(out[:, 0].round(4), axis=0, return_counts=True)
    assert len(kinds) == 4
    untouched = np.abs(out - np.asarray(x)).max((1, 2)) < 1e-6
    assert 0.03 < untouched.mean() < 0.1
    assert 0.47 < counts.max() / 400 < 0.65
    np.testing.assert_array_equal(run(0.0), jnp.repeat(run(0.0)[:1], 400, 0))


def test_a_kept_branch_is_enlarged_so_that_its_mean_stays():
    block = Block(dataclasses.replace(CONFIG, stochastic_depth=0.9))
    variables, x = params_of(Block(CONFIG)), tokens(b=1)
    zeroed = jax.tree.map(lambda p: p, variables)
    last = zeroed["params"]["feed_forward"]  # both branches are drawn, but the second one adds nothing
    last["dense2"] = jax.tree.map(jnp.zeros_like, last["dense2"])
    branch = Block(CONFIG).apply(zeroed, x, 0.0, None, False)[0] - x
    many = jnp.repeat(x, 16, 0)
    out = block.apply(zeroed, many, 0.5, None, True, rngs={"dropout": jax.random.key(0)})[0] - many
    factors = {round(float(jnp.vdot(o, branch[0]) / jnp.vdot(branch, branch)), 3) for o in out}
    assert factors == {0.0, 2.0}


def test_later_blocks_are_left_out_more_often():
    np.testing.assert_allclose(skip_rates(0.9, 3), [0.3, 0.6, 0.9], rtol=1e-6)
    model = Transformer(dataclasses.replace(CONFIG, num_layers=1, stochastic_depth=0.9))
    variables = params_of(Transformer(dataclasses.replace(CONFIG, num_layers=1)))
    out = apply(model, variables, jnp.repeat(tokens(b=1), 200, 0), None, True, jax.random.key(0))
    _, counts = np.unique(np.asarray(out)[:, 0].round(4), axis=0, return_counts=True)
    assert 0.7 < counts.max() / 200 < 0.9  # both branches of the only block: 0.9²


def test_the_stream_does_not_grow_with_the_depth():
    """Fresh blocks add little: after 16 of them the tokens are at most about twice as large."""
    config = dataclasses.replace(CONFIG, num_layers=16)
    fresh = jax.jit(lambda: Transformer(config).init(jax.random.key(0), tokens(s=32), train=False))()

    def step(x, params):
        return Block(config).apply({"params": params}, x, 0.0, None, False)[0], None

    x = tokens(s=32)
    after, _ = jax.jit(lambda x: jax.lax.scan(step, x, fresh["params"]["blocks"]))(x)
    assert 1.0 < jnp.sqrt(jnp.square(after).mean() / jnp.square(x).mean()) < 2.0


def test_heads_must_divide_the_width():
    module = MultiHeadAttention(dataclasses.replace(CONFIG, num_heads=3))
    with pytest.raises(ValueError, match="3 heads do not divide the model width 8"):
        module.init(jax.random.key(0), tokens())
