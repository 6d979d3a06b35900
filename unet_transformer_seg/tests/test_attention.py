"""Attention against three nested loops, under masks drawn as matrices, in every implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.ops import attention as attention_ops
from seg.ops.attention import attention, attention_weights

# Row s, column j: 1 = token s may attend to token j.
MASKS = {
    "causal": [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
    "itself": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "padded": [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]],
    "ragged": [[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 0]],
}


def draw(dtype=jnp.float32, b=2, s=4, j=4, a=2, e=8):
    random = np.random.default_rng(0)
    shapes = [(b, s, a, e), (b, j, a, e), (b, j, a, e)]
    return [random.normal(size=shape).astype(dtype) for shape in shapes]


def loop_attention(q_bsae, k_bjae, v_bjae, mask_bsj):
    """Vaswani et al., equation 1, one token and one head at a time, in float64."""
    q_bsae, k_bjae, v_bjae = (np.asarray(x, np.float64) for x in (q_bsae, k_bjae, v_bjae))
    out_bsae = np.zeros(q_bsae.shape)
    for b, s, a in np.ndindex(*q_bsae.shape[:3]):
        seen = [j for j in range(k_bjae.shape[1]) if mask_bsj[b, s, j]]
        scores = [q_bsae[b, s, a] @ k_bjae[b, j, a] / np.sqrt(q_bsae.shape[-1]) for j in seen]
        for j, score in zip(seen, scores, strict=True):
            out_bsae[b, s, a] += np.exp(score) / sum(np.exp(scores)) * v_bjae[b, j, a]
    return out_bsae


def as_mask(name, b=2):
    return np.broadcast_to(np.asarray(MASKS[name], bool), (b, 4, 4))


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
@pytest.mark.parametrize("name", MASKS)
def test_attention_is_the_loop(name, implementation):
    q, k, v = draw()
    mask = as_mask(name)
    out = attention(q, k, v, mask, implementation=implementation)
    np.testing.assert_allclose(out, loop_attention(q, k, v, mask), atol=2e-6)


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
def test_queries_and_keys_may_differ_in_number(implementation):
    q, k, v = draw(s=3, j=5)
    everything = np.ones((2, 3, 5), bool)
    out = attention(q, k, v, implementation=implementation)
    np.testing.assert_allclose(out, loop_attention(q, k, v, everything), atol=2e-6)
    np.testing.assert_allclose(out, attention(q, k, v, everything), atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_implementations_agree_in_value_and_gradient(dtype):
    qkv, mask = draw(dtype), as_mask("ragged")
    target = np.random.default_rng(1).normal(size=qkv[0].shape).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=1)
    @jax.value_and_grad
    def loss(qkv, implementation):
        out = attention(*qkv, mask, implementation=implementation)
        assert out.dtype == dtype
        return jnp.vdot(out.astype(jnp.float32), target)

    explicit, xla = (jax.device_get(loss(qkv, name)) for name in ("explicit", "xla"))
    tolerance = 1e-5 if dtype == jnp.float32 else 0.08
    single = lambda tree: jax.tree.map(np.float32, tree)  # noqa: E731
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance), single(explicit), single(xla))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(single(explicit)))


@functools.partial(jax.jit, static_argnums=4)
def first_channel_jacobian(q, k, v, mask, implementation):
    return jax.jacobian(lambda v: attention(q, k, v, mask, implementation=implementation)[0, :, 0, 0])(v)


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
@pytest.mark.parametrize("name", MASKS)
def test_gradients_flow_exactly_where_the_mask_is_one(name, implementation):
    q, k, v = draw(b=1, a=1)
    mask = as_mask(name, b=1)
    jacobian = first_channel_jacobian(q, k, v, mask, implementation)
    reached_sj = np.abs(jacobian[:, 0, :, 0]).max(-1) > 0
    np.testing.assert_array_equal(reached_sj.astype(int), MASKS[name])


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
def test_padding_changes_nothing(implementation):
    q, k, v = draw(s=4, j=4)
    padding = [x[:, :3] * 50 for x in (v, k)]
    longer = [np.concatenate(pair, 1) for pair in zip((k, v), padding, strict=True)]
    mask = np.broadcast_to(np.arange(7) < 4, (2, 4, 7))
    padded = attention(q, *longer, mask, implementation=implementation)
    np.testing.assert_allclose(padded, attention(q, k, v, implementation=implementation), atol=1e-6)


def test_weights_are_shares():
    q, k, _ = draw()
    weights = np.asarray(attention_weights(q, k, as_mask("ragged")))
    assert weights.shape == (2, 2, 4, 4) and weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1)[0, 0], [1, 1, 0, 1], atol=1e-6)
    assert ((weights > 0) == np.asarray(MASKS["ragged"], bool)[None, None]).all()


def test_the_softmax_is_computed_in_float32():
    """Scores of ±2000 in bfloat16 neither overflow nor lose the small differences of the exponents."""
    q, k, v = draw(jnp.bfloat16)
    weights = np.asarray(attention_weights(*(x * jnp.bfloat16(30) for x in (q, k))))
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    exact = loop_attention(q, k, v, np.ones((2, 4, 4)))
    np.testing.assert_allclose(np.float32(attention(q, k, v)), exact, atol=0.02)


def test_the_order_of_the_keys_does_not_matter():
    q, k, v = draw()
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(attention(q, k[:, order], v[:, order]), attention(q, k, v), atol=1e-6)


def test_without_the_packages_for_gpus_cudnn_falls_back_with_a_warning(monkeypatch):
    monkeypatch.setattr(attention_ops, "has_cudnn", lambda: False)
    q, k, v = draw(jnp.bfloat16)
    with pytest.warns(RuntimeWarning, match=r"cudnn needs jax's packages for NVIDIA GPUs") as warned:
        out = attention(q, k, v, implementation="cudnn")
    assert len(warned) == 1
    np.testing.assert_array_equal(out, attention(q, k, v))


@pytest.mark.parametrize(
    ("dtype", "e", "s", "said"),
    [(jnp.float32, 8, 4, "bfloat16"), (jnp.bfloat16, 12, 4, "multiple of 8"), (jnp.bfloat16, 8, 3, "even numbers")],
)
def test_what_cudnn_refuses_is_known_while_tracing(monkeypatch, dtype, e, s, said):
    monkeypatch.setattr(attention_ops, "has_cudnn", lambda: True)
    q, k, v = draw(dtype, s=s, e=e)
    with pytest.warns(RuntimeWarning, match=said):
        out = attention(q, k, v, np.ones((2, s, 4), bool), implementation="cudnn")
    np.testing.assert_array_equal(out, attention(q, k, v, np.ones((2, s, 4), bool)))


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("masked", [False, True])
def test_cudnn_agrees_with_the_explicit_form(masked):
    q, k, v = draw(jnp.bfloat16, s=64, j=64, e=32)
    mask = jnp.tril(jnp.ones((2, 64, 64), bool)).at[:, 5].set(False) if masked else None

    def loss(qkv, implementation):
        return jnp.square(attention(*qkv, mask, implementation=implementation).astype(jnp.float32)).sum()

    fused, explicit = (jax.value_and_grad(loss)((q, k, v), name) for name in ("cudnn", "explicit"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0.03, atol=0.05), fused, explicit)


def test_wrong_shapes_and_names_are_refused():
    q, k, v = draw()
    with pytest.raises(ValueError, match="expected explicit, xla or cudnn, found 'flash'"):
        attention(q, k, v, implementation="flash")
    with pytest.raises(AssertionError):
        attention(q, k[:, :, :1], v[:, :, :1])
    with pytest.raises(AssertionError):
        attention(q, k, v, jnp.ones((4, 4), bool))
    with pytest.raises(AssertionError):
        attention(q, k, v, jnp.ones((2, 4, 4)))
