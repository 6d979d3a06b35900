"""The train step and the evaluation step."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from seg.classes import IGNORE_LABEL
from seg.losses import deep_supervision_loss
from seg.metrics import confusion_matrix
from seg.training.state import TrainState

Batch = dict[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]

FILLER, PREDICTED, COUNTED = 0, 1, 2
"""Roles of a sample in an evaluation: fills the batch up; is predicted; is also compared with its labels, as it is."""


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    augment: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    *,
    seed: int,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Return `train_step(state, batch) → (state, metrics)`, pure: the same arguments give the same result.

    Its randomness is a function of (seed, state.step), so a run that resumes needs nothing but the state.

    Args:
        model: a Flax module, `apply(variables, image_bhwc, train) → logits_bhwk`.
        optimizer: an optax transformation.
        loss: `(logits_bhwk, labels_bhw) → float32[]`.
        augment: `(key, image_bhwc uint8, labels_bhw) → (image_bhwc float32, labels_bhw)`.
        seed: of augmentation, dropout and stochastic depth.
        accumulate: number of parts that a batch is computed in; their gradients are averaged.
        ema_decay: decay of the averaged weights; 0 keeps none.
    """
    objective = make_objective(model, loss)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        image_bhwc, labels_bhw, model_key = prepare(augment, seed, state.step, batch)
        value, batch_stats, grads = mean_gradient(
            objective, accumulate, state.params, state.batch_stats, image_bhwc, labels_bhw, model_key
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_params=moving_average(state.ema_params, params, ema_decay, state.step),
            ema_batch_stats=moving_average(state.ema_batch_stats, batch_stats, ema_decay, state.step),
        )
        return new_state, {"loss": value, "grad_norm": optax.tree.norm(grads)}

    return train_step


def make_objective(model: nn.Module, loss: Loss) -> Callable:
    """Return `objective(params, batch_stats, image_bhwc, labels_bhw, key) → (loss, batch_stats)`."""

    def objective(params, batch_stats, image_bhwc, labels_bhw, key):
        logits_bhwk, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            image_bhwc,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats", "auxiliary"],
        )
        auxiliary = updated.get("auxiliary", {}).get("logits", ())
        value = deep_supervision_loss(loss, logits_bhwk, auxiliary, labels_bhw)
        return value, updated.get("batch_stats", {})

    return objective


def prepare(augment: Callable, seed: int, step: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (image_bhwc, labels_bhw) as the model is given them at a step, and the key of its dropout."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    augment_key, model_key = jax.random.split(key)
    return *augment(augment_key, batch["image"], batch["label"]), model_key


def split_into_parts(parts: int, image_bhwc, labels_bhw, key) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return images, labels and keys with a leading axis of equal parts.

    Every parts-th sample goes to the same part: a batch that is spread over devices stays spread. One part has the
    key itself.
    """
    images, labels = (jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1) for x in (image_bhwc, labels_bhw))
    return images, labels, key[None] if parts == 1 else jax.random.split(key, parts)


def mean_gradient(objective, parts: int, params, batch_stats, image_bhwc, labels_bhw, key):
    """Return (loss, batch_stats, gradient), each averaged over `parts` equal parts of the batch.

    The parts run one after the other under `lax.scan`, so the activations of one part at a time are alive.
    """
    value_and_grad = jax.value_and_grad(objective, has_aux=True)
    if parts == 1:
        (value, batch_stats), grads = value_and_grad(params, batch_stats, image_bhwc, labels_bhw, key)
        return value, batch_stats, grads

    def part(carry, inputs):
        total, batch_stats, total_grads = carry
        (value, batch_stats), grads = value_and_grad(params, batch_stats, *inputs)
        return (total + value, batch_stats, jax.tree.map(jnp.add, total_grads, grads)), None

    start = (jnp.zeros(()), batch_stats, jax.tree.map(jnp.zeros_like, params))
    (total, batch_stats, grads), _ = jax.lax.scan(part, start, split_into_parts(parts, image_bhwc, labels_bhw, key))
    return total / parts, batch_stats, jax.tree.map(lambda g: g / parts, grads)


def moving_average(average: Any, value: Any, decay: float, step: jax.Array) -> Any:
    """Return a + (1 − d)(value − a) with d = min(decay, (1 + step) / (10 + step)); None stays None.

    The smaller decay at the start keeps the random initial weights out of the average.
    """
    if average is None:
        return None
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, v: a + (1.0 - d) * (v - a), average, value)


def make_eval_step(
    model: nn.Module, loss: Loss, preprocess: Callable, num_classes: int, *, mirror: bool = False
) -> Callable[[dict[str, Any], Batch], dict[str, jax.Array]]:
    """Return `eval_step(variables, batch) → {"loss", "confusion_kk", "predicted_bhw", "probabilities_bhwk", "busy"}`.

    "busy" is the number of samples whose role is not `FILLER`. A batch without roles is all `COUNTED`.

    Args:
        model: `apply(variables, image_bhwc, train) → logits_bhwk`.
        loss: `(logits_bhwk, labels_bhw) → float32[]`, of the images as they are.
        preprocess: `(image_bhwc uint8, labels_bhw) → (image_bhwc float32, labels_bhw)`.
        num_classes: k.
        mirror: average the probabilities with those of the mirrored images, as prediction is told to.
    """

    def eval_step(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        image_bhwc, labels_bhw = preprocess(batch["image"], batch["label"])
        logits_bhwk = model.apply(variables, image_bhwc, train=False)
        probabilities_bhwk = jax.nn.softmax(logits_bhwk, axis=-1)
        if mirror:
            mirrored_bhwk = jax.nn.softmax(model.apply(variables, image_bhwc[:, :, ::-1], train=False), axis=-1)
            probabilities_bhwk = (probabilities_bhwk + mirrored_bhwk[:, :, ::-1]) / 2
        predicted_bhw = jnp.argmax(probabilities_bhwk, axis=-1).astype(jnp.int32)
        role_b = batch.get("role", jnp.full(len(labels_bhw), COUNTED))
        counted_bhw = jnp.where((role_b == COUNTED)[:, None, None], labels_bhw, IGNORE_LABEL)
        return {
            "loss": loss(logits_bhwk, labels_bhw),
            "confusion_kk": confusion_matrix(predicted_bhw, counted_bhw, num_classes),
            "predicted_bhw": predicted_bhw.astype(jnp.uint8),
            "probabilities_bhwk": probabilities_bhwk,
            "busy": jnp.sum(role_b != FILLER),
        }

    return eval_step
