"""TransUNet: parameter count, sizes, gradients, precision and the switches of the config.

That its answers are the published network's, also for an image that has to be filled up, is shown by
`test_published_transunet.py`.
"""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.config import Config, ModelConfig, TransUNetConfig
from seg.config.rules import check_config
from seg.errors import UserError
from seg.models import build_model, count_parameters
from seg.models.layers import Dropout
from seg.models.transunet import TransUNet, transformer_config

TINY = TransUNetConfig(
    resnet_width=4,
    resnet_units=(1, 1, 1),
    hidden_width=8,
    num_layers=2,
    num_heads=2,
    mlp_width=12,
    dropout=0.0,
    position_grid=(2, 3),
    bridge_width=6,
    decoder_widths=(5, 4, 3, 2),
)


def tiny(**changes):
    sizes = {name: changes.pop(name) for name in list(changes) if hasattr(TINY, name)}
    return ModelConfig(name="transunet", num_classes=3, transunet=dataclasses.replace(TINY, **sizes), **changes)


def images(b=1, h=32, w=48, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(b, h, w, 3)), jnp.float32)


@functools.cache
def shapes_of(config):
    return jax.eval_shape(lambda: build_model(config).init(jax.random.key(0), images(), False))


@functools.cache
def variables_of(config):
    """Drawn parameters: kernels of a sensible spread, scales near 1; variances positive."""
    random = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(random.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        vector = path[-1].key in ("bias", "mean", "table")
        spread = 0.3 if vector else (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(random.normal(size=leaf.shape) * spread, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(config))


# ---- size ------------------------------------------------------------------------------------------------------


def test_the_published_number_of_parameters():
    """105.28 million, of which the 12 · 768 biases of keys, which the softmax cancels, do not exist here."""
    shapes = shapes_of(ModelConfig(name="transunet", num_classes=9))
    assert count_parameters(shapes["params"]) == 105_277_081 - 12 * 768


@pytest.mark.parametrize("training", [False, True])
def test_any_size_in_is_the_size_out(training):
    config = tiny(dtype="bfloat16")
    variables = shapes_of(config)
    for h, w in [(37, 51), (1, 1)]:
        image = jax.ShapeDtypeStruct((2, h, w, 3), jnp.float32)
        mutable = ["batch_stats"] if training else False
        out = jax.eval_shape(lambda v, x: TransUNet(config).apply(v, x, training, mutable=mutable), variables, image)  # noqa: B023
        logits, state = out if training else (out, variables)
        assert logits.shape == (2, h, w, 3) and logits.dtype == jnp.float32
        assert jax.tree.structure(state["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


@pytest.mark.parametrize("num_skips", [0, 1, 2, 3])
def test_the_decoder_joins_as_many_skip_connections_as_are_asked_for(num_skips):
    blocks = shapes_of(tiny(num_skips=num_skips))["params"]["decoder"]
    inputs = [blocks[f"block{i}"]["convs"]["conv1"]["kernel"].shape[2] for i in range(4)]
    skips = [32 * (num_skips > 0), 16 * (num_skips > 1), 4 * (num_skips > 2), 0]
    assert inputs == [below + skip for below, skip in zip((6, 5, 4, 3), skips, strict=True)]


# ---- training --------------------------------------------------------------------------------------------------


def train(config, variables, image, key):
    """Return (logits, batch statistics) of a training step's forward pass."""
    logits, state = TransUNet(config).apply(variables, image, True, mutable=["batch_stats"], rngs={"dropout": key})
    return logits, state["batch_stats"]


def gradient(config, variables, image, key):
    """Return the gradients of the sum of the logits' sines."""

    def loss(params):
        return jnp.sin(train(config, {**variables, "params": params}, image, key)[0]).sum()

    return jax.grad(loss)(variables["params"])


def test_training_changes_every_statistic_and_every_parameter_changes_the_logits():
    """By differences: the gradients, whose values the parity tests compare, take four times as long to compile."""
    config = tiny(num_layers=1, bridge_width=4, decoder_widths=(4, 4, 4, 4))
    # Compiling takes longer than running here, so the compiler is told not to polish its machine code.
    step = jax.jit(train, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
    variables, image, key = variables_of(config), images(w=32), jax.random.key(2)
    logits, batch_stats = jax.device_get(step(config, variables, image, key))
    moved = jax.tree.map(lambda a, b: bool(np.not_equal(a, b).all()), batch_stats, variables["batch_stats"])
    assert len(jax.tree.leaves(moved)) == 2 * 9 and all(jax.tree.leaves(moved)), moved
    leaves, tree = jax.tree.flatten(variables["params"])
    random = np.random.default_rng(3)
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(variables["params"])):
        nudged = np.asarray(leaf) + 0.1 * random.normal(size=leaf.shape).astype(np.float32)
        params = jax.tree.unflatten(tree, [*leaves[:i], nudged, *leaves[i + 1 :]])
        change = abs(np.asarray(step(config, {**variables, "params": params}, image, key)[0]) - logits).max()
        assert np.isfinite(change) and change > 1e-4, jax.tree_util.keystr(path)


def test_the_gradient_of_every_parameter_depends_on_the_image():
    """Traced only: where no gradient flows, a constant takes its place."""
    jaxpr = jax.make_jaxpr(gradient, static_argnums=0)(tiny(), variables_of(tiny()), images(), jax.random.key(0)).jaxpr
    known = {jaxpr.invars[-2]}
    for equation in jaxpr.eqns:
        if any(not hasattr(variable, "val") and variable in known for variable in equation.invars):
            known.update(equation.outvars)
    assert len(jaxpr.outvars) == len(jax.tree.leaves(variables_of(tiny())["params"]))
    assert all(not hasattr(variable, "val") and variable in known for variable in jaxpr.outvars)


def test_remat_computes_units_blocks_and_layers_again():
    counts = []
    for config in (tiny(), tiny(remat=True)):
        forward = functools.partial(TransUNet(config).apply, train=False)
        trace = str(jax.make_jaxpr(forward)(variables_of(tiny()), images()))
        counts.append(max(trace.count(name) for name in ("checkpoint[", "remat2[")))
    assert counts[0] == 0 and counts[1] >= 3 + 1 + 4


def test_dropout_stands_after_the_positions_the_attention_and_in_the_feed_forward_network():
    config, found = tiny(dropout=0.3), set()

    def note(call, arguments, keywords, context):
        if isinstance(context.module, Dropout):
            found.add((*context.module.path[1:], context.module.rate, arguments[1]))
        return call(*arguments, **keywords)

    def trained(variables, key):
        return TransUNet(config).apply(variables, images(), True, mutable=["batch_stats"], rngs={"dropout": key})

    with nn.intercept_methods(note):
        jax.eval_shape(trained, variables_of(tiny()), jax.random.key(0))
    blocks = ("transformer", "blocks")
    assert found == {
        ("position_dropout", 0.3, True),
        (*blocks, "Dropout_0", 0.3, True),  # after the attention
        (*blocks, "feed_forward", "Dropout_0", 0.3, True),
        (*blocks, "Dropout_1", 0.3, True),
    }


def test_bfloat16_computes_low_and_keeps_parameters_statistics_and_logits_high():
    config, variables = tiny(dtype="bfloat16"), variables_of(tiny())
    _, state = jax.eval_shape(
        lambda v: TransUNet(config).apply(
            v,
            images(),
            True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
            rngs={"dropout": jax.random.key(0)},
        ),
        variables,
    )
    inner = state["intermediates"]
    low = [inner[name]["__call__"][0] for name in ("resnet", "tokens", "bridge", "decoder")]
    assert {x.dtype.name for x in jax.tree.leaves(low)} == {"bfloat16"}
    high = (inner["head"]["__call__"], state["batch_stats"], shapes_of(config))
    assert {x.dtype.name for x in jax.tree.leaves(high)} == {"float32"}


# ---- settings --------------------------------------------------------------------------------------------------


def test_the_feed_forward_width_is_the_one_asked_for():
    for hidden, inner in itertools.product((1, 7, 48, 768, 1023), (1, 3, 96, 1021, 3072, 65536)):
        config = transformer_config(TransUNetConfig(hidden_width=hidden, mlp_width=inner))
        assert int(hidden * config.mlp_ratio) == inner
    dense1 = shapes_of(tiny())["params"]["tokens"]["transformer"]["blocks"]["feed_forward"]["dense1"]
    assert dense1["bias"].shape == (2, 12)


def test_the_attention_is_that_of_the_config():
    assert transformer_config(dataclasses.replace(TINY, attention="cudnn")).attention == "cudnn"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"deep_supervision": True},
            "model.deep_supervision: transunet has no such setting, expected the default False",
        ),
        ({"depth": 3}, "model.depth: transunet has no such setting, expected the default 4, found 3"),
        ({"stem_stride": 2}, "model.stem_stride: .* are set in model.transunet"),
        ({"dropout": 0.1}, "model.dropout: "),
        ({"num_heads": 3}, "model.transunet.num_heads 3 does not divide model.transunet.hidden_width 8"),
    ],
    ids=str,
)
def test_settings_that_it_has_not_are_refused(changes, message):
    check_config(Config(model=tiny()))
    config = tiny(num_heads=changes.pop("num_heads", 2))
    with pytest.raises(UserError, match=message):
        check_config(Config(model=dataclasses.replace(config, **changes)))


def test_an_image_must_be_four_dimensional_and_of_floats():
    for image in (images()[0], images().astype(jnp.uint8)):
        with pytest.raises(AssertionError):
            jax.eval_shape(lambda x: TransUNet(tiny()).init(jax.random.key(0), x, False), image)
