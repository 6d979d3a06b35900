"""Small layers that own parameters and call `asr.ops`.

Letters: b batch, t frames or tokens, j frames attended to, d width in, f width out, a heads, e width of a head,
k taps.

Precision: parameters and norm statistics are float32; a layer computes in the dtype of its input.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.models.initialisers import fan_in_uniform
from asr.ops import conv, norm
from asr.ops.attention import attention
from asr.ops.dropout import dropout
from asr.ops.int8 import int8_product

INT8_STEPS = "int8_steps"
"""Collection of variables beside the parameters: the step of each column of a kernel in int8, under its path."""


class Dense(nn.Module):
    """A linear map of the last axis: float[..., d] → float[..., features].

    For inference the kernel may be int8[d, features], see `asr.ops.int8`.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        """Return x · kernel + bias."""
        kernel_df = self.param("kernel", fan_in_uniform(), (x.shape[-1], self.features), jnp.float32)
        if kernel_df.dtype == jnp.int8:
            y = int8_product(x, kernel_df, self.get_variable(INT8_STEPS, "kernel"))
        else:
            y = x @ kernel_df.astype(x.dtype)
        if not self.use_bias:
            return y
        bias_f = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias_f.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Logits(nn.Module):
    """A linear map to float32 scores: float[b, t, d] → float32[b, t, features]; the products are summed in float32."""

    features: int

    @nn.compact
    def __call__(self, x_btd):
        """Return float32[b, t, features]."""
        kernel_dv = self.param("kernel", fan_in_uniform(), (x_btd.shape[-1], self.features), jnp.float32)
        bias_v = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        kernel_dv = kernel_dv.astype(x_btd.dtype)
        return jnp.einsum("btd,dv->btv", x_btd, kernel_dv, preferred_element_type=jnp.float32) + bias_v[None, None, :]


class LayerNorm(nn.Module):
    """Layer norm over the last axis: float[..., d] → the same shape."""

    epsilon: float = norm.EPSILON  # added to the variance

    @nn.compact
    def __call__(self, x):
        """Return `x` normalised within each vector."""
        scale_d = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias_d = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return norm.layer_norm(x, scale_d, bias_d, epsilon=self.epsilon)


class Dropout(nn.Module):
    """In training, sets values to 0 at `rate` and divides the others by 1 − rate: float[...] → the same shape."""

    rate: float

    @nn.compact
    def __call__(self, x, train: bool):
        """Return `x`, changed only when `train` (key `dropout`)."""
        return dropout(x, self.make_rng("dropout"), self.rate) if train and self.rate else x


class FeedForward(nn.Module):
    """Two linear maps with a non-linearity between them: float[b, t, d] → float[b, t, features].

    y = W₂ · [norm](dropout(activation(W₁ · x + b₁))) [+ b₂]
    """

    width: int  # f, of the layer in between
    features: int  # of the result
    dropout: float  # rate in between
    activation: str = "relu"  # "relu" (the published Paraformer) or "swish" (the Conformer)
    inner_norm: bool = False  # a layer norm in between, and no second bias: the form of the published decoder

    @nn.compact
    def __call__(self, x_btd, train: bool):
        """Return float[b, t, features]."""
        activation = nn.relu if self.activation == "relu" else nn.swish
        y_btf = activation(Dense(self.width, name="expand")(x_btd))
        y_btf = Dropout(self.dropout)(y_btf, train)
        y_btf = LayerNorm(name="norm")(y_btf) if self.inner_norm else y_btf
        return Dense(self.features, use_bias=not self.inner_norm, name="contract")(y_btf)


class FsmnMemory(nn.Module):
    """The sequential memory with one learned kernel a channel: float[b, t, d] → the same shape."""

    kernel_size: int  # k, odd
    dropout: float  # rate on the memory
    causal: bool = False  # all taps before the present frame, instead of half of them after it

    @nn.compact
    def __call__(self, v_btd, valid_bt, train: bool):
        """Return the memory of `v`, 0 in padded frames."""
        shape_kd = (self.kernel_size, v_btd.shape[-1])
        kernel_kd = self.param("kernel", depthwise_uniform, shape_kd, jnp.float32).astype(v_btd.dtype)
        memory_btd = conv.fsmn_memory(v_btd, kernel_kd, valid_bt, left=left_taps(self.kernel_size, self.causal))
        return Dropout(self.dropout)(memory_btd, train)


class Attend(nn.Module):
    """Attention of `num_heads` heads, without parameters: three projected float[b, ·, d] → float[b, t, d]."""

    num_heads: int  # a; divides the model width
    dropout: float  # rate on the weights, the explicit implementation only
    implementation: str  # see `asr.ops.attention.attention`

    @nn.compact
    def __call__(self, q_btd, k_bjd, v_bjd, mask_btj, train: bool):
        """Return the heads' results side by side."""
        q_btae, k_bjae, v_bjae = (x.reshape(*x.shape[:2], self.num_heads, -1) for x in (q_btd, k_bjd, v_bjd))
        out_btae = attention(
            q_btae,
            k_bjae,
            v_bjae,
            mask_btj,
            implementation=self.implementation,
            dropout_rate=self.dropout if train else 0.0,
            dropout_key=self.make_rng("dropout") if train and self.dropout else None,
        )
        return out_btae.reshape(q_btd.shape)


def left_taps(kernel_size: int, causal: bool) -> int:
    """Return how many taps of a kernel lie before the present frame."""
    return kernel_size - 1 if causal else (kernel_size - 1) // 2


def depthwise_uniform(key, shape_kd: tuple[int, int], dtype=jnp.float32):
    """Return a fresh depthwise kernel: each result has k inputs, the channels do not mix."""
    bound = shape_kd[0] ** -0.5
    return jax.random.uniform(key, (math.prod(shape_kd),), dtype, -bound, bound).reshape(shape_kd)


def count_parameters(params) -> int:
    """Return the number of values in a tree of parameters (arrays, or the shapes from `jax.eval_shape`)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
