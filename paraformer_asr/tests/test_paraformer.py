"""The whole network: sizes, the independence of an utterance from its batch, the passes, one batch learned."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asr.config import DecoderConfig, EncoderConfig, ModelConfig, PredictorConfig
from asr.errors import UserError
from asr.models import abstract_variables, build_model, count_parameters
from drawn import draw_like

WIDTH_IN, V = 10, 12
SMALL = ModelConfig(
    vocab_size=V,
    input_dim=WIDTH_IN,
    ctc_head=True,
    encoder=EncoderConfig(num_layers=1, width=16, num_heads=2, ffn_width=32, kernel_size=5, dropout=0.0),
    predictor=PredictorConfig(initial_bias=-1.0),
    decoder=DecoderConfig(num_layers=1, num_heads=2, ffn_width=32, kernel_size=5, dropout=0.0),
)


@functools.cache
def run(module):
    """Return the compiled `module.apply`."""
    return jax.jit(module.apply, static_argnames=("train", "method", "num_rows"))


def draw_batch(seed, lengths, token_lengths):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(lengths), max(lengths), WIDTH_IN)).astype(np.float32)
    tokens = rng.integers(3, V, (len(lengths), max(token_lengths))).astype(np.int32)
    return features, np.array(lengths, np.int32), tokens, np.array(token_lengths, np.int32)


@functools.cache
def start(config=SMALL):
    return build_model(config), draw_like(abstract_variables(config)), draw_batch(0, [14, 9], [5, 3])


def test_the_published_settings_are_paraformer_large():
    shapes = abstract_variables(ModelConfig(vocab_size=8404, input_dim=560))
    assert count_parameters(shapes["params"]) == 220_084_533
    assert round(count_parameters(shapes["params"]) / 1e6, 2) == 220.08


def test_a_vocabulary_is_needed():
    with pytest.raises(UserError, match=r"model\.vocab_size"):
        build_model(dataclasses.replace(SMALL, vocab_size=0))


@functools.cache
def trained():
    """Return what training makes of the batch."""
    model, variables, batch = start()
    return jax.device_get(run(model)(variables, *batch, train=False))


@functools.cache
def transcribe(model):
    """Return the compiled function (variables, features, lengths, num_rows) → acoustics, hypotheses."""

    def both(variables, features, lengths, num_rows):
        acoustics = model.apply(variables, features, lengths, method="encode")
        return acoustics, model.apply(variables, acoustics, num_rows, method="decode")

    return jax.jit(both, static_argnums=3)


def test_shapes_and_dtypes_of_both_paths():
    model, variables, batch = start()
    outputs = trained()
    shapes = {field.name: getattr(outputs, field.name).shape for field in dataclasses.fields(outputs)}
    assert shapes == {
        "logits_buv": (2, 5, V),
        "first_logits_buv": (2, 5, V),
        "token_count_b": (2,),
        "alignment_but": (2, 5, 14),
        "frame_lengths_b": (2,),
        "ctc_logits_btv": (2, 14, V),
    }
    acoustics, hypotheses = transcribe(model)(variables, *batch[:2], 7)
    assert acoustics.alpha_bt.shape == (2, 15) and acoustics.token_count_b.dtype == jnp.int32
    assert hypotheses.logits_buv.shape == (2, 7, V) and hypotheses.alignment_but.shape == (2, 7, 15)
    assert hypotheses.token_lengths_b.tolist() == np.minimum(acoustics.token_count_b, 7).tolist()


def test_exactly_one_full_row_for_each_target_token():
    alignment = trained().alignment_but
    np.testing.assert_allclose(alignment.sum(2), [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], atol=1e-5)
    assert not alignment[1, :, 9:].any()


def test_no_utterance_depends_on_its_padding_or_its_neighbours():
    """By gradient, along both paths: the second utterance's answer does not see frame 9 and later, nor the first."""
    model, variables, (features, lengths, tokens, token_lengths) = start()

    def of_training(features):
        outputs = model.apply(variables, features, lengths, tokens, token_lengths, train=False)
        return outputs.logits_buv[1, :3].sum() + outputs.token_count_b[1] + outputs.ctc_logits_btv[1, :9].sum()

    def of_transcription(features):
        acoustics = model.apply(variables, features, lengths, method="encode")
        return jnp.square(model.apply(variables, acoustics, 5, method="decode").logits_buv[1, :3]).sum()

    for answer in (of_training, of_transcription):
        value_and_gradient = jax.jit(jax.value_and_grad(answer))
        value, gradient = jax.device_get(value_and_gradient(features))
        assert gradient[1, :9].any() and not gradient[1, 9:].any() and not gradient[0].any()
        poisoned = np.where(np.arange(14)[None, :, None] < lengths[:, None, None], features, np.nan)
        assert value_and_gradient(poisoned)[0] == value


@pytest.mark.parametrize("kind", ["sanm", "conformer", "conv"])
def test_64_utterances_give_the_same_tokens_alone_in_pairs_and_in_one_batch(kind):
    layers = 2 if kind == "sanm" else 1  # the first SAN-M block is another one
    encoder = dataclasses.replace(SMALL.encoder, kind=kind, num_layers=layers)
    model, variables, _ = start(dataclasses.replace(SMALL, encoder=encoder))
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 33, 64).astype(np.int32)
    features = rng.normal(size=(64, 40, WIDTH_IN)).astype(np.float32)

    @jax.jit
    def transcribe(features, lengths):
        acoustics = model.apply(variables, features, lengths, method="encode")
        hypotheses = model.apply(variables, acoustics, 40, method="decode")
        return hypotheses.logits_buv.argmax(-1), acoustics.token_count_b, hypotheses.logits_buv

    def read(indices, width):
        padding = rng.normal(size=(len(indices), width, WIDTH_IN)) * 50  # what stands in padded frames must not matter
        padded = np.where(
            np.arange(width)[None, :, None] < lengths[indices][:, None, None], features[indices, :width], padding
        )
        tokens, counts, logits = map(np.asarray, transcribe(padded.astype(np.float32), lengths[indices]))
        return [(t[:c].tolist(), lg[:c]) for t, c, lg in zip(tokens, counts, logits, strict=True)]

    together = read(np.arange(64), 40)
    in_pairs = sum((read(np.array([n, n + 1]), 36) for n in range(0, 64, 2)), [])
    alone = sum((read(np.array([n]), 33) for n in range(64)), [])
    assert sum(len(tokens) for tokens, _ in alone) > 200
    for one, two, many in zip(alone, in_pairs, together, strict=True):
        assert one[0] == two[0] == many[0]
        np.testing.assert_allclose(many[1], one[1], atol=1e-4)


def test_no_frames_give_no_tokens_and_no_nan():
    model, variables, (features, _, _, _) = start()
    acoustics, hypotheses = transcribe(model)(variables, features, np.array([0, 1], np.int32), 7)
    assert acoustics.token_count_b[0] == 0 and not np.asarray(acoustics.hidden_btd[0]).any()
    assert np.isfinite(hypotheses.logits_buv).all()


def test_rows_that_fill_a_batch_up_get_no_gradient():
    model, variables, (features, lengths, tokens, token_lengths) = start()
    empty = np.array([0, 9], np.int32), np.array([0, 3], np.int32)

    def loss(variables, features):
        outputs = model.apply(variables, features, empty[0], tokens, empty[1], train=False)
        return jnp.square(outputs.logits_buv[1]).sum() + outputs.token_count_b.sum()

    by_variables, by_features = jax.device_get(jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, features))
    assert not by_features[0].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(by_variables))


def test_the_first_pass_has_no_gradient_and_the_second_sees_labels(keys):
    model, variables, batch = start()
    rngs = {"dropout": keys(), "sampler": keys()}

    @jax.jit
    def gradients(variables):
        def both(variables):
            outputs = model.apply(variables, *batch, train=True, rngs=rngs)
            return [jnp.square(logits).sum() for logits in (outputs.first_logits_buv, outputs.logits_buv)]

        pull_back = jax.vjp(both, variables)[1]
        return [pull_back(list(weights))[0]["params"] for weights in np.eye(2, dtype=np.float32)]

    first, second = jax.device_get(gradients(variables))
    assert not any(leaf.any() for leaf in jax.tree.leaves(first))
    assert second["decoder"]["embedding"].any() and second["predictor"]["kernel"].any()


def test_without_sampler_there_is_one_pass(key):
    decoder = dataclasses.replace(SMALL.decoder, dropout=0.1)  # of two passes, each would draw its own
    model, variables, batch = start(dataclasses.replace(SMALL, sampling_ratio=0.0, decoder=decoder))
    outputs = run(model)(variables, *batch, train=True, rngs={"dropout": key})
    np.testing.assert_array_equal(outputs.logits_buv, outputs.first_logits_buv)


def test_bfloat16_computes_close_to_float32():
    _, variables, batch = start()
    half = build_model(dataclasses.replace(SMALL, dtype="bfloat16"))
    one, other = trained(), run(half)(variables, *batch, train=False)
    assert other.logits_buv.dtype == jnp.float32 and other.alignment_but.dtype == jnp.float32
    np.testing.assert_allclose(other.logits_buv, one.logits_buv, atol=0.15)
    np.testing.assert_allclose(other.token_count_b, one.token_count_b, rtol=0.02)


def test_one_batch_is_learned_by_heart(key):
    model, variables, batch = start()
    tokens, lengths = batch[2], batch[3]
    valid = np.arange(5)[None] < lengths[:, None]
    optimizer = optax.adam(1e-2)

    def step(carry, n):
        params, state = carry

        def loss(params):
            outputs = model.apply(
                {"params": params},
                *batch,
                train=True,
                rngs=dict.fromkeys(("dropout", "sampler"), jax.random.fold_in(key, n)),
            )
            errors = optax.softmax_cross_entropy_with_integer_labels(outputs.logits_buv, tokens)
            return jnp.where(valid, errors, 0).sum() + jnp.abs(outputs.token_count_b - lengths).sum()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def learn(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(150))[0][0]

    acoustics, hypotheses = transcribe(model)({"params": learn(variables["params"])}, *batch[:2], 7)
    assert acoustics.token_count_b.tolist() == lengths.tolist()
    assert (np.asarray(hypotheses.logits_buv)[:, :5].argmax(-1) == tokens)[valid].all()
