"""Convolution, as a sum of shifted products or as one matrix product of all patches (im2col).

    y[b, h, w, o] = Σ_ijc x[b, h + i − top, w + j − left, c] · kernel[i, j, c, o] + bias[o]

with zeros outside the image, top = (rows of the kernel − 1) / 2 and left = (columns of the kernel − 1) / 2: the result
has the image's rows and columns. Use slices, products and sums; no `jax.lax.conv…`.

Letters: b batch, h w rows and columns, c input channels, o output channels, i j rows and columns of the kernel.
"""

import jax


def conv2d(x_bhwc: jax.Array, kernel_ijco: jax.Array, bias_o: jax.Array | None = None) -> jax.Array:
    """Return the convolution of the image with the kernel, plus the bias.

    Args:
        x_bhwc: float32[b, h, w, c].
        kernel_ijco: float32[i, j, c, o], i and j odd.
        bias_o: float32[o], or None.

    Returns:
        y_bhwo: float32[b, h, w, o].
    """
    raise NotImplementedError
