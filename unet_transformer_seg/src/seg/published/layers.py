"""Layouts and pairs of torch's layers, which every published network here is built of.

Letters: i input channels, o output channels, h w rows and columns of a kernel.
"""

import itertools
from collections.abc import Container

import numpy as np

from seg.published.mapping import Layout, Pair

CONV2D = Layout(lambda w_oihw: w_oihw.transpose(2, 3, 1, 0), lambda w_hwio: w_hwio.transpose(3, 2, 0, 1))
"""`Conv2d.weight`."""
CONV1X1 = Layout(lambda w_oi11: w_oi11[:, :, 0, 0].T, lambda w_io: w_io.T[:, :, None, None])
"""`Conv2d.weight` of a 1 × 1 kernel, which here is a linear map."""
UP_CONV = Layout(lambda w_iohw: w_iohw.transpose(0, 2, 3, 1), lambda w_ihwo: w_ihwo.transpose(0, 3, 1, 2))
"""`ConvTranspose2d.weight` of stride 2 and a 2 × 2 kernel: both sides put the input axis first."""

COUNTER = ".num_batches_tracked"  # suffix of a batch norm's counter, which takes no part in predictions


def sigmoid_head(layout: Layout) -> Layout:
    """Return the layout of a head of one class there and two classes here.

    There the head gives one logit z and the probability sigmoid(z); here the background is a class with the logit 0,
    and softmax([0, z]) = [1 − sigmoid(z), sigmoid(z)]. On the way back only the difference of the two logits counts.
    """
    return Layout(
        lambda theirs: layout.to_ours(np.concatenate([np.zeros_like(theirs), theirs])),
        lambda ours: layout.to_theirs(ours[..., 1:] - ours[..., :1]),
    )


def with_sigmoid_head(pairs: list[Pair]) -> list[Pair]:
    """Return the pairs of a model whose head has one class there, see `sigmoid_head`."""
    return [p._replace(layout=sigmoid_head(p.layout)) if p.ours.startswith("params/head/") else p for p in pairs]


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


def count(tensors: Container[str], name: str, start: int = 0) -> int:
    """Return how many tensors are called `name`, with {} for consecutive numbers from `start`."""
    return next(n for n in itertools.count() if name.format(start + n) not in tensors)
