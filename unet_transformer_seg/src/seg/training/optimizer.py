"""The learning-rate schedule and the optimizer, from the config."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from seg.config import OptimizerConfig
from seg.training.parameter_groups import exclude_frozen, rate_factors


def build_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    A linear rise from 0 over `warmup_fraction · num_steps` steps, then with progress p from 0 to 1:
    cosine (1 + cos πp) / 2, poly (1 − p)^power, or constant 1, each times the peak rate.
    """
    warmup_steps = round(config.warmup_fraction * num_steps)
    decay_steps = max(num_steps - warmup_steps, 1)
    peak = config.learning_rate
    match config.schedule:
        case "cosine":
            decay = optax.cosine_decay_schedule(peak, decay_steps)
        case "poly":
            decay = optax.polynomial_schedule(peak, 0.0, config.poly_power, decay_steps)
        case "constant":
            decay = optax.constant_schedule(peak)
    if not warmup_steps:
        return decay
    # The first update takes 1 / warmup_steps of the peak, not 0.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, decay], [warmup_steps])


def build_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Return the chain clip → update rule → weight decay → learning rate → factor of the parameter.

    Frozen parameters are left out of all of it, see `exclude_frozen`.
    """
    rule = _build_rule(config, num_steps)
    if config.freeze:
        rule = exclude_frozen(rule, config.freeze)
    if config.rate_factors or config.layer_decay != 1:

        def scale(updates, _):
            return jax.tree.map(jnp.multiply, updates, rate_factors(config, updates))

        rule = optax.chain(rule, optax.stateless(scale))
    return rule


def _build_rule(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Return the chain that all trained parameters share."""
    schedule = build_schedule(config, num_steps)
    # Clipping comes first, so that the moments of Adam never see an outlier.
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    decay = optax.add_decayed_weights(config.weight_decay, mask=decayed)
    match config.name:
        case "adamw":
            # Decoupled: the decay is not divided by the second moment, as the gradient is (AdamW).
            return optax.chain(
                clip, optax.scale_by_adam(config.b1, config.b2), decay, optax.scale_by_learning_rate(schedule)
            )
        case "sgd":
            # The decay before the momentum: part of the gradient, as in torch.
            momentum = optax.trace(config.momentum, nesterov=True)
            return optax.chain(clip, decay, momentum, optax.scale_by_learning_rate(schedule))


def decayed(params: Any) -> Any:
    """Return for each parameter whether weight decay applies: to kernels and position tables only.

    Norm scales and biases are named `scale` and `bias`, whatever their rank (scanned layers stack them).
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("scale", "bias"), params)
