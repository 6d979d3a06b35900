"""The train step and the evaluation step.

Letters: b batch, n samples of sound, t frames, i input width, u token positions, v vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from asr.config import Config
from asr.custom import Loss
from asr.decode.greedy import greedy
from asr.losses import divisor, paraformer_loss
from asr.ops.masks import length_mask
from asr.training.state import TrainState

Batch = dict[str, jax.Array]
"""wave float32[b, n], wave_lengths int32[b], tokens int32[b, u], token_lengths int32[b]."""

Counts = dict[str, jax.Array]  # totals of a batch: tokens float32[], utterances float32[]

Metrics = dict[str, jax.Array]

ROWS_PER_TOKEN, SPARE_ROWS = 1.5, 4
"""Decoding has 1.5 u + 4 rows for u true tokens; an untrained predictor that counts more tokens is cut off there."""


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    frontend: Callable,
    config: Config,
    loss: Loss | None = None,
    objective: Callable | None = None,
) -> Callable[..., tuple[TrainState, Metrics, jax.Array]]:
    """Return `train_step(state, batch, healthy, stop_d) → (state, metrics, healthy)`, pure.

    The same arguments give the same result: all randomness is a function of (seed, state.step), so a run that resumes
    needs nothing but the state.

    The metrics are loss, its terms, token_accuracy (of the second pass) and grad_norm, float32[]; finite, bool[]; and
    stop, int32[], the number of devices whose process wants to stop. `stop_d`, int32[devices], has a 1 on each of them:
    the step itself carries the request to all processes, so that all of them stop after the same step. For `healthy`,
    see `keep_if_finite`.

    Args:
        model: a Paraformer.
        optimizer: an optax transformation.
        frontend: of training, `(key, wave_bn, wave_lengths_b) → (features_bti, feature_lengths_b)`.
        config: seed, loss, and of training `accumulate`, the number of parts that a batch is computed in, `ema_decay`,
            of the averaged weights, and `on_non_finite`.
        loss: the caller's own, instead of that of the config.
        objective: the caller's own, instead of that of `make_objective`.
    """
    objective, settings = objective or make_objective(model, frontend, config, loss), config.training

    def train_step(state: TrainState, batch: Batch, healthy: jax.Array | bool = True, stop_d: jax.Array | int = 0):
        # The step's own key: nothing is carried from step to step, so a resumed run draws what it would have drawn.
        key = step_key(config, state.step)
        grads, metrics = summed_gradient(objective, settings.accumulate, state.params, batch, key)
        # With a sharded batch the gradient is that of the global batch: the compiler inserts the all-reduce.
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema_params=moving_average(state.ema_params, params, settings.ema_decay, state.step),
        )
        metrics |= {"grad_norm": optax.tree.norm(grads), "stop": jnp.sum(stop_d)}
        return keep_if_finite(state, new_state, metrics, healthy, settings.on_non_finite)

    return train_step


def keep_if_finite(
    old: TrainState,
    new: TrainState,
    metrics: Metrics,
    healthy: jax.Array | bool,
    on_non_finite: Literal["stop", "skip"],
) -> tuple[TrainState, Metrics, jax.Array]:
    """Return (state, metrics with "finite", healthy): the new state if the loss and the gradient norm are finite.

    The host reads the numbers of a step when the next one is under way already. So the device decides, and the old
    state is still there when the host learns of a fault. With "skip" a step that is not finite counts all the same, and
    the next one has the next batch. With "stop" it does not, and no later step changes the state either: `healthy` is
    False from then on.
    """
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    # The averages and moments of a bad step are dropped with it; `step` decides about the next batch.
    kept = old.replace(step=old.step + 1) if on_non_finite == "skip" else old
    # A select, not a product: 0 · NaN is NaN.
    state = jax.tree.map(lambda n, o: jnp.where(finite & healthy, n, o), new, kept)
    return state, metrics | {"finite": finite}, healthy & finite if on_non_finite == "stop" else healthy


def make_objective(model: nn.Module, frontend: Callable, config: Config, loss: Loss | None = None) -> Callable:
    """Return `objective(params, part, counts, key) → (loss, metrics)`; arguments as of `make_train_step`."""

    def objective(params, part: Batch, counts: Counts, key) -> tuple[jax.Array, Metrics]:
        augment_key, dropout_key, sampler_key, mwer_key = jax.random.split(key, 4)
        # The features are computed in the step, on the device: augmentation is part of the compiled program.
        features_bti, lengths_b = frontend(augment_key, part["wave"], part["wave_lengths"])
        rngs = {"dropout": dropout_key, "sampler": sampler_key}
        targets = part["tokens"], part["token_lengths"]
        outputs = model.apply({"params": params}, features_bti, lengths_b, *targets, train=True, rngs=rngs)
        return training_loss(outputs, *targets, config, counts, mwer_key, loss)

    return objective


def step_key(config: Config, step: jax.Array) -> jax.Array:
    """Return the key that all randomness of a step comes from."""
    return jax.random.fold_in(jax.random.key(config.seed), step)


def count(batch: Batch) -> dict[str, jax.Array]:
    """Return the numbers of tokens and of utterances in a batch, int32[]; padding rows do not count."""
    return {"tokens": jnp.sum(batch["token_lengths"]), "utterances": jnp.sum(batch["wave_lengths"] > 0)}


def split_into_parts(parts: int, batch: Batch, key: jax.Array) -> tuple[Counts, Batch, jax.Array]:
    """Return (what the batch counts, its parts, their keys), the last two with a leading axis of parts."""
    # Every parts-th row goes to the same part: a batch that is sharded over devices stays sharded.
    counts = {name: jnp.maximum(number, 1).astype(jnp.float32) for name, number in count(batch).items()}
    rows = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), batch)
    return counts, rows, key[None] if parts == 1 else jax.random.split(key, parts)


def training_loss(
    outputs, tokens_bu, token_lengths_b, config: Config, counts: Counts, key, loss: Loss | None = None
) -> tuple[jax.Array, Metrics]:
    """Return the loss and, with it, what is reported of it: sums over the rows, divided by the counts.

    As sums they can be added over the parts of a batch, however the tokens are spread over the parts.
    """
    if loss is None:
        settings = {"append_eos": config.model.predictor.append_eos, "key": key}
        settings |= {"normalizer": counts["tokens"], "num_utterances": counts["utterances"]}
        value, terms = paraformer_loss(outputs, tokens_bu, token_lengths_b, config.loss, **settings)
    else:
        value = loss(outputs, tokens_bu, token_lengths_b) / counts[divisor("custom", config.loss)]
        terms = {"custom": value}
    real_bu = length_mask(token_lengths_b, tokens_bu.shape[1])
    hits = jnp.sum((jnp.argmax(outputs.logits_buv, axis=-1) == tokens_bu) & real_bu)
    return value, {"loss": value, "token_accuracy": hits / counts["tokens"]} | terms


def summed_gradient(objective, parts: int, params, batch: Batch, key) -> tuple[Any, Metrics]:
    """Return (gradient, metrics), each summed over `parts` equal parts of the batch."""
    # Every part divides by the counts of the whole batch, so that the sum is the gradient of the whole batch.
    counts, rows, keys = split_into_parts(parts, batch, key)
    gradient = jax.grad(objective, has_aux=True)
    if parts == 1:
        return gradient(params, batch, counts, key)

    def add_part(total, inputs):
        part, part_key = inputs
        return jax.tree.map(jnp.add, total, gradient(params, part, counts, part_key)), None

    # One part after the other: the activations of a single part are alive at a time.
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], rows), counts, key)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add_part, nothing, (rows, keys))[0]


def moving_average(average: Any, value: Any, decay: float, step: jax.Array) -> Any:
    """Return a + (1 − d)(value − a) with d = min(decay, (1 + step) / (10 + step)); None stays None."""
    if average is None:
        return None
    # The smaller decay at the start keeps the random initial weights out of the average.
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, v: a + (1.0 - d) * (v - a), average, value)


def num_decoding_rows(num_tokens: int) -> int:
    """Return the rows that decoding has for a batch whose true token sequences are padded to `num_tokens`."""
    return math.ceil(ROWS_PER_TOKEN * num_tokens) + SPARE_ROWS


def make_eval_step(
    model: nn.Module, frontend: Callable, spectrogram: Callable, config: Config, loss: Loss | None = None
) -> Callable[[dict[str, Any], Batch], dict[str, Any]]:
    """Return `eval_step(variables, batch, stop_d) → results`.

    The loss is that of the training path, aligned by the true number of tokens, without dropout. The transcripts are
    those of the decoding path, which knows the sound alone.

    The results: `sums`, the terms of `training_loss` as plain sums; `counts`, what they are divided by;
    `quantity_error_b`, |N − Σ alpha|; the decoded `tokens_bu` and `token_lengths_b`; and what a picture of an alignment
    needs: `mel_btm`, `mel_lengths_b`, `feature_lengths_b` and `alignment_but`, tail included; `stop` as of
    `make_train_step`.

    `frontend` maps (wave_bn, wave_lengths_b) to (features_bti, feature_lengths_b); `spectrogram` is the same before
    stacking and normalisation, for pictures. `loss` is the caller's own, instead of that of the config.
    """

    def eval_step(variables: dict[str, Any], batch: Batch, stop_d: jax.Array | int = 0) -> dict[str, Any]:
        features_bti, lengths_b = frontend(batch["wave"], batch["wave_lengths"])
        targets = batch["tokens"], batch["token_lengths"]
        outputs = model.apply(variables, features_bti, lengths_b, *targets, train=False)
        ones = {"tokens": jnp.float32(1), "utterances": jnp.float32(1)}
        # Divisors of 1 give plain sums, which can be added over batches of any size.
        _, sums = training_loss(outputs, *targets, config, ones, jax.random.key(config.seed), loss)
        del sums["loss"]  # its parts may have different divisors
        # The decoding path predicts the number of tokens itself.
        acoustics = model.apply(variables, features_bti, lengths_b, method="encode")
        num_rows = num_decoding_rows(batch["tokens"].shape[1])
        hypotheses = model.apply(variables, acoustics, num_rows, method="decode")
        tokens_bu, _ = greedy(hypotheses.logits_buv, hypotheses.token_lengths_b)
        mel_btm, mel_lengths_b = spectrogram(batch["wave"], batch["wave_lengths"])
        return {
            "sums": sums,
            "counts": count(batch),
            "quantity_error_b": jnp.abs(batch["token_lengths"] - outputs.token_count_b),
            "tokens_bu": tokens_bu,
            "token_lengths_b": hypotheses.token_lengths_b,
            "mel_btm": mel_btm,
            "mel_lengths_b": mel_lengths_b,
            "feature_lengths_b": lengths_b,
            "alignment_but": hypotheses.alignment_but,
            "stop": jnp.sum(stop_d),
        }

    return eval_step
