"""The networks: parameter counts, sizes, a plain twin, gradients, precision, and the switches of the config."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.config import ModelConfig, TransformerConfig
from seg.errors import UserError
from seg.models import UNet, UNetTransformer, build_model, count_parameters
from seg.models.unet import centre_in, prepare_image
from seg.models.unet_transformer import map_to_tokens, tokens_to_map
from seg.ops import conv

TINY = TransformerConfig(num_layers=2, num_heads=2, mlp_ratio=2.0, dropout=0.0)


def tiny(**changes):
    layers = {k: changes.pop(k) for k in list(changes) if hasattr(TINY, k) and k != "dropout"}
    config = ModelConfig(name="unet_transformer", num_classes=3, base_width=4, depth=1, norm_groups=2)
    return dataclasses.replace(config, transformer=dataclasses.replace(TINY, **layers), **changes)


def images(b=2, h=16, w=12, seed=0):
    return np.random.default_rng(seed).normal(size=(b, h, w, 3)).astype(np.float32)


@functools.cache
def model_with_variables(config):
    """The model with drawn parameters: kernels of a sensible spread, scales near 1; variances positive."""
    model, random = build_model(config), np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images(), False))

    def draw(path, leaf):
        kind = path[-1].key
        if kind in ("scale", "var"):
            return random.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = 0.3 if kind in ("bias", "mean", "table") else (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return (random.normal(size=leaf.shape) * spread).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(draw, shapes)


# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


infer_jit = quick_jit(lambda model, variables, image: model.apply(variables, image, False), static_argnums=0)


def infer(*arguments):
    """Return the logits in numpy: each operation on an array of jax is a program of its own to compile."""
    return np.asarray(infer_jit(*arguments))


def trained_forward(model, variables, image, key=None):
    """Return (output, changed collections)."""
    rngs = None if key is None else {"dropout": key}
    return model.apply(variables, image, True, mutable=["batch_stats"], rngs=rngs)


forward_jit = quick_jit(trained_forward, static_argnums=0)


def forward_train(*arguments):
    return jax.device_get(forward_jit(*arguments))


def train(model, variables, image, key=None):
    """Return ((loss, (logits, changed collections)), gradients) of a loss that weighs every logit differently."""

    def loss(params):
        output, state = trained_forward(model, {**variables, "params": params}, image, key)
        stages = output if isinstance(output, tuple) else (output,)
        total = sum(jnp.vdot(jnp.sin(jnp.arange(x.size, dtype=jnp.float32)), x.ravel()) / x.size for x in stages)
        return total, (stages[0], state)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


train_jit = quick_jit(train, static_argnums=0)


# ---- size of the networks --------------------------------------------------------------------------------------


def shapes_of(config):
    return jax.eval_shape(lambda: build_model(config).init(jax.random.key(0), images(1, 32, 32), False))


@pytest.mark.parametrize(("upsample", "number"), [("transposed", 31_037_698), ("bilinear", 17_263_042)])
def test_the_published_numbers_of_parameters(upsample, number):
    config = ModelConfig(name="unet", num_classes=2, upsample=upsample)
    assert count_parameters(shapes_of(config)["params"]) == number


def test_the_number_of_parameters_of_the_transformer():
    config = ModelConfig(num_classes=2, base_width=8, transformer=TransformerConfig(position="learned"))
    without = dataclasses.replace(config, name="unet")
    d, f, layers = 128, 512, 4
    attention, feed_forward = 4 * d * d + 3 * d, 2 * d * f + f + d  # the key has no bias
    expected = layers * (attention + feed_forward + 4 * d) + 2 * d + 16 * 16 * d
    counts = [count_parameters(shapes_of(c)["params"]) for c in (config, without)]
    assert counts[0] - counts[1] == expected


SIZES = [(32, 32), (37, 51), (1, 1), (1, 40), (33, 1)]
KINDS = [
    {"depth": 4},
    {"depth": 2, "upsample": "bilinear", "norm": "group"},
    {"depth": 2, "stem_stride": 2, "dtype": "bfloat16"},
    {"depth": 2, "stem_stride": 4, "upsample": "bilinear", "position": "learned"},
]


@pytest.mark.parametrize("changes", KINDS, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_any_size_in_is_the_size_out(changes, training):
    config = tiny(**changes)
    model = build_model(config)
    variables = shapes_of(config)
    for h, w in SIZES:
        image = jax.ShapeDtypeStruct((2, h, w, 3), jnp.float32)
        mutable = ["batch_stats"] if training else False
        out = jax.eval_shape(lambda v, x: model.apply(v, x, training, mutable=mutable), variables, image)  # noqa: B023
        logits, state = out if training else (out, variables)
        assert logits.shape == (2, h, w, 3) and logits.dtype == jnp.float32
        assert jax.tree.structure(state.get("batch_stats")) == jax.tree.structure(variables.get("batch_stats"))


@pytest.mark.parametrize(
    ("changes", "size", "prepared"),
    [({"depth": 2}, (1, 9), (4, 9, 3)), ({"depth": 2, "stem_stride": 4}, (5, 20), (4, 8, 48)), ({}, (5, 7), (5, 7, 3))],
)
def test_small_images_are_filled_up_at_the_end(changes, size, prepared):
    image = images(1, *size)
    x = prepare_image(image, tiny(**changes))
    assert x.shape[1:] == prepared
    pixels = np.asarray(conv.depth_to_space(x, factor=changes.get("stem_stride", 1)))
    np.testing.assert_array_equal(pixels[:, : size[0], : size[1]], image)
    np.testing.assert_allclose(np.abs(pixels).sum(), np.abs(image).sum(), rtol=1e-5)


@pytest.mark.parametrize("stem_stride", [1, 4])
def test_a_column_of_single_pixels_gives_finite_logits(stem_stride):
    model, variables = model_with_variables(tiny(stem_stride=stem_stride))
    assert np.isfinite(infer(model, variables, images(2, 9, 1))).all()


# ---- against a plain twin --------------------------------------------------------------------------------------


def corners_on_corners(n):
    """float64[2n, n]: row x holds the shares of the old samples in the new sample x."""
    return np.stack([np.interp(np.linspace(0, n - 1, 2 * n), np.arange(n), e) for e in np.eye(n)], axis=1)


def plain_unet(params, x, upsample, depth):
    """The published U-Net in training, from its description, in numpy and the precision of its arguments."""

    def double_conv(p, x):
        h, w = x.shape[1:3]
        for n in "12":
            padded, kernel = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), p[f"conv{n}"]["kernel"]
            x = sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))
            x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
            x = np.maximum(x * p[f"norm{n}"]["scale"] + p[f"norm{n}"]["bias"], 0)
        return x

    def up(p, x):
        b, h, w, c = x.shape
        if upsample == "transposed":
            return np.einsum("bhwc,cyxo->bhywxo", x, p["up"]["kernel"]).reshape(b, 2 * h, 2 * w, -1) + p["up"]["bias"]
        return np.einsum("yh,bhwc,xw->byxc", corners_on_corners(h), x, corners_on_corners(w), optimize=True)

    skips = []
    for i in range(depth + 1):
        if i:
            b, h, w, c = x.shape
            x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
        x = double_conv(params["encoder"][f"stage{i}"], x)
        skips.append(x)
    for i in reversed(range(depth)):
        stage = params["decoder"][f"stage{i}"]
        x = up(stage, x)
        rows, columns = (skips[i].shape[axis] - x.shape[axis] for axis in (1, 2))
        x = np.pad(x, ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)))
        x = double_conv(stage["convs"], np.concatenate([skips[i], x], -1))
    return x @ params["heads"]["pixel"]["kernel"] + params["heads"]["pixel"]["bias"]


@pytest.mark.parametrize(("upsample", "size"), [("transposed", (13, 18)), ("bilinear", (10, 7))])
def test_unet_is_the_plain_one_in_value_and_gradient(upsample, size):
    """The gradient of each array along random directions, against differences of the plain one in float64."""
    config = tiny(name="unet", upsample=upsample, depth=2)
    model, variables = model_with_variables(config)
    image = images(2, *size)
    (_, (logits, _)), gradients = jax.device_get(train_jit(model, variables, image))
    weights = np.sin(np.arange(logits.size)).reshape(logits.shape) / logits.size
    double = functools.partial(jax.tree.map, np.float64)
    params, image, random = double(variables["params"]), np.float64(image), np.random.default_rng(2)
    np.testing.assert_allclose(logits, plain_unet(params, image, upsample, config.depth), atol=2e-4)

    leaves, tree = jax.tree.flatten(params)
    named = jax.tree_util.tree_leaves_with_path(gradients)
    for number, (path, gradient) in enumerate(named):
        for direction in random.normal(size=(3, *gradient.shape)):
            up, down = (
                jax.tree.unflatten(tree, [*leaves[:number], leaves[number] + step * direction, *leaves[number + 1 :]])
                for step in (1e-6, -1e-6)
            )
            up, down = (np.sum(weights * plain_unet(p, image, upsample, config.depth)) for p in (up, down))
            error = abs(np.sum(gradient * direction) - (up - down) / 2e-6)
            assert error < 2e-3 * np.linalg.norm(gradient), jax.tree_util.keystr(path)


def test_batch_statistics_move_a_tenth_of_the_way_with_the_unbiased_variance():
    config = tiny(name="unet")
    model, variables = model_with_variables(config)
    image = images(1, 4, 4)
    _, state = forward_train(model, variables, image)
    kernel = variables["params"]["encoder"]["stage0"]["conv1"]["kernel"]
    numbers = ("NHWC", "HWIO", "NHWC")
    values = jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=numbers).reshape(16, 4)
    before, after = (s["batch_stats"]["encoder"]["stage0"]["norm1"] for s in (variables, state))
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * np.mean(values, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * np.var(values, 0, ddof=1), rtol=1e-4)


def test_the_upsampled_map_is_centred_with_the_odd_rest_at_the_end():
    ones = jnp.ones((1, 2, 2, 1))
    expected = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(centre_in(ones, (5, 4))[0, :, :, 0], expected)


# ---- the hybrid ------------------------------------------------------------------------------------------------


def test_without_layers_the_hybrid_is_the_unet_to_the_last_bit():
    config = tiny(num_layers=0, dropout=0.3)
    hybrid, unet = UNetTransformer(config), UNet(config)
    fresh = [quick_jit(lambda m=m: m.init(jax.random.key(3), images(), False))() for m in (hybrid, unet)]
    jax.tree.map(np.testing.assert_array_equal, *fresh)
    results = [infer(m, fresh[0], images()) for m in (hybrid, unet)]
    np.testing.assert_array_equal(*results)
    results = [forward_train(m, fresh[0], images(), jax.random.key(1)) for m in (hybrid, unet)]
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert 0.1 < results[0][0].std() < 3  # a fresh network gives logits of moderate spread


@pytest.mark.parametrize(("layers", "sees"), [(0, False), (1, True)])
def test_far_pixels_meet_only_in_the_transformer(layers, sees):
    """With depth 1 a U-Net looks about 10 pixels far; this image is 48 wide."""
    model, variables = model_with_variables(tiny(num_layers=layers))
    gradient = quick_jit(jax.grad(lambda x: model.apply(variables, x, False)[0, 0, 0, 0]))(images(1, 4, 48))
    assert bool(np.abs(gradient)[0, :, 24:].max() > 0) == sees


def test_the_map_is_read_row_by_row():
    x = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    tokens = map_to_tokens(x)
    np.testing.assert_array_equal(tokens[1, 1 * 4 + 2], x[1, 1, 2])
    np.testing.assert_array_equal(tokens_to_map(tokens, (3, 4)), x)
    with pytest.raises(AssertionError):
        tokens_to_map(tokens, (4, 4))


ALL_PARTS = dataclasses.replace(
    tiny(deep_supervision=True, depth=2, num_layers=1, position="learned", position_grid=(3, 5), stem_stride=2),
    dropout=0.2,
)


@functools.cache
def trained(config):
    """Return what `train` returns for images of 16 × 20 pixels, in numpy."""
    return jax.device_get(
        train_jit(build_model(config), model_with_variables(ALL_PARTS)[1], images(2, 16, 20), jax.random.key(2))
    )


def test_the_gradient_reaches_every_parameter():
    """Compiled like this, jax 0.10.2 gives NaN for a max-pool that compares its result with its input for equality."""
    for path, gradient in jax.tree_util.tree_leaves_with_path(trained(ALL_PARTS)[1]):
        assert np.isfinite(gradient).all() and (gradient != 0).any(), jax.tree_util.keystr(path)


def test_learned_positions_are_used_and_none_are_absent():
    model, variables = model_with_variables(tiny(position="learned"))
    without = jax.tree.map(np.copy, variables)
    without["params"]["bottleneck"]["positions"]["table"] *= 0
    plain = build_model(tiny(position="none"))
    assert "positions" not in shapes_of(tiny(position="none"))["params"]["bottleneck"]
    np.testing.assert_array_equal(infer(model, without, images()), infer(plain, without, images()))
    assert np.abs(infer(model, variables, images()) - infer(plain, without, images())).max() > 1e-3


# ---- switches --------------------------------------------------------------------------------------------------


def test_images_of_a_batch_do_not_meet_in_inference():
    model, variables = model_with_variables(tiny())
    pair, other = images(2), images(2, seed=1)
    other[0] = pair[0]
    np.testing.assert_allclose(infer(model, variables, pair)[0], infer(model, variables, other)[0], atol=1e-5)


def test_deep_supervision_returns_the_coarser_stages_in_training_only():
    config = tiny(deep_supervision=True, depth=3, stem_stride=2)
    model, variables = model_with_variables(config)
    assert set(variables) == {"params", "batch_stats"}
    image = images(2, 20, 40)
    stages, _ = jax.eval_shape(lambda: trained_forward(model, variables, image))
    assert isinstance(stages, tuple)
    # The image, then cells of 4 and 8 pixels: ⌈20/4⌉, ⌈20/8⌉.
    assert [x.shape for x in stages] == [(2, 20, 40, 3), (2, 5, 10, 3), (2, 3, 5, 3)]
    assert all(x.dtype == jnp.float32 for x in stages)
    assert jax.eval_shape(lambda: model.apply(variables, image, False)).shape == (2, 20, 40, 3)
    in_training = jax.eval_shape(lambda: model.init(jax.random.key(0), image, True))
    assert jax.tree.structure(in_training) == jax.tree.structure(variables)
    assert not any("auxiliary" in name for name in shapes_of(tiny())["params"]["heads"])


def test_remat_recomputes_and_changes_nothing():
    again = dataclasses.replace(ALL_PARTS, remat=True)
    variables, image, key = model_with_variables(ALL_PARTS)[1], images(2, 16, 20), jax.random.key(2)
    models = map(build_model, (ALL_PARTS, again))
    traces = [str(jax.make_jaxpr(functools.partial(trained_forward, m))(variables, image, key)) for m in models]
    assert "checkpoint[" not in traces[0] and "remat2[" not in traces[0]
    stages = max(traces[1].count(name) for name in ("checkpoint[", "remat2["))
    assert stages >= 2 * ALL_PARTS.depth + 2
    plain, remat = trained(ALL_PARTS), trained(again)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, remat)


def test_bfloat16_computes_low_and_keeps_parameters_statistics_and_logits_high():
    config = tiny(dtype="bfloat16")
    model, variables = model_with_variables(config)
    variables = jax.tree.map(np.copy, variables)
    high = model_with_variables(tiny())[0]
    inner = jax.eval_shape(lambda v, x: model.apply(v, x, False, capture_intermediates=True)[1], variables, images())
    inner = inner["intermediates"]
    assert inner["encoder"]["stage0"]["conv1"]["__call__"][0].dtype == jnp.bfloat16
    assert inner["bottleneck"]["__call__"][0].dtype == inner["decoder"]["stage0"]["__call__"][0].dtype == jnp.bfloat16
    trained = jax.eval_shape(lambda v, x: train(model, v, x), variables, images())
    assert {x.dtype.name for x in jax.tree.leaves((trained, variables))} == {"float32"}
    head = variables["params"]["heads"]["pixel"]
    head["bias"] = np.zeros_like(head["bias"])
    logits = infer(model, variables, images())
    assert (logits != logits.astype(jnp.bfloat16)).mean() > 0.9  # the sums of the head are not rounded
    reference = infer(high, variables, images())
    difference = logits - reference
    assert 0 < np.sqrt(np.square(difference).mean()) < 0.1 * reference.std()


def test_dropout_at_the_bottleneck():
    model, variables = model_with_variables(tiny(name="unet", dropout=0.5))
    logits = [forward_train(model, variables, images(), jax.random.key(n))[0] for n in (1, 1, 2)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 1e-3
    infer(model, variables, images())  # needs no key


def test_the_stem_gives_each_pixel_its_own_logits():
    """A head that answers with its biases alone shows where each of its outputs lands: (row, column, class)."""
    model, variables = model_with_variables(tiny(stem_stride=2))
    head = variables["params"]["heads"]["pixel"]
    changed = {"kernel": np.zeros_like(head["kernel"]), "bias": np.arange(12, dtype=np.float32)}
    params = {**variables["params"], "heads": {"pixel": changed}}
    logits = infer(model, {**variables, "params": params}, images(1, 5, 6))
    for y, x, k in np.ndindex(5, 6, 3):
        assert logits[0, y, x, k] == (y % 2) * 6 + (x % 2) * 3 + k


def test_a_fresh_network_gives_logits_of_moderate_spread(key):
    model = build_model(tiny(upsample="bilinear", num_layers=12, stem_stride=2))
    image = images(2, 16, 16)
    variables = quick_jit(model.init, static_argnums=2)(key, image, False)
    logits, _ = forward_train(model, variables, image)
    assert 0.1 < logits.std() < 3


@pytest.mark.parametrize(
    ("changes", "said"), [({"num_classes": 0}, "num_classes: expected 2"), ({"name": "resnet"}, "expected unet, ")]
)
def test_a_config_without_a_model_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        build_model(tiny(**changes))


def test_an_image_must_be_four_dimensional_and_of_floats():
    model, variables = model_with_variables(tiny())
    with pytest.raises(AssertionError):
        model.apply(variables, images()[0], False)
    with pytest.raises(AssertionError):
        model.apply(variables, images().astype(jnp.uint8), False)
