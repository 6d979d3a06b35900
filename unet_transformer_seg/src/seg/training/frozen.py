"""A model some of whose parameters are constants: no gradient is computed for them, and nothing in them moves."""

from typing import Any

import flax.linen as nn
import jax

from seg.models.layers import BatchNorm
from seg.training.parameter_groups import frozen_mask, matches


class FrozenParts:
    """Applies `model` with the parameters that `patterns` name cut off from the gradient.

    The compiler then leaves out the backward pass of a frozen encoder: nothing depends on it. A batch norm whose
    parameters are all frozen uses its running statistics in training too and does not change them; otherwise the frozen
    part would answer differently from step to step.

    Attributes:
        model: the network.
        patterns: see `seg.training.parameter_groups`.
    """

    def __init__(self, model: nn.Module, patterns: tuple[str, ...]):
        self.model, self.patterns = model, patterns

    def apply(self, variables: dict[str, Any], *args, **kwargs) -> Any:
        """Return what `model.apply` returns."""
        params = variables["params"]
        mask = frozen_mask(self.patterns, params)
        params = jax.tree.map(lambda x, still: jax.lax.stop_gradient(x) if still else x, params, mask)
        with nn.intercept_methods(self._keep_statistics):
            return self.model.apply({**variables, "params": params}, *args, **kwargs)

    def _keep_statistics(self, call, args, kwargs, context) -> Any:
        """Call a module's method; a frozen batch norm as in inference."""
        module = context.module
        if isinstance(module, BatchNorm) and context.method_name == "__call__" and self._is_frozen(module):
            return call(args[0], train=False)
        return call(*args, **kwargs)

    def _is_frozen(self, norm: BatchNorm) -> bool:
        names = [f"{'/'.join(norm.path)}/{name}" for name in ("scale", "bias")]
        return all(any(matches(pattern, name) for pattern in self.patterns) for name in names)
