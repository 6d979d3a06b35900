"""The loss that training minimises: its parts, their weights, batches in parts."""

import dataclasses
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.config import LossConfig
from asr.losses import ctc_loss, masked_cross_entropy, mwer_loss, paraformer_loss, quantity_loss, weigh

PARTS = ["cross_entropy", "quantity", "ctc", "mwer"]
FULL = LossConfig(label_smoothing=0.1, quantity_weight=0.5, ctc_weight=0.3, mwer_weight=0.2)
FRAME_LENGTHS = np.array([12, 9, 0, 7], np.int32)
LENGTHS = np.array([5, 3, 0, 4], np.int32)  # the third row fills up the batch
EOS = 2


@dataclasses.dataclass
class Outputs:
    logits_buv: jax.Array
    token_count_b: jax.Array
    frame_lengths_b: jax.Array
    ctc_logits_btv: jax.Array | None


jax.tree_util.register_dataclass(Outputs)
compiled = jax.jit(paraformer_loss, static_argnames=("config", "append_eos"))
compiled_ctc_loss = jax.jit(ctc_loss)


def make_batch(rows=slice(None)):
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 8, (4, 6)).astype(np.int32)
    tokens[np.arange(4), np.maximum(LENGTHS - 1, 0)] = EOS
    outputs = Outputs(
        logits_buv=rng.normal(size=(4, 6, 8)).astype(np.float32),
        token_count_b=np.array([4.5, 3.7, 0.0, 4.2], np.float32),
        frame_lengths_b=FRAME_LENGTHS,
        ctc_logits_btv=rng.normal(size=(4, 12, 8)).astype(np.float32),
    )
    return jax.tree.map(lambda x: x[rows], outputs), tokens[rows], LENGTHS[rows]


def run(config, batch=None, key=None, append_eos=True, normalizer=12.0):
    key = jax.random.key(0) if key is None else key
    outputs, tokens, lengths = batch or make_batch()
    normalizer = jnp.float32(normalizer)
    return compiled(outputs, tokens, lengths, config, append_eos=append_eos, normalizer=normalizer, key=key)


def test_the_parts_are_the_losses_divided_by_the_normalizer():
    @jax.jit
    def both(outputs, tokens, lengths, normalizer, key):
        settings = {"append_eos": True, "normalizer": normalizer, "key": key}
        expected = {
            "cross_entropy": masked_cross_entropy(outputs.logits_buv, tokens, lengths, 0.1),
            "quantity": quantity_loss(outputs.token_count_b, lengths),
            "ctc": ctc_loss(outputs.ctc_logits_btv, FRAME_LENGTHS, tokens, jnp.maximum(lengths - 1, 0)),
            "mwer": mwer_loss(outputs.logits_buv, tokens, lengths, key, num_candidates=4, mask_share=0.2),
        }
        return *paraformer_loss(outputs, tokens, lengths, FULL, **settings), expected

    with jax.numpy_dtype_promotion("strict"):
        loss, parts, expected = both(*make_batch(), jnp.float32(7), jax.random.key(0))
    assert set(parts) == set(PARTS)
    for name in PARTS:
        assert parts[name] == pytest.approx(float(expected[name]) / 7, rel=1e-5), name
        assert parts[name].dtype == jnp.float32 and parts[name].shape == ()
    total = 0.7 * parts["cross_entropy"] + 0.3 * parts["ctc"] + 0.5 * parts["quantity"] + 0.2 * parts["mwer"]
    assert loss == pytest.approx(float(total), rel=1e-6)


def test_the_losses_of_the_parts_of_a_batch_add_up():
    config = dataclasses.replace(FULL, mwer_weight=0.0)  # its hypotheses depend on the shape of the batch
    whole = run(config)[0]
    parts = [run(config, make_batch(rows))[0] for rows in (slice(0, 2), slice(2, 4))]
    assert float(whole) == pytest.approx(float(sum(parts)), rel=1e-5)


@pytest.mark.parametrize("name", PARTS)
def test_every_part_reaches_its_own_outputs_and_a_filled_up_row_reaches_none(name):
    off = {"quantity_weight": 0.0, "ctc_weight": 0.0, "mwer_weight": 0.0}
    weights = {"quantity": {"quantity_weight": 0.5}, "ctc": {"ctc_weight": 1.0}, "mwer": {"mwer_weight": 1.0}}
    config = LossConfig(**(off | weights.get(name, {})))

    def objective(outputs):
        return run(config, (outputs, *make_batch()[1:]))[1][name]

    gradient = jax.jit(jax.grad(objective, allow_int=True))(make_batch()[0])
    reached = {
        field: bool(np.any(np.asarray(getattr(gradient, field)) != 0))
        for field in ("logits_buv", "token_count_b", "ctc_logits_btv")
    }
    own = {"quantity": "token_count_b", "ctc": "ctc_logits_btv"}.get(name, "logits_buv")
    assert [field for field, yes in reached.items() if yes] == [own]
    assert (np.asarray(getattr(gradient, own))[2] == 0).all()


def test_ctc_leaves_the_end_of_sentence_out_where_there_is_one():
    outputs, tokens, lengths = make_batch()
    for append_eos, spoken in [(True, np.maximum(lengths - 1, 0)), (False, lengths)]:
        parts = run(LossConfig(ctc_weight=0.3), append_eos=append_eos)[1]
        expected = float(compiled_ctc_loss(outputs.ctc_logits_btv, FRAME_LENGTHS, tokens, spoken)) / 12
        assert parts["ctc"] == pytest.approx(expected, rel=1e-5), append_eos


@pytest.mark.parametrize(
    ("name", "value", "others"),
    [
        ("label_smoothing", 0.4, {}),
        ("quantity_weight", 2.0, {}),
        ("ctc_weight", 0.6, {"ctc_weight": 0.3}),
        ("mwer_weight", 0.2, {}),
        ("mwer_candidates", 9, {"mwer_weight": 0.2}),
        ("mwer_mask_share", 0.9, {"mwer_weight": 0.2}),
    ],
)
def test_every_setting_reaches_the_loss(name, value, others):
    assert abs(run(LossConfig(**others))[0] - run(LossConfig(**{**others, name: value}))[0]) > 1e-4


def test_the_key_draws_the_hypotheses():
    config = LossConfig(mwer_weight=0.2)
    assert run(config)[1]["mwer"] != run(config, key=jax.random.key(5))[1]["mwer"]


def test_parts_without_weight_are_left_out():
    outputs, tokens, lengths = make_batch()
    outputs = types.SimpleNamespace(**{**vars(outputs), "ctc_logits_btv": None})
    loss = partial(paraformer_loss, outputs, tokens, lengths, LossConfig(), append_eos=True)
    _, parts = jax.eval_shape(lambda normalizer: loss(normalizer=normalizer), jnp.float32(12))
    assert set(parts) == {"cross_entropy", "quantity"}


def test_a_missing_head_or_key_is_named():
    outputs, tokens, lengths = make_batch()
    for missing, changed in [
        ("needs a key", outputs),
        (r"model\.ctc_head", dataclasses.replace(outputs, ctc_logits_btv=None)),
    ]:
        loss = partial(paraformer_loss, changed, tokens, lengths, FULL, append_eos=True)
        with pytest.raises(ValueError, match=missing):
            jax.eval_shape(lambda normalizer, loss=loss: loss(normalizer=normalizer), jnp.float32(12))


def test_parts_may_be_divided_by_the_utterances():
    outputs, tokens, lengths = make_batch()
    by_tokens = run(FULL, normalizer=1.0)[1]
    config = dataclasses.replace(FULL, ctc_normaliser="utterances")
    with pytest.raises(ValueError, match="needs num_utterances"):
        run(config)
    settings = {"append_eos": True, "normalizer": jnp.float32(12), "num_utterances": jnp.float32(3)}
    loss, parts = compiled(outputs, tokens, lengths, config, key=jax.random.key(0), **settings)
    for name in PARTS:
        assert parts[name] == pytest.approx(float(by_tokens[name]) / (3 if name == "ctc" else 12), rel=1e-5), name
    assert loss == pytest.approx(float(weigh(parts, FULL)), rel=1e-6)
    config = dataclasses.replace(config, normaliser="utterances", ctc_normaliser="tokens")
    parts = compiled(outputs, tokens, lengths, config, key=jax.random.key(0), **settings)[1]
    assert parts["quantity"] == pytest.approx(float(by_tokens["quantity"]) / 3, rel=1e-5)
    assert parts["ctc"] == pytest.approx(float(by_tokens["ctc"]) / 12, rel=1e-5)
