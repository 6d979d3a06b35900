"""Turns the 8-bit weights of an ONNX file back into floats.

onnxruntime's quantizer replaces a weight W by three values:

    W_quantized    q, 8 bits each
    W_scale        s, one for each column, or a single one
    W_zero_point   z, likewise
    W ≈ (q − z) · s

A value was rounded to the nearest step, so it is off by at most s / 2.
"""

import logging

import numpy as np

from asr.errors import UserError
from asr.published.onnx_file import Node, OnnxModel
from asr.untrusted import escaped

log = logging.getLogger("asr")

QUANTIZED, SCALE, ZERO_POINT = "_quantized", "_scale", "_zero_point"


def with_floats(model: OnnxModel, *, shapes_only: bool = False) -> OnnxModel:
    """Return the model with each 8-bit weight as the float32 values it stands for; says how far these may be off.

    With `shapes_only` the values are zeros that take no memory.
    """
    tensors, floats, worst = dict(model.tensors), {}, 0.0
    for name, value in model.tensors.items():
        weight = name.removesuffix(QUANTIZED)
        if weight != name and value.dtype.itemsize == 1 and weight + SCALE in tensors:
            zeros = np.broadcast_to(np.float32(0), value.shape), 0.0
            floats[name], error = zeros if shapes_only else _dequantized(model, weight)
            tensors[weight] = floats[name]
            worst = max(worst, error)
    if not floats:
        return model
    if not shapes_only:
        log.warning(
            "%s: %d weights are 8-bit integers; as float32, each is off by at most %.2f %% of its largest value",
            *(model.path, len(floats), 100 * worst),
        )
    used = {name.removesuffix(QUANTIZED) + tail for name in floats for tail in (QUANTIZED, SCALE, ZERO_POINT)}
    tensors = {name: value for name, value in tensors.items() if name not in used}
    return model._replace(tensors=tensors, nodes=tuple(_renamed(node, floats) for node in model.nodes))


def _dequantized(model: OnnxModel, weight: str) -> tuple[np.ndarray, float]:
    """Return the float32 values, and half of the largest step relative to the largest value."""
    q, scale = model.tensors[weight + QUANTIZED], model.tensors[weight + SCALE].astype(np.float32)
    zero = model.tensors.get(weight + ZERO_POINT, np.zeros(scale.shape, q.dtype))
    if scale.shape != zero.shape:
        raise UserError(f"{model.path}: {escaped(weight)} has {scale.size} scales and {zero.size} zero points")
    if scale.size > 1 and q.ndim == 2 and scale.shape == (len(q),) and scale.shape != q.shape[1:]:
        scale, zero = scale[:, None], zero.reshape(-1, 1)  # one for each row
    elif scale.size > 1 and scale.shape != q.shape[-1:]:
        raise UserError(f"{model.path}: {escaped(weight)} {list(q.shape)} has {scale.size} scales; expected 1 a column")
    values = (q.astype(np.float32) - zero.astype(np.float32)) * scale
    largest = float(np.abs(values).max(initial=0))
    return values, float(np.abs(scale).max()) / 2 / largest if largest else 0.0


def _renamed(node: Node, floats: dict[str, np.ndarray]) -> Node:
    return node._replace(inputs=tuple(n.removesuffix(QUANTIZED) if n in floats else n for n in node.inputs))
