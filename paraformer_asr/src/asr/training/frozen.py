"""A model some of whose parameters are constants: no gradient is computed for them."""

from typing import Any

import flax.linen as nn
import jax

from asr.training.parameter_groups import frozen_mask


class FrozenParts:
    """Applies `model` with the parameters that `patterns` name cut off from the gradient.

    The compiler then leaves out the backward pass of a frozen encoder: nothing depends on it.

    Attributes:
        model: the network.
        patterns: see `asr.training.parameter_groups`.
    """

    def __init__(self, model: nn.Module, patterns: tuple[str, ...]):
        self.model, self.patterns = model, patterns

    def apply(self, variables: dict[str, Any], *args, **kwargs) -> Any:
        """Return what `model.apply` returns."""
        params = variables["params"]
        mask = frozen_mask(self.patterns, params)
        params = jax.tree.map(lambda x, still: jax.lax.stop_gradient(x) if still else x, params, mask)
        return self.model.apply({**variables, "params": params}, *args, **kwargs)
