"""Reads the tensors of a published model by torch's names, whichever file holds them: torch's, safetensors, ONNX."""

from pathlib import Path

import numpy as np

from asr.errors import UserError
from asr.funasr_folder import ONNX
from asr.published.onnx_file import read_onnx
from asr.published.onnx_weights import read_onnx_tensors
from asr.published.state_dict import plain_names
from asr.published.torch_file import read_torch_file
from asr.untrusted import shown

WORDS = "model_eb"
"""FunASR exports the part that reads hot words by itself: model_eb.onnx beside model.onnx."""

DECODER = "decoder"
"""FunASR exports a streaming model as a pair: decoder.onnx beside model.onnx, which then holds no tensor of it."""

EMBEDDINGS = {"embedding.0.weight": "decoder.embed.0.weight"}
"""Name in that part → name in the model; hot words share the decoder's embedding."""


def read_tensors(path: Path, anchor: str) -> dict[str, np.ndarray]:
    """Return the tensors of a model's file of weights by the names that the network itself uses.

    Args:
        path: `model.pt`, safetensors, or a file that ends in `.onnx`, of which 8-bit weights become float32; the
            parts beside it, which read hot words or are the decoder, are read with it.
        anchor: a tensor that every such network has.

    Raises:
        UserError: in one line, a damaged file, or one without such a network.
    """
    if path.suffix != ONNX:
        return plain_names(read_torch_file(path).tensors, anchor, path)
    tensors = read_onnx_tensors(path)
    has_decoder = any(name.startswith(f"{DECODER}.") for name in tensors)
    for name in (WORDS,) if has_decoder else (WORDS, DECODER):
        beside = part_beside(path, name)
        if beside == path or not beside.is_file():
            continue
        part = read_onnx_tensors(beside)
        tensors |= {EMBEDDINGS.get(key, key): tensor for key, tensor in part.items()}
    if anchor not in tensors:
        outputs = shown(", ".join(read_onnx(path).outputs))
        raise UserError(
            f"{path}: an ONNX model of another kind, or a part of one: it holds no {anchor} and returns {outputs}; use "
            "the PyTorch weights of the model"
        )
    return tensors


def part_beside(path: Path, part: str) -> Path:
    """Return the file of a part that was exported beside `path`: decoder_quant.onnx beside model_quant.onnx."""
    return path.with_name(path.name.replace("model", part, 1))
