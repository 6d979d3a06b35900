"""The state of a run: arrays only, so that it is exactly what a checkpoint holds."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from seg.models import init_variables


@struct.dataclass
class TrainState:
    """Everything that changes during training.

    Attributes:
        step: int32[], number of updates made.
        params: float32 parameters.
        batch_stats: running means and variances of the batch norms; empty for group norm.
        opt_state: the optimizer's moments.
        ema_params: exponential moving average of `params`; None when it is switched off.
        ema_batch_stats: the same average of `batch_stats`; None when it is switched off.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any = None
    ema_batch_stats: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that predict: the averaged ones where they exist."""
        if self.ema_params is None:
            return {"params": self.params, "batch_stats": self.batch_stats}
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


def init_state(
    model: nn.Module,
    image_size: tuple[int, int],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    with_ema: bool,
) -> TrainState:
    """Return the state before the first update; pure in `key`, to be traced by `jax.jit`."""
    variables = init_variables(model, image_size, key)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if with_ema else None,
        ema_batch_stats=jax.tree.map(jnp.copy, batch_stats) if with_ema else None,
    )
