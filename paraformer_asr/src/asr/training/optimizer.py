"""The learning-rate schedule and the optimizer, from the config."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from asr.config import OptimizerConfig
from asr.training.parameter_groups import exclude_frozen, rate_factors


def build_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    A linear rise from 0 over w = `warmup_fraction · num_steps` steps, then with progress p from 0 to 1 and the number
    n of the update: cosine (1 + cos πp) / 2, inverse_sqrt √(w / n), or constant 1, each times the peak rate.

    Reference: inverse_sqrt: Vaswani et al., 2017, section 5.3.
    """
    warmup_steps = round(config.warmup_fraction * num_steps)
    peak = config.learning_rate
    match config.schedule:
        case "cosine":
            decay = optax.cosine_decay_schedule(peak, max(num_steps - warmup_steps, 1))
        case "inverse_sqrt":
            decay = _inverse_sqrt(peak, warmup_steps)
        case "constant":
            decay = optax.constant_schedule(peak)
    if not warmup_steps:
        return decay
    # The first update takes 1 / warmup_steps of the peak, not 0.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, decay], [warmup_steps])


def build_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Return AdamW: clip → moments → weight decay → learning rate → factor; frozen parameters are left out of it."""
    rule = _build_rule(config, num_steps)
    if config.freeze:
        rule = exclude_frozen(rule, config.freeze)
    if config.rate_factors or config.layer_decay != 1:
        scaled = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rate_factors(config, updates)))
        rule = optax.chain(rule, scaled)
    return rule


def _build_rule(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(config.b1, config.b2),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(build_schedule(config, num_steps)),
    )


def decayed(params: Any) -> Any:
    """Return for each parameter whether weight decay applies: to kernels and token tables only.

    Norm scales and biases have names that end so, whatever their rank (scanned layers stack them).
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: not path[-1].key.endswith(("scale", "bias")), params)


def _inverse_sqrt(peak: float, warmup_steps: int) -> optax.Schedule:
    """Return peak · √(w / (w + s)), s the steps after the warm-up of w."""
    w = max(warmup_steps, 1)
    return lambda step: peak * jnp.sqrt(w / (w + jnp.maximum(step, 0)))  # join_schedules asks for steps below 0, too
