"""The train step and the evaluation step."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from seg.classes import IGNORE_LABEL
from seg.labels import Labels
from seg.losses import deep_supervision_loss
from seg.ops.views import average_views
from seg.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]

FILLER, PREDICTED, COUNTED = 0, 1, 2
"""Roles of a sample in an evaluation: padding of the batch; predicted; predicted and compared with its labels."""


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    augment: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    *,
    seed: int,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    on_non_finite: Literal["stop", "skip"] = "stop",
) -> Callable[..., tuple[TrainState, Metrics, jax.Array]]:
    """Return `train_step(state, batch, healthy, stop_d) → (state, metrics, healthy)`, pure.

    The same arguments give the same result: all randomness is a function of (seed, state.step), so a run that resumes
    needs nothing but the state.

    The metrics are loss and grad_norm, float32[]; finite, bool[]; and stop, int32[], the number of devices whose
    process wants to stop. `stop_d`, int32[devices], has a 1 on each of them: the step itself carries the request to all
    processes, so that all of them stop after the same step. For `healthy`, see `keep_if_finite`.

    Args:
        model: a Flax module, `apply(variables, image_bhwc, train) → logits_bhwk`.
        optimizer: an optax transformation.
        loss: `(logits_bhwk, labels_bhw) → float32[]`.
        augment: `(key, image_bhwc, labels_bhw) → (image_bhwc float32, labels_bhw)`.
        seed: of augmentation, dropout and stochastic depth.
        accumulate: number of parts that a batch is computed in; their gradients are averaged.
        ema_decay: decay of the averaged weights; 0 keeps none.
        on_non_finite: what happens to a step that is not finite.
    """
    objective = make_objective(model, loss)

    def train_step(state: TrainState, batch: Batch, healthy: jax.Array | bool = True, stop_d: jax.Array | int = 0):
        image_bhwc, labels_bhw, key = prepare(augment, seed, state.step, batch)
        mean_loss, batch_stats, grads = mean_gradient(
            objective, accumulate, state.params, state.batch_stats, image_bhwc, labels_bhw, key
        )
        # With a sharded batch the gradient is that of the global batch: the compiler inserts the all-reduce.
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_params=moving_average(state.ema_params, params, ema_decay, state.step),
            ema_batch_stats=moving_average(state.ema_batch_stats, batch_stats, ema_decay, state.step),
        )
        metrics = {"loss": mean_loss, "grad_norm": optax.tree.norm(grads), "stop": jnp.sum(stop_d)}
        return keep_if_finite(state, new_state, metrics, healthy, on_non_finite)

    return train_step


def keep_if_finite(
    old: TrainState,
    new: TrainState,
    metrics: Metrics,
    healthy: jax.Array | bool,
    on_non_finite: Literal["stop", "skip"],
) -> tuple[TrainState, Metrics, jax.Array]:
    """Return (state, metrics with "finite", healthy): the new state if loss, gradient norm and statistics are finite.

    The host reads the numbers of a step when the next one is under way already. So the device decides, and the old
    state is still there when the host learns of a fault. With "skip" a step that is not finite counts all the same, and
    the next one has the next batch. With "stop" it does not, and no later step changes the state either: `healthy` is
    False from then on.
    """
    numbers = metrics["loss"], metrics["grad_norm"], new.batch_stats
    finite = jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers)]))
    # The averages and moments of a bad step are dropped with it; `step` decides about the next batch.
    kept = old.replace(step=old.step + 1) if on_non_finite == "skip" else old
    # A select, not a product: 0 · NaN is NaN.
    state = jax.tree.map(lambda n, o: jnp.where(finite & healthy, n, o), new, kept)
    return state, metrics | {"finite": finite}, healthy & finite if on_non_finite == "stop" else healthy


def make_objective(model: nn.Module, loss: Loss) -> Callable:
    """Return `objective(params, batch_stats, image_bhwc, labels_bhw, key) → (loss, batch_stats)`."""

    def objective(params, batch_stats, image_bhwc, labels_bhw, key):
        output, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            image_bhwc,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        stages = output if isinstance(output, tuple) else (output,)  # of several stages with deep supervision
        return deep_supervision_loss(loss, stages, labels_bhw), updated.get("batch_stats", {})

    return objective


def prepare(augment: Callable, seed: int, step: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (image_bhwc, labels_bhw), augmented as at a step of the run, and the key of the model's dropout."""
    # The step's own key: nothing is carried from step to step, so a resumed run draws what it would have drawn.
    key = jax.random.fold_in(jax.random.key(seed), step)
    augment_key, model_key = jax.random.split(key)
    return *augment(augment_key, batch["image"], batch["label"]), model_key


def split_into_parts(parts: int, image_bhwc, labels_bhw, key) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return images, labels and keys with a leading axis of equal parts. A single part has the key itself."""
    # Every parts-th sample goes to the same part: a batch that is sharded over devices stays sharded.
    images, labels = (jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1) for x in (image_bhwc, labels_bhw))
    return images, labels, key[None] if parts == 1 else jax.random.split(key, parts)


def mean_gradient(objective, parts: int, params, batch_stats, image_bhwc, labels_bhw, key):
    """Return (loss, batch_stats, gradient), each averaged over `parts` equal parts of the batch."""
    value_and_grad = jax.value_and_grad(objective, has_aux=True)
    if parts == 1:
        (value, batch_stats), grads = value_and_grad(params, batch_stats, image_bhwc, labels_bhw, key)
        return value, batch_stats, grads

    def part(carry, inputs):
        total, batch_stats, total_grads = carry
        (value, batch_stats), grads = value_and_grad(params, batch_stats, *inputs)
        return (total + value, batch_stats, jax.tree.map(jnp.add, total_grads, grads)), None

    # One part after the other: the activations of a single part are alive at a time.
    start = (jnp.zeros(()), batch_stats, jax.tree.map(jnp.zeros_like, params))
    (total, batch_stats, grads), _ = jax.lax.scan(part, start, split_into_parts(parts, image_bhwc, labels_bhw, key))
    return total / parts, batch_stats, jax.tree.map(lambda g: g / parts, grads)


def moving_average(average: Any, value: Any, decay: float, step: jax.Array) -> Any:
    """Return a + (1 − d)(value − a) with d = min(decay, (1 + step) / (10 + step)); None stays None."""
    if average is None:
        return None
    # The smaller decay at the start keeps the random initial weights out of the average.
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, v: a + (1.0 - d) * (v - a), average, value)


def make_eval_step(
    model: nn.Module,
    loss: Loss,
    preprocess: Callable,
    labels: Labels,
    *,
    mirror: bool = False,
    scales: Sequence[float] = (),
) -> Callable[..., dict[str, jax.Array]]:
    """Return `eval_step(variables, batch, stop_d) → results`.

    The results are "loss", "probabilities_bhwk", "decided" and "counts" as of `seg.labels`, "stop" as of
    `make_train_step`, and "busy", the number of samples whose role is not `FILLER`. A batch without roles is all
    `COUNTED`.

    Args:
        model: `apply(variables, image_bhwc, train) → logits_bhwk`.
        loss: `(logits_bhwk, labels_bhw) → float32[]`, of the images as they are.
        preprocess: `(image_bhwc, labels_bhw) → (image_bhwc float32, labels_bhw)`.
        labels: of which kind the labels are.
        mirror: average the probabilities with those of the mirrored images, as prediction does with this setting.
        scales: average those at these scales, as prediction does.
    """

    def eval_step(variables: dict[str, Any], batch: Batch, stop_d: jax.Array | int = 0) -> dict[str, jax.Array]:
        image_bhwc, truth = preprocess(batch["image"], batch["label"])

        def logits(x_bhwc: jax.Array) -> jax.Array:
            # Inference mode: running statistics instead of the batch's, no dropout.
            return model.apply(variables, x_bhwc, train=False)

        logits_bhwk = logits(image_bhwc)
        probabilities_bhwk = labels.probabilities(logits_bhwk)
        if mirror or scales:
            views = {"mirror": mirror, "scales": scales}
            probabilities_bhwk = average_views(lambda x_bhwc: labels.probabilities(logits(x_bhwc)), image_bhwc, **views)
        decided = labels.decide(probabilities_bhwk)
        role_b = batch.get("role", jnp.full(len(truth), COUNTED))
        # Only samples whose own pixels the window shows are counted here; the others are scored at their own size.
        is_counted = (role_b == COUNTED).reshape(-1, *[1] * (truth.ndim - 1))
        return {
            "loss": loss(logits_bhwk, truth),
            "counts": labels.count(decided, jnp.where(is_counted, truth, IGNORE_LABEL)),
            "decided": decided,
            "probabilities_bhwk": probabilities_bhwk,
            "busy": jnp.sum(role_b != FILLER),
            "stop": jnp.sum(stop_d),
        }

    return eval_step
