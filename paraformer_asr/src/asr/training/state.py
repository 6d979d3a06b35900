"""The state of a run: arrays only, so that it is exactly what a checkpoint holds."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from asr.models import init_variables


@struct.dataclass
class TrainState:
    """Everything that changes during training.

    There is no key in it: the randomness of a step is a function of the seed and `step`.

    Attributes:
        step: int32[], number of updates made.
        params: float32 parameters.
        opt_state: the optimizer's moments.
        ema_params: exponential moving average of `params`; None when it is switched off.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema_params: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that predict: the averaged ones where they exist."""
        return {"params": self.params if self.ema_params is None else self.ema_params}


def init_state(
    model: nn.Module,
    input_dim: int,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    with_ema: bool,
) -> TrainState:
    """Return the state before the first update; pure in `key`, to be traced by `jax.jit`.

    Args:
        model: the network.
        input_dim: i, width of an input frame.
        optimizer: an optax transformation.
        key: of the initial parameters.
        with_ema: whether a moving average of the parameters is kept.
    """
    params = init_variables(model, input_dim, key)["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if with_ema else None,
    )
