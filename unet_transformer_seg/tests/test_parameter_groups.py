"""Names of parameters: what a pattern means, what is frozen by it, and how fast the others move."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.checkpoints.arrays import named_arrays
from seg.config import ModelConfig, OptimizerConfig, TransformerConfig
from seg.errors import UserError
from seg.models import build_model
from seg.training.parameter_groups import FrozenParts, check_groups, describe_groups, frozen_mask, matches, rate_factors

PARTS = st.lists(st.text("ab1_", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)
IMAGE = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)


def config_of(**settings):
    transformer = TransformerConfig(num_layers=2, num_heads=2, position="learned", dropout=0.0)
    return ModelConfig(num_classes=3, base_width=2, depth=1, transformer=transformer, **settings)


@functools.cache
def model_of(**settings):
    return build_model(config_of(**settings))


@functools.cache
def variables_of(**settings):
    """Variables whose statistics are not those of any batch."""
    shapes = jax.eval_shape(lambda: model_of(**settings).init(jax.random.key(0), IMAGE, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32), shapes)


def params_of():
    return variables_of()["params"]


def by_name(tree):
    return dict(zip(named_arrays(params_of()), jax.tree.leaves(tree), strict=True))


# --- patterns ---


@given(PARTS, PARTS)
def test_a_pattern_without_a_star_is_a_beginning_in_whole_parts(pattern, name):
    assert matches(pattern, name) == f"{name}/".startswith(f"{pattern}/")


@given(PARTS, st.data())
def test_a_star_stands_for_a_part_and_for_no_more(name, data):
    parts = name.split("/")
    place = data.draw(st.integers(0, len(parts) - 1))
    assert matches("/".join([*parts[:place], "*", *parts[place + 1 :]]), name)
    assert matches("/".join([*parts[:place], f"{parts[place][0]}*"]), name)
    assert not matches("/".join(["*"] * (len(parts) + 1)), name)


def test_a_stage_is_frozen_and_nothing_else():
    mask = by_name(frozen_mask(("encoder/stage1", "*/stage0/convs/norm*"), params_of()))
    expected = ("encoder/stage1/", "decoder/stage0/convs/norm1/", "decoder/stage0/convs/norm2/")
    assert {name for name, still in mask.items() if still} == {n for n in mask if n.startswith(expected)}
    assert any(mask.values()) and not all(mask.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": ("encodr",)}, r"optimizer.freeze: no parameter is called 'encodr'; did you mean encoder"),
        ({"freeze": ("encoder/stage",)}, r"did you mean encoder/stage1 or encoder/stage0"),
        ({"freeze": ("zzz",)}, r"names begin with bottleneck, decoder, encoder, heads"),
        ({"rate_factors": {"tail": 2.0}}, r"optimizer.rate_factors: no parameter is called 'tail'"),
        ({"freeze": ("*",)}, r"optimizer.freeze: \* leaves no parameter to be trained"),
        ({"freeze": ("bottleneck/transformer/block1",)}, r"holds 2 layers in one array, of which only 1"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_groups(OptimizerConfig(**settings), params_of())


# --- rates ---


def test_the_rate_decays_towards_the_image():
    factors = by_name(rate_factors(OptimizerConfig(layer_decay=0.5), params_of()))
    for name, factor in factors.items():
        if "/blocks/" in name:
            np.testing.assert_array_equal(np.ravel(factor), [0.25, 0.5], err_msg=name)
            assert factor.ndim == named_arrays(params_of())[name].ndim
            continue
        beginnings = {"encoder/stage0": 0.0625, "encoder/stage1": 0.125, "bottleneck/positions": 0.125}
        assert factor == next((f for b, f in beginnings.items() if name.startswith(b)), 1.0), name


def test_the_published_architectures_decay_from_their_stems_on():
    leaf = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    resnet = {"root_conv": leaf, "block1": {"unit1": leaf}, "block2": {"unit1": leaf}}
    tokens = {"embedding": leaf, "transformer": {"blocks": {"kernel": leaf}, "norm": leaf}}
    transunet = rate_factors(OptimizerConfig(layer_decay=0.5), {"resnet": resnet, "tokens": tokens, "head": leaf})
    np.testing.assert_array_equal(transunet["tokens"]["transformer"]["blocks"]["kernel"], [[0.25], [0.5]])
    assert transunet["head"] == transunet["tokens"]["transformer"]["norm"] == 1
    assert [transunet["tokens"]["embedding"], *jax.tree.leaves(transunet["resnet"])] == [2**-3, 2**-4, 2**-3, 2**-5]
    unet = {"encoder": {"conv1": leaf, "layer1_unit0": leaf, "layer2_unit0": leaf}, "decoder": {"block0": leaf}}
    assert jax.tree.leaves(rate_factors(OptimizerConfig(layer_decay=0.5), unet)) == [1, 0.125, 0.25, 0.5]


def test_the_longest_pattern_decides_and_single_layers_have_names():
    given = {"encoder": 0.5, "encoder/stage1": 3.0, "encoder/*": 2.0, "bottleneck/transformer/block1": 0.1}
    factors = by_name(rate_factors(OptimizerConfig(rate_factors=given), params_of()))
    assert factors["encoder/stage0/conv1/kernel"] == 2.0
    assert factors["encoder/stage1/conv1/kernel"] == 3.0
    assert factors["decoder/stage0/up/kernel"] == 1.0
    np.testing.assert_allclose(np.ravel(factors["bottleneck/transformer/blocks/attention_norm/scale"]), [1.0, 0.1])


def test_the_log_says_what_is_trained_and_how_fast():
    params = params_of()
    total = sum(x.size for x in jax.tree.leaves(params))
    frozen = sum(x.size for x in jax.tree.leaves(params["encoder"]))
    line = describe_groups(OptimizerConfig(freeze=("encoder",), rate_factors={"heads": 4.0}), params)
    assert f"{total - frozen:,} of {total:,} parameters" in line
    assert "frozen: encoder (12 of" in line and "1 to 4" in line


# --- frozen parts ---


@pytest.mark.parametrize("remat", [False, True])
def test_a_frozen_batch_norm_keeps_and_uses_its_statistics(remat):
    """A stage whose convolutions alone are frozen goes on counting."""
    settings = {"name": "unet", "remat": remat}
    variables = variables_of(**settings)
    frozen = FrozenParts(model_of(**settings), ("encoder/stage0", "encoder/stage1/conv*"))
    _, updated = frozen.apply(variables, IMAGE, train=True, mutable=["batch_stats"])
    same = jax.tree.map(lambda a, b: bool((a == b).all()), variables["batch_stats"], updated["batch_stats"])
    assert all(jax.tree.leaves(same["encoder"]["stage0"]))
    assert not any(jax.tree.leaves(same["encoder"]["stage1"])) and not any(jax.tree.leaves(same["decoder"]))


def test_a_model_with_every_norm_frozen_answers_as_in_inference():
    variables, model = variables_of(name="unet"), model_of(name="unet")
    frozen = FrozenParts(model, ("*/*/norm*", "*/*/convs/norm*"))
    trained, _ = frozen.apply(variables, IMAGE, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(trained, model.apply(variables, IMAGE, train=False))


def test_the_backward_pass_of_a_frozen_encoder_is_not_computed():
    """As the compiler counts operations: as if the gradient of the other parts alone had been asked for."""
    settings = {"name": "unet", "norm": "group", "norm_groups": 2}
    model, params = model_of(**settings), variables_of(**settings)["params"]

    def flops(model, parts):
        def loss(given):
            return jnp.square(model.apply({"params": {**params, **given}}, IMAGE, train=True)).mean()

        return jax.jit(jax.grad(loss)).lower({part: params[part] for part in parts}).cost_analysis()["flops"]

    frozen, others = flops(FrozenParts(model, ("encoder",)), params), flops(model, ("decoder", "heads"))
    assert frozen == pytest.approx(others, rel=0.05)  # the zeros that stand for its gradient count a little
    assert frozen < 0.75 * flops(model, params)
