"""The ResNet of TransUNet: standardised kernels, who is normalised with whom, sizes and skip connections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.models.resnet_v2 import ChannelNorm, GroupNorm32, ResNetV2, StandardisedConv, Unit
from seg.ops.norm import standardise_kernel

QUICK = {"xla_backend_optimization_level": 0}  # compiling takes longer than running here
NUMBERS = ("NHWC", "HWIO", "NHWC")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def drawn_variables(module, x):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    random = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(random.uniform(0.2, 1, s.shape), jnp.float32), shapes)


# ---- kernels ---------------------------------------------------------------------------------------------------


def standardised(kernel):
    kernel = np.asarray(kernel, np.float64)
    return (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-5)


def test_a_kernel_is_standardised_for_each_output():
    kernel = 0.01 * draw(3, 3, 4, 5) * np.linspace(0.5, 3, 5, dtype=np.float32).reshape(1, 1, 1, 5) + 2
    np.testing.assert_allclose(standardise_kernel(kernel), standardised(kernel), rtol=1e-3, atol=1e-3)
    small = 0.003 * draw(1, 1, 6, 2)  # here ε is as large as the variance
    np.testing.assert_allclose(standardise_kernel(small), standardised(small), rtol=1e-4)


def test_the_dtype_of_a_kernel_stays_and_equal_inputs_give_zero():
    assert standardise_kernel(draw(1, 1, 3, 2).astype(jnp.bfloat16)).dtype == jnp.bfloat16
    np.testing.assert_array_equal(standardise_kernel(jnp.full((3, 3, 2, 2), 0.5)), np.zeros((3, 3, 2, 2)))
    with pytest.raises(AssertionError):
        standardise_kernel(draw(3, 3, 2))


@pytest.mark.parametrize(("size", "stride"), [(7, 2), (3, 2), (1, 2), (3, 1)])
def test_the_zeros_lie_on_both_sides_whatever_the_stride(size, stride):
    x, kernel = draw(1, 6, 8, 2), draw(size, size, 2, 3, seed=1)
    sides = [(size // 2, size // 2)] * 2
    expected = jax.lax.conv_general_dilated(
        x, jnp.asarray(standardised(kernel), jnp.float32), (stride, stride), sides, dimension_numbers=NUMBERS
    )
    found = StandardisedConv(3, size, stride).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(found, expected, atol=1e-4)


# ---- norms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "channels", "group_size"),
    [(GroupNorm32, 64, 2), (GroupNorm32, 32, 1), (GroupNorm32, 48, 3), (GroupNorm32, 6, 3), (ChannelNorm, 48, 1)],
)
def test_channels_are_normalised_with_those_of_their_group(norm, channels, group_size):
    x = draw(1, 3, 4, channels)
    variables = {"params": {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}}
    changed = np.abs(norm().apply(variables, x) - norm().apply(variables, x.at[..., 0].multiply(3))).max((0, 1, 2))
    together = np.arange(channels) < group_size
    if group_size == 1:  # a channel alone loses its factor again
        together[:] = False
    np.testing.assert_array_equal(changed > 1e-3, together)


@pytest.mark.parametrize(("norm", "epsilon"), [(GroupNorm32, 1e-6), (ChannelNorm, 1e-5)])
def test_the_epsilon_of_each_norm(norm, epsilon):
    x = 1e-3 * draw(1, 4, 4, 32)  # a variance of 1e-6
    variables = {"params": {"scale": jnp.ones(32), "bias": jnp.zeros(32)}}
    x64 = np.asarray(x, np.float64)
    expected = (x64 - x64.mean((1, 2), keepdims=True)) / np.sqrt(x64.var((1, 2), keepdims=True) + epsilon)
    np.testing.assert_allclose(norm().apply(variables, x), expected, rtol=1e-4, atol=1e-5)


# ---- units and blocks ------------------------------------------------------------------------------------------


def plain_unit(params, x, stride):
    """The unit from its description; with at most 32 channels each has a norm of its own."""

    def conv_norm(n, x, stride=1, epsilon=1e-6, conv="conv{}", norm="norm{}"):
        kernel = jnp.asarray(standardised(params[conv.format(n)]["kernel"]), jnp.float32)
        sides = [(kernel.shape[0] // 2,) * 2] * 2
        x = np.asarray(jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, sides, dimension_numbers=NUMBERS))
        x = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + epsilon)
        return x * params[norm.format(n)]["scale"] + params[norm.format(n)]["bias"]

    y = np.maximum(conv_norm(1, x), 0)
    y = conv_norm(3, np.maximum(conv_norm(2, y, stride), 0))
    shortcut = x if "project_conv" not in params else conv_norm("project", x, stride, 1e-5, "{}_conv", "{}_norm")
    return np.maximum(shortcut + y, 0)


@pytest.mark.parametrize(
    ("stride", "channels", "projects"), [(2, 6, True), (1, 6, True), (1, 8, False), (2, 8, True)], ids=str
)
def test_a_unit_is_the_plain_one(stride, channels, projects):
    unit, x = Unit(2, stride), draw(2, 5, 6, channels)
    variables = drawn_variables(unit, x)
    assert ("project_conv" in variables["params"]) == projects
    params = jax.tree.map(np.asarray, variables["params"])
    np.testing.assert_allclose(unit.apply(variables, x), plain_unit(params, x, stride), atol=2e-4)


@pytest.mark.parametrize(("h", "w"), [(16, 16), (32, 48), (112, 16)])
def test_maps_and_skip_connections_have_the_sizes_that_the_decoder_needs(h, w):
    model = ResNetV2(width=2, units=(1, 2, 1))
    image = jax.ShapeDtypeStruct((1, h, w, 3), jnp.bfloat16)
    (x, skips), variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert [x.shape, *(s.shape for s in skips)] == [
        (1, h // s, w // s, c) for s, c in ((16, 32), (8, 16), (4, 8), (2, 2))
    ]
    assert {leaf.dtype for leaf in (x, *skips)} == {jnp.dtype(jnp.bfloat16)}
    assert [len(variables["params"][f"block{b}"]) for b in (1, 2, 3)] == [1, 2, 1]


def test_the_skip_of_a_quarter_ends_in_zeros():
    model, x = ResNetV2(width=2, units=(1, 1, 1)), draw(1, 16, 32, 3)
    # The compiler leaves out the blocks that this skip does not need.
    quarter = jax.jit(lambda v, x: model.apply(v, x)[1][1], compiler_options=QUICK)(drawn_variables(model, x), x)
    quarter = np.asarray(quarter)
    assert not quarter[:, -1].any() and not quarter[:, :, -1].any()
    assert quarter[:, :-1, :-1].any((0, 3)).all()


def test_a_size_that_is_no_multiple_of_16_is_refused():
    model = ResNetV2(width=2, units=(1, 1, 1))
    with pytest.raises(AssertionError):
        jax.eval_shape(lambda: model.init(jax.random.key(0), draw(1, 16, 24, 3)))
