"""Small layers that own parameters and call `seg.ops`.

Letters: b batch, h w rows and columns, c channels in, o channels out, k classes.

Precision: parameters and statistics are float32; a layer computes in the dtype of its input.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from seg.config import ModelConfig
from seg.ops import conv, norm
from seg.ops.depthwise import depthwise_conv

Initialiser = Callable[..., jax.Array]

TRUNCATED_SPREAD = 0.87962566  # standard deviation of a normal distribution cut off at ±2


def truncated_normal(variance_times_fan_in: float) -> Initialiser:
    """Return an initialiser with mean 0 and standard deviation √(variance_times_fan_in / fan_in).

    2 keeps the spread of the features through a ReLU (He et al., 2015), 1 where no ReLU follows.
    """

    def init(key, shape, dtype=jnp.float32):
        spread = math.sqrt(variance_times_fan_in / math.prod(shape[:-1]))
        return _normal(key, shape, dtype) * spread

    return init


def table_normal(spread: float) -> Initialiser:
    """Return an initialiser with mean 0 and standard deviation `spread`, whatever the shape."""
    return lambda key, shape, dtype=jnp.float32: _normal(key, shape, dtype) * spread


def xavier_uniform(variance_factor: float = 1.0) -> Initialiser:
    """Return an initialiser of values in ±√(6 · variance_factor / (inputs + outputs)), all equally likely.

    Reference: Glorot and Bengio, 2010, equation 16.
    """

    def init(key, shape, dtype=jnp.float32):
        bound = math.sqrt(6 * variance_factor / (math.prod(shape[:-1]) + shape[-1]))
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return init


def _normal(key, shape, dtype):
    """Return normal values cut off at two standard deviations and stretched back to a standard deviation of 1."""
    return jax.random.truncated_normal(key, -2, 2, (math.prod(shape),), dtype).reshape(shape) / TRUNCATED_SPREAD


BATCH_NORM_MOMENTUM = 0.9  # share of the old running statistics; torch writes the same as 0.1
NORM_EPSILON = 1e-5


class Conv(nn.Module):
    """A convolution: float[b, h, w, c] → [b, ⌈h/stride⌉, ⌈w/stride⌉, o]."""

    features: int  # channels of the result
    kernel_size: int | tuple[int, int] = 3  # rows and columns of the kernel, odd
    # Step between the positions of the kernel; `kernel_size` // 2 zeros lie around the map, as in torch
    stride: conv.Stride = 1
    use_bias: bool = False  # add a learned bias; a norm that follows makes one superfluous
    # Other zeros around the map, as in `conv2d`: "SAME" is TensorFlow's form, "VALID" has none
    padding: str | None = None

    @nn.compact
    def __call__(self, x_bhwc):
        """Return float[b, ⌈h/stride⌉, ⌈w/stride⌉, o] of float[b, h, w, c]."""
        rows, columns = (self.kernel_size,) * 2 if isinstance(self.kernel_size, int) else self.kernel_size
        shape_ijco = (rows, columns, x_bhwc.shape[-1], self.features)
        kernel_ijco = self.param("kernel", truncated_normal(2.0), shape_ijco, jnp.float32).astype(x_bhwc.dtype)
        bias_o = None
        if self.use_bias:
            bias_o = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(x_bhwc.dtype)
        padding = self.padding or even_padding(rows, columns, self.stride)
        return conv.conv2d(x_bhwc, kernel_ijco, bias_o, stride=self.stride, padding=padding)


def even_padding(rows: int, columns: int, stride: conv.Stride) -> conv.Padding:
    """Return the padding of half a kernel's rows and columns on every side."""
    # "SAME" with a stride would put the zeros of an even size at the end only.
    return "SAME" if stride in (1, (1, 1)) else ((rows // 2,) * 2, (columns // 2,) * 2)


class DepthwiseConv(nn.Module):
    """A convolution of each channel with a kernel of its own: float[b, h, w, c] → [b, ⌈h/stride⌉, ⌈w/stride⌉, c]."""

    kernel_size: int = 3  # as for `Conv`, also below
    stride: int = 1
    use_bias: bool = False
    padding: str | None = None

    @nn.compact
    def __call__(self, x_bhwc):
        """Return float[b, ⌈h/stride⌉, ⌈w/stride⌉, c] of float[b, h, w, c]."""
        c = x_bhwc.shape[-1]
        shape_ijc = (self.kernel_size, self.kernel_size, c)
        kernel_ijc = self.param("kernel", truncated_normal(2.0), shape_ijc, jnp.float32).astype(x_bhwc.dtype)
        padding = self.padding or even_padding(self.kernel_size, self.kernel_size, self.stride)
        y_bhwc = depthwise_conv(x_bhwc, kernel_ijc, stride=self.stride, padding=padding)
        if not self.use_bias:
            return y_bhwc
        bias_c = self.param("bias", nn.initializers.zeros, (c,), jnp.float32).astype(x_bhwc.dtype)
        return y_bhwc + bias_c.reshape(1, 1, 1, -1)


class UpConv(nn.Module):
    """A transposed convolution whose kernel has the size of its stride, r × s: float[b, h, w, c] → [b, r·h, s·w, o].

    Each pixel becomes a block of r × s, so the kernel is one dense map from c to r·s·o.
    """

    features: int  # channels of the result
    stride: tuple[int, int] = (2, 2)  # rows and columns of a block
    use_bias: bool = True

    @nn.compact
    def __call__(self, x_bhwc):
        """Return float[b, r·h, s·w, o] of float[b, h, w, c]."""
        c, (r, s) = x_bhwc.shape[-1], self.stride
        init = truncated_normal(float(r * s))  # each result has c inputs, not the r·s·c that the shape suggests
        kernel_cijo = self.param("kernel", init, (c, r, s, self.features), jnp.float32).astype(x_bhwc.dtype)
        bias_o = None
        if self.use_bias:
            bias_o = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(x_bhwc.dtype)
        return conv.up_conv(x_bhwc, kernel_cijo, bias_o)


class PixelClassifier(nn.Module):
    """A 1 × 1 convolution to float32 logits: float[b, h, w, c] → float32[b, h·r, w·r, k].

    With `factor` r > 1 each pixel classifies the r × r image pixels that it covers. The products are summed and
    returned in float32 whatever the dtype of the features.
    """

    num_classes: int
    factor: int = 1

    @nn.compact
    def __call__(self, x_bhwc):
        """Return float32[b, h·r, w·r, k] of float[b, h, w, c]."""
        outputs = self.num_classes * self.factor**2
        kernel_co = self.param("kernel", truncated_normal(1.0), (x_bhwc.shape[-1], outputs), jnp.float32)
        bias_o = self.param("bias", nn.initializers.zeros, (outputs,), jnp.float32)
        kernel_co = kernel_co.astype(x_bhwc.dtype)
        logits_bhwo = jnp.einsum("bhwc,co->bhwo", x_bhwc, kernel_co, preferred_element_type=jnp.float32)
        logits_bhwo += bias_o.reshape(1, 1, 1, -1)
        return logits_bhwo if self.factor == 1 else conv.depth_to_space(logits_bhwo, factor=self.factor)


class BatchNorm(nn.Module):
    """Batch norm with running statistics in the collection `batch_stats`: float[b, h, w, c] → the same shape.

    running = 0.9 · running + 0.1 · batch, with the unbiased variance (division by n − 1), as in torch.
    """

    epsilon: float = NORM_EPSILON  # added to the variance

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return `x` normalised with the statistics of the batch (train) or the running ones."""
        b, h, w, c = x_bhwc.shape
        scale_c = self.param("scale", nn.initializers.ones, (c,), jnp.float32)
        bias_c = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        if not train:
            return norm.batch_norm_infer(x_bhwc, scale_c, bias_c, mean.value, var.value, epsilon=self.epsilon)
        y_bhwc, mean_c, var_c = norm.batch_norm_train(x_bhwc, scale_c, bias_c, epsilon=self.epsilon)
        if not self.is_initializing():
            n = b * h * w
            unbiased_c = var_c * (n / max(n - 1, 1))
            mean.value = BATCH_NORM_MOMENTUM * mean.value + (1 - BATCH_NORM_MOMENTUM) * mean_c
            var.value = BATCH_NORM_MOMENTUM * var.value + (1 - BATCH_NORM_MOMENTUM) * unbiased_c
        return y_bhwc


class GroupNorm(nn.Module):
    """Group norm, the same in training and inference: float[b, h, w, c] → the same shape."""

    groups: int

    @nn.compact
    def __call__(self, x_bhwc):
        """Return `x` normalised within each image."""
        c = x_bhwc.shape[-1]
        scale_c = self.param("scale", nn.initializers.ones, (c,), jnp.float32)
        bias_c = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        return norm.group_norm(x_bhwc, scale_c, bias_c, groups=self.groups, epsilon=NORM_EPSILON)


class LayerNorm(nn.Module):
    """Layer norm over the last axis: float[..., d] → the same shape."""

    epsilon: float = 1e-6  # added to the variance

    @nn.compact
    def __call__(self, x):
        """Return `x` normalised within each vector."""
        scale_d = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias_d = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return norm.layer_norm(x, scale_d, bias_d, epsilon=self.epsilon)


class Dropout(nn.Module):
    """In training, sets values to 0 at `rate` and divides the others by 1 − rate: float[...] → the same shape.

    Only tokens and the bottleneck have it, so the cost of jax's random bits does not matter.
    """

    rate: float

    @nn.compact
    def __call__(self, x, train: bool):
        """Return `x`, changed only when `train` (key `dropout`)."""
        if not train or self.rate == 0:
            return x
        kept_n = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (x.size,))  # flat: compiles sooner
        return jnp.where(kept_n.reshape(x.shape), x / (1 - self.rate), 0)


class DoubleConv(nn.Module):
    """Twice convolution, norm and ReLU: float[b, h, w, c] → float[b, h, w, features]."""

    config: ModelConfig  # says which norm
    features: int  # channels of the result
    middle: int  # channels between the two convolutions

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return float[b, h, w, features] of float[b, h, w, c]; `train` is passed on to the norms."""
        for number, features in enumerate((self.middle, self.features), start=1):
            x_bhwc = Conv(features, use_bias=self.config.conv_bias, name=f"conv{number}")(x_bhwc)
            if self.config.norm == "batch":
                x_bhwc = BatchNorm(name=f"norm{number}")(x_bhwc, train)
            else:
                x_bhwc = GroupNorm(self.config.norm_groups, name=f"norm{number}")(x_bhwc)
            x_bhwc = nn.relu(x_bhwc)
        return x_bhwc


def count_parameters(params) -> int:
    """Return the number of values in a tree of parameters (arrays, or the shapes from `jax.eval_shape`)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
