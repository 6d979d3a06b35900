"""Counts the floating-point operations of a function, from its equations.

XLA counts the body of a loop once, regardless of its trip count; here it counts once per iteration. Only matrix
products and convolutions are counted, as is usual for models: the rest is small.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Literal


def count_flops(function: Callable, *arguments: Any) -> float:
    """Return the operations of `function(*arguments)`, two for each multiplication with its addition; it is not run."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> float:
    """Return the operations of the equations whose results are used.

    Differentiation leaves unused ones, such as a forward pass of which only the gradient is needed; the compiler drops
    them.
    """
    used, total = _variables(jaxpr.outvars), 0.0
    for equation in reversed(jaxpr.eqns):
        if not used.isdisjoint(equation.outvars):
            used |= _variables(equation.invars)
            total += _count_equation(equation)
    return total


def _variables(atoms: Any) -> set:
    return {atom for atom in atoms if not isinstance(atom, Literal)}


def _count_equation(equation: Any) -> float:
    match equation.primitive.name:
        case "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lengths = equation.invars[0].aval.shape
            return 2.0 * equation.outvars[0].aval.size * math.prod(lengths[axis] for axis in contracted)
        case "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
            out_channels = kernel.shape[numbers.rhs_spec[0]]
            groups = equation.params["batch_group_count"]
            return 2.0 * equation.outvars[0].aval.size * (kernel.size / out_channels) / groups
        case "scan":
            return equation.params["length"] * _count(equation.params["jaxpr"].jaxpr)
        case "cond":
            return max(_count(branch.jaxpr) for branch in equation.params["branches"])
        case _:
            return sum(_count(inner) for inner in _inner(equation.params))


def _inner(params: dict[str, Any]) -> list[Any]:
    """Return the equations inside an equation, such as those of a jitted function."""
    inner = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                inner.append(item)
    return inner
