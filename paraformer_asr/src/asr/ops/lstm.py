"""Long short-term memory over padded sequences, in one direction.

Letters: b sequences, t steps, d width in, e width of the state, g = 4 · e gates.
"""

import functools

import chex
import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("backward",))
def lstm(x_btd, lengths_b, input_kernel_dg, state_kernel_eg, bias_g, *, backward: bool = False):
    """Return the state of a long short-term memory after each step, and the last one.

        i, f, g, o = split(W_x · x[t] + W_h · h[t−1] + bias)
        c[t] = sigmoid(f) · c[t−1] + sigmoid(i) · tanh(g)
        h[t] = sigmoid(o) · tanh(c[t])

    It begins with zeros: at the first step, or `backward` at the last real one. So a sequence has the same states alone
    and beside longer ones.

    Args:
        x_btd: float32[b, t, d]; steps from lengths[b] on are padding and may hold anything.
        lengths_b: int32[b], real steps.
        input_kernel_dg: float32[d, 4 · e], W_x; the gates in the order of the equation.
        state_kernel_eg: float32[e, 4 · e], W_h.
        bias_g: float32[4 · e].
        backward: go from the end to the start.

    Returns:
        h_bte: float32[b, t, e], 0 in padding; last_be: float32[b, e], the state after the last step in its direction.

    Reference: Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000.
    """
    chex.assert_rank([x_btd, lengths_b, input_kernel_dg, state_kernel_eg, bias_g], [3, 1, 2, 2, 1])
    chex.assert_type([x_btd, lengths_b, input_kernel_dg], [jnp.float32, int, jnp.float32])
    chex.assert_equal(x_btd.shape[2], input_kernel_dg.shape[0])
    width = state_kernel_eg.shape[0]
    chex.assert_axis_dimension(state_kernel_eg, 1, 4 * width)
    valid_bt = jnp.arange(x_btd.shape[1])[None, :] < lengths_b[:, None]
    # The input's share does not depend on the state: one product for all steps.
    gates_btg = jnp.where(valid_bt[..., None], x_btd, 0.0) @ input_kernel_dg + bias_g[None, None, :]

    def step(carry, inputs):
        h_be, c_be = carry
        gates_bg, valid_b = inputs
        in_be, forget_be, new_be, out_be = jnp.split(gates_bg + h_be @ state_kernel_eg, 4, axis=1)
        next_c_be = jax.nn.sigmoid(forget_be) * c_be + jax.nn.sigmoid(in_be) * jnp.tanh(new_be)
        next_h_be = jax.nn.sigmoid(out_be) * jnp.tanh(next_c_be)
        # Padding leaves the state as it is: at 0 before a backward pass begins, at the last one behind a forward pass.
        h_be = jnp.where(valid_b[:, None], next_h_be, h_be)
        c_be = jnp.where(valid_b[:, None], next_c_be, c_be)
        return (h_be, c_be), h_be

    zeros_be = jnp.zeros((x_btd.shape[0], width), jnp.float32)
    steps = gates_btg.swapaxes(0, 1), valid_bt.T
    (last_be, _), h_tbe = jax.lax.scan(step, (zeros_be, zeros_be), steps, reverse=backward)
    return jnp.where(valid_bt[..., None], h_tbe.swapaxes(0, 1), 0.0), last_be
