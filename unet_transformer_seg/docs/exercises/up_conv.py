"""Up-convolution: the transposed convolution whose stride is the size of its kernel.

    y[b, r·h + i, s·w + j, o] = Σ_c x[b, h, w, c] · kernel[c, i, j, o] + bias[o]

Each pixel becomes a block of r × s pixels, and the blocks do not overlap: one matrix product and a reordering, no
`jax.lax.conv…`.

Letters: b batch, h w rows and columns, c input channels, o output channels, i j rows and columns of a block.
"""

import jax


def up_conv(x_bhwc: jax.Array, kernel_cijo: jax.Array, bias_o: jax.Array | None = None) -> jax.Array:
    """Return the image at r times the height and s times the width.

    Args:
        x_bhwc: float32[b, h, w, c].
        kernel_cijo: float32[c, r, s, o].
        bias_o: float32[o], or None.

    Returns:
        y_bhwo: float32[b, r·h, s·w, o].
    """
    raise NotImplementedError
