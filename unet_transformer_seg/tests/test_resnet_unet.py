"""The U-Net with a ResNet encoder: parameter counts, sizes, gradients, precision, switches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.config import Config, ModelConfig, ResNetUNetConfig
from seg.config.rules import check_config
from seg.errors import UserError
from seg.models import EncoderDecoder, build_model, count_parameters
from seg.models.encoder_decoder import prepare, repeat_pixels
from seg.models.layers import Conv
from seg.models.resnet import plan_units
from seg.ops import pool

# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def tiny(block="basic", **changes):
    units = (1, 1, 1, 1) if block == "bottleneck" else (2, 1, 1, 1)
    sizes = ResNetUNetConfig(block=block, units=units, encoder_width=4, decoder_widths=(8, 6, 5, 4, 3))
    return ModelConfig(name="resnet_unet", num_classes=3, resnet_unet=sizes, **changes)


def images(b=2, h=32, w=64, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(b, h, w, 3)), jnp.float32)


@functools.cache
def model_with_variables(config):
    """The model with drawn parameters: kernels of a sensible spread, scales near 1; variances positive."""
    model, random = build_model(config), np.random.default_rng(1)

    def draw(path, leaf):
        kind = path[-1].key
        if kind in ("scale", "var"):
            return jnp.asarray(random.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        spread = 0.3 if kind in ("bias", "mean") else (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(random.normal(size=leaf.shape) * spread, jnp.float32)

    return model, jax.tree_util.tree_map_with_path(draw, shapes_of(config))


def shapes_of(config):
    return jax.eval_shape(lambda: build_model(config).init(jax.random.key(0), images(1), False))


@functools.partial(quick_jit, static_argnums=0)
def infer(model, variables, image):
    return model.apply(variables, image, False)


def train(model, variables, image):
    """Return (gradients, changed statistics) of the sum of the logits' sines."""

    def loss(params):
        logits, state = model.apply({**variables, "params": params}, image, True, mutable=["batch_stats"])
        return jnp.sin(logits).sum(), state

    return jax.grad(loss, has_aux=True)(variables["params"])


@functools.cache
def traced(config):
    """Return the program of `train`."""
    variables = model_with_variables(tiny())[1]
    return jax.make_jaxpr(functools.partial(train, build_model(config)))(variables, images())


@pytest.mark.parametrize(
    ("block", "units", "number"),
    [
        ("basic", (2, 2, 2, 2), 14_328_209),
        ("basic", (3, 4, 6, 3), 24_436_369),
        ("bottleneck", (3, 4, 6, 3), 32_521_105),
    ],
    ids=["resnet18", "resnet34", "resnet50"],
)
def test_the_published_numbers_of_parameters(block, units, number):
    """As published for one class, of which we have two: one output more in the head, of 9 · 16 weights and a bias."""
    config = ModelConfig(name="resnet_unet", num_classes=2, resnet_unet=ResNetUNetConfig(block=block, units=units))
    assert count_parameters(shapes_of(config)["params"]) == number + 9 * 16 + 1


def test_the_default_is_a_resnet34():
    assert ResNetUNetConfig() == ResNetUNetConfig("basic", (3, 4, 6, 3), 64, (256, 128, 64, 32, 16))


def test_every_parameter_changes_the_logits():
    """By differences, of a program that the test below needs too; the parity tests compare the gradients' values."""
    (model, variables), image = model_with_variables(tiny("bottleneck")), np.asarray(images(1))
    logits, random = np.asarray(infer(model, variables, image)), np.random.default_rng(3)
    leaves, tree = jax.tree.flatten(variables["params"])
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(variables["params"])):
        nudged = np.asarray(leaf) + 0.1 * random.normal(size=leaf.shape).astype(np.float32)
        params = jax.tree.unflatten(tree, [*leaves[:i], nudged, *leaves[i + 1 :]])
        change = abs(np.asarray(infer(model, {**variables, "params": params}, image)) - logits).max()
        assert np.isfinite(change) and change > 1e-4, jax.tree_util.keystr(path)


def test_the_gradient_of_every_parameter_depends_on_the_image():
    """Traced only: where no gradient flows, a constant takes its place."""
    jaxpr = traced(tiny()).jaxpr
    known = {jaxpr.invars[-1]}
    for equation in jaxpr.eqns:
        if any(not hasattr(variable, "val") and variable in known for variable in equation.invars):
            known.update(equation.outvars)
    gradients = jaxpr.outvars[: len(jax.tree.leaves(shapes_of(tiny())["params"]))]
    assert all(not hasattr(variable, "val") and variable in known for variable in gradients)


def test_the_image_is_filled_up_with_zeros_and_the_logits_are_cropped():
    model, variables = model_with_variables(tiny("bottleneck"))
    image = np.asarray(images(1, 17, 39))
    filled = np.pad(image, ((0, 0), (0, 15), (0, 25), (0, 0)))
    np.testing.assert_array_equal(prepare(image, tiny()), filled)
    np.testing.assert_array_equal(prepare(filled, tiny()), filled)
    logits, whole = infer(model, variables, image), np.asarray(infer(model, variables, filled))
    np.testing.assert_allclose(logits, whole[:, :17, :39], atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (33, 1), (32, 32), (31, 65)])
@pytest.mark.parametrize("training", [False, True])
def test_any_size_in_is_the_size_out(size, training):
    model, variables = build_model(tiny(dtype="bfloat16")), shapes_of(tiny())
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    mutable = ["batch_stats"] if training else False
    out = jax.eval_shape(lambda v, x: model.apply(v, x, training, mutable=mutable), variables, image)
    logits = out[0] if training else out
    assert logits.shape == (2, *size, 3) and logits.dtype == jnp.float32


def test_remat_recomputes_every_unit_and_block():
    traces = [traced(tiny()), traced(tiny(remat=True))]
    counts = [max(str(trace).count(name) for name in ("checkpoint[", "remat2[")) for trace in traces]
    assert counts[0] == 0 and counts[1] >= 5 + 5
    assert traces[0].out_avals == traces[1].out_avals


def test_bfloat16_computes_low_and_keeps_parameters_statistics_and_logits_high():
    model, variables = build_model(tiny(dtype="bfloat16")), model_with_variables(tiny())[1]
    inner = jax.eval_shape(lambda v, x: model.apply(v, x, False, capture_intermediates=True)[1], variables, images())
    inner = inner["intermediates"]
    assert inner["encoder"]["layer4"]["unit0"]["__call__"][0].dtype == jnp.bfloat16
    assert inner["decoder"]["__call__"][0].dtype == jnp.bfloat16
    fresh, trained = shapes_of(tiny(dtype="bfloat16")), jax.eval_shape(lambda v: train(model, v, images()), variables)
    assert {x.dtype.name for x in jax.tree.leaves((fresh, trained))} == {"float32"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("deep_supervision", True), ("stem_stride", 2), ("norm", "group"), ("base_width", 32), ("dropout", 0.1)],
)
def test_settings_of_the_plain_unet_are_refused(key, value):
    check_config(Config(model=tiny()))
    with pytest.raises(UserError, match=rf"model.{key}: resnet_unet has no such setting, .* found {value}"):
        check_config(Config(model=dataclasses.replace(tiny(), **{key: value})))


def test_build_model_returns_it():
    assert isinstance(build_model(tiny()), EncoderDecoder)


def test_units_halve_the_resolution_at_the_start_of_layers_2_to_4_and_project_where_the_shape_changes():
    basic = [(p.width, p.stride, p.projects) for p in plan_units(ResNetUNetConfig(units=(2, 1, 2, 1)))]
    assert basic == [
        (64, 1, False), (64, 1, False), (128, 2, True), (256, 2, True), (256, 1, False), (512, 2, True),
    ]  # fmt: skip
    first, second, *_ = plan_units(ResNetUNetConfig(block="bottleneck"))
    assert (first.stride, first.projects) == (1, True)  # 64 channels become 256
    assert not second.projects


@pytest.mark.parametrize(("h", "w"), [(6, 9), (1, 1)])
def test_max_pool_of_three_is_the_largest_of_each_neighbourhood(h, w):
    x_bhwc = np.asarray(images(2, h, w)) - 5  # a padding of zeros would win
    for padding in (0, 1) if min(h, w) > 2 else (1,):
        found = np.asarray(pool.max_pool_3x3(x_bhwc, padding=padding))
        rows, columns = ((n + 2 * padding - 1) // 2 for n in (h, w))
        assert found.shape == (2, rows, columns, 3)
        for i, j in np.ndindex(rows, columns):
            top, left = 2 * i - padding, 2 * j - padding
            patch = x_bhwc[:, max(top, 0) : top + 3, max(left, 0) : left + 3]
            np.testing.assert_array_equal(found[:, i, j], patch.max((1, 2)))


def test_the_gradient_of_max_pool_of_three_goes_to_the_largest_pixel():
    x_bhwc = np.asarray(images(1, 7, 5))[..., :1]
    gradient = quick_jit(jax.grad(lambda x: pool.max_pool_3x3(x, padding=1).sum()))(x_bhwc)
    expected = np.zeros((7, 5))
    for i, j in np.ndindex(4, 3):
        rows, columns = range(max(2 * i - 1, 0), min(2 * i + 2, 7)), range(max(2 * j - 1, 0), min(2 * j + 2, 5))
        expected[max(((r, c) for r in rows for c in columns), key=lambda at: x_bhwc[0, *at, 0])] += 1
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


def test_pixels_are_repeated():
    x_bhwc = jnp.arange(2 * 2 * 3 * 2.0).reshape(2, 2, 3, 2)
    np.testing.assert_array_equal(repeat_pixels(x_bhwc), x_bhwc.repeat(2, 1).repeat(2, 2))


def test_a_strided_convolution_has_the_same_zeros_on_all_sides():
    """Of an even size "SAME" would put them at the end only, and sample other pixels than torch."""
    x_bhwc = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(1.0)
    variables = {"params": {"kernel": jnp.arange(9.0).reshape(3, 3, 1, 1), "bias": jnp.full(1, 10.0)}}
    found = Conv(1, stride=2, use_bias=True).apply(variables, x_bhwc)
    np.testing.assert_array_equal(found[0, :, :, 0], [[18, 16], [12, 10]])
