"""Names of parameters: what a pattern means, what is frozen by it, and how fast the others move."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.checkpoints.arrays import named_arrays
from asr.config import DecoderConfig, EncoderConfig, ModelConfig, OptimizerConfig
from asr.errors import UserError
from asr.models import build_model
from asr.models.stacking import unstack_blocks
from asr.training.parameter_groups import FrozenParts, check_groups, describe_groups, frozen_mask, matches, rate_factors
from asr.training.state import init_state

PARTS = st.lists(st.text("ab1_", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)
LAYERS = 3


@functools.cache
def model_of(kind="sanm", scan=False):
    encoder = EncoderConfig(kind=kind, num_layers=LAYERS, width=4, num_heads=1, ffn_width=4, kernel_size=3, scan=scan)
    decoder = DecoderConfig(num_layers=1, num_heads=1, ffn_width=4, kernel_size=3)
    return build_model(ModelConfig(vocab_size=6, input_dim=6, ctc_head=True, encoder=encoder, decoder=decoder))


@functools.cache
def params_of(kind="sanm", scan=False):
    """Return the parameters as zeros."""
    model = model_of(kind, scan)
    shapes = jax.eval_shape(lambda: init_state(model, 6, optax.identity(), jax.random.key(0), False)).params
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


def by_name(tree, **settings):
    return dict(zip(named_arrays(params_of(**settings)), jax.tree.leaves(tree), strict=True))


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


def test_a_block_is_frozen_and_nothing_else():
    mask = by_name(frozen_mask(("encoder/block1", "decoder/*/norm*"), params_of()))
    expected = ("encoder/block1/", "decoder/block0/norm1/", "decoder/block0/norm2/", "decoder/block0/norm3/")
    expected += ("decoder/ffn_block0/norm1/",)
    assert {name for name, still in mask.items() if still} == {n for n in mask if n.startswith(expected)}


def test_stacked_blocks_are_frozen_by_either_name_but_all_together():
    params = params_of(scan=True)
    assert any("encoder/block0/" in name for name in named_arrays(params))
    every = frozen_mask(("encoder/blocks",), params)
    assert jax.tree.leaves(every["encoder"]["blocks"]) and all(jax.tree.leaves(every["encoder"]["blocks"]))
    assert not any(jax.tree.leaves(every["encoder"]["block0"]))
    assert frozen_mask(("encoder/block1", "encoder/block2"), params) == every
    with pytest.raises(UserError, match=r"holds 2 layers in one array, of which only 1 .* model.encoder.scan=false"):
        frozen_mask(("encoder/block1",), params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": ("encodr",)}, r"optimizer.freeze: no parameter is called 'encodr'; did you mean encoder"),
        ({"freeze": ("encoder/block",)}, r"did you mean encoder/block"),
        ({"freeze": ("zzz",)}, r"names begin with ctc, decoder, encoder, predictor"),
        ({"rate_factors": {"encoder/block3": 2.0}}, r"optimizer.rate_factors: no parameter is called 'encoder/block3'"),
        ({"freeze": ("*",)}, r"optimizer.freeze: \* leaves no parameter to be trained"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_groups(OptimizerConfig(**settings), params_of())


# --- rates ---


@pytest.mark.parametrize("kind", ["sanm", "conv"])
def test_the_rate_decays_towards_the_sound(kind):
    factors = by_name(rate_factors(OptimizerConfig(layer_decay=0.5), params_of(kind=kind)), kind=kind)
    expected = {"encoder/input": 2**-4, "encoder/block0": 2**-3, "encoder/block1": 2**-2, "encoder/block2": 2**-1}
    for name, factor in factors.items():
        assert factor == next((f for b, f in expected.items() if name.startswith(f"{b}/")), 1.0), name
    assert set(factors.values()) == {1, 2**-1, 2**-2, 2**-3} | ({2**-4} if kind == "conv" else set())


@pytest.mark.parametrize("kind", ["sanm", "conv"])
def test_stacked_blocks_have_the_factors_of_unrolled_ones(kind):
    config = OptimizerConfig(layer_decay=0.5, rate_factors={"encoder/block2": 3.0, "encoder/*/norm*": 5.0, "ctc": 7.0})
    scanned, unrolled = ({"kind": kind, "scan": scan} for scan in (True, False))
    full = jax.tree.map(
        lambda factor, x: factor * np.ones_like(x), rate_factors(config, params_of(**scanned)), params_of(**scanned)
    )
    expected = rate_factors(config, params_of(**unrolled))
    jax.tree.map(lambda x, factor: np.testing.assert_array_equal(x, factor), unstack_blocks(full), expected)


def test_the_longest_pattern_decides():
    config = OptimizerConfig(rate_factors={"encoder": 0.5, "encoder/block1": 3.0, "encoder/*": 2.0})
    factors = by_name(rate_factors(config, params_of()))
    assert factors["encoder/block0/qkv/kernel"] == factors["encoder/norm/scale"] == 2.0
    assert factors["encoder/block1/qkv/kernel"] == 3.0
    assert factors["decoder/embedding"] == 1.0


def test_the_log_says_what_is_trained_and_how_fast():
    params = params_of()
    total = sum(x.size for x in jax.tree.leaves(params))
    frozen = sum(x.size for x in jax.tree.leaves(params["encoder"]))
    line = describe_groups(OptimizerConfig(freeze=("encoder",), rate_factors={"ctc": 4.0}), params)
    assert f"{total - frozen:,} of {total:,} parameters" in line
    assert "frozen: encoder (" in line and "1 to 4" in line


# --- frozen parts ---


def test_the_backward_pass_of_a_frozen_encoder_is_not_computed():
    """As the compiler counts operations: as if the gradient of the other parts alone had been asked for."""
    model, params = model_of(), params_of()
    given = np.zeros((2, 9, 6), np.float32), np.array([9, 5]), np.zeros((2, 3), np.int32), np.array([3, 2])

    def flops(model, parts):
        def loss(given_params):
            outputs = model.apply({"params": {**params, **given_params}}, *given, train=False)
            return jnp.square(outputs.logits_buv).mean() + jnp.square(outputs.ctc_logits_btv).mean()

        return jax.jit(jax.grad(loss)).lower({part: params[part] for part in parts}).cost_analysis()["flops"]

    frozen, others = flops(FrozenParts(model, ("encoder",)), params), flops(model, ("predictor", "decoder", "ctc"))
    assert frozen == pytest.approx(others, rel=0.05)  # the zeros that stand for its gradient count a little
    assert frozen < 0.75 * flops(model, params)
