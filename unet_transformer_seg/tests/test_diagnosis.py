"""The search for the first module that is not finite."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seg.training.diagnosis import find_bad_arrays, make_observer


class Layer(nn.Module):
    """Divides by what stands in its parameter."""

    @nn.compact
    def __call__(self, x_bd, _=None):
        return x_bd / self.param("divisor", nn.initializers.ones, (1, x_bd.shape[1])), None


class Net(nn.Module):
    """A layer by itself, three in a loop, and one after them."""

    @nn.compact
    def __call__(self, x_bd):
        x_bd, _ = Layer(name="first")(x_bd)
        loop = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x_bd, _ = loop(name="loop")(x_bd, None)
        return Layer(name="last")(x_bd)[0]


def finds_of(x_bd, **zeroed):
    """Return what is found when parameters of the named layers are zero."""
    net = Net()
    params = jax.tree.map(np.array, net.init(jax.random.key(0), jnp.ones((3, 2)))["params"])
    for name, where in zeroed.items():
        params[name]["divisor"][where] = 0
    finds = []
    with jax.disable_jit(), nn.intercept_methods(make_observer(finds)):
        net.apply({"params": params}, x_bd)
    return finds


def test_nothing_is_found_where_all_is_finite():
    assert finds_of(jnp.ones((3, 2))) == []


def test_the_innermost_module_comes_first():
    finds = finds_of(jnp.ones((3, 2)), last=(0, 0))
    assert finds[0].module == "last (Layer)" and finds[-1].module.startswith("the model (Net")


def test_only_the_rows_in_question_are_named():
    finds = finds_of(jnp.array([[1.0, 1.0], [np.inf, 1.0], [1.0, 1.0]]))
    assert finds[0].module == "first (Layer)" and finds[0].rows == [1]


def test_within_a_loop_the_turn_is_named():
    finds = finds_of(jnp.ones((3, 2)), loop=(1, 0, 0))
    assert finds[0].module == "loop (Layer, call 2)" and finds[0].rows == [0, 1, 2]


def test_arrays_that_are_not_finite_are_named():
    tree = {"params": {"a": jnp.ones(2), "b": jnp.array([1.0, np.nan])}, "count": jnp.int32(3)}
    assert find_bad_arrays(tree) == ["params/b"]
