"""Layouts and pairs of torch's convolutions and norms, which every published network here is built of.

Letters: i input channels, o output channels, h w rows and columns of a kernel.
"""

from seg.published.mapping import Layout, Pair

CONV2D = Layout(lambda w_oihw: w_oihw.transpose(2, 3, 1, 0), lambda w_hwio: w_hwio.transpose(3, 2, 0, 1))
"""`Conv2d.weight`."""
CONV1X1 = Layout(lambda w_oi11: w_oi11[:, :, 0, 0].T, lambda w_io: w_io.T[:, :, None, None])
"""`Conv2d.weight` of a 1 × 1 kernel, which here is a linear map."""
UP_CONV = Layout(lambda w_iohw: w_iohw.transpose(0, 2, 3, 1), lambda w_ihwo: w_ihwo.transpose(0, 3, 1, 2))
"""`ConvTranspose2d.weight` of stride 2 and a 2 × 2 kernel: both sides put the input axis first."""


def affine(ours: str, theirs: str) -> list[Pair]:
    """Return the pairs of a norm's scale and bias."""
    return [Pair(f"params/{ours}/scale", f"{theirs}.weight"), Pair(f"params/{ours}/bias", f"{theirs}.bias")]


def batch_norm(ours: str, theirs: str) -> list[Pair]:
    """Return the pairs of a batch norm: scale, bias, running mean and variance."""
    return [
        *affine(ours, theirs),
        Pair(f"batch_stats/{ours}/mean", f"{theirs}.running_mean"),
        Pair(f"batch_stats/{ours}/var", f"{theirs}.running_var"),
    ]


def conv_norm(our_conv: str, our_norm: str, their_conv: str, their_norm: str) -> list[Pair]:
    """Return the pairs of a convolution without bias and the batch norm behind it."""
    return [Pair(f"params/{our_conv}/kernel", f"{their_conv}.weight", CONV2D), *batch_norm(our_norm, their_norm)]
