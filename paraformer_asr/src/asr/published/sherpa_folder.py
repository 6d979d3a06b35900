"""Reads what a Paraformer folder of sherpa-onnx says: sizes, front end and normalisation, all from its ONNX file.

    model.onnx, model.int8.onnx   the program, whose metadata hold the stacking of frames and the normalisation
    tokens.txt                    a token and its number on each line

There is no `config.yaml`, so its content is put together here: sizes from the shapes of the weights, the number of
heads and the predictor's tail from constants of the program. The front end is FunASR's, which sherpa-onnx has, too.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from asr.data.cmvn import load_cmvn
from asr.data.frontend import Cmvn
from asr.errors import UserError
from asr.published.onnx_file import OnnxModel, read_onnx
from asr.published.onnx_weights import onnx_shapes
from asr.untrusted import escaped, shown

MODEL_TYPE = "paraformer"  # `model_type` in the metadata
SHIFT, SCALE = "neg_mean", "inv_stddev"  # keys of the normalisation
FRAMES, STEP = "lfr_window_size", "lfr_window_shift"  # keys of the stacking of frames
TAIL = 0.45  # the published predictor's, for a program in which it cannot be told

Shapes = Mapping[str, tuple[int, ...]]


def read_sherpa_config(path: Path) -> dict[str, Any]:
    """Return the content of the FunASR `config.yaml` that belongs to an ONNX file of sherpa-onnx.

    Raises:
        UserError: a damaged file, or a model of another kind.
    """
    model = read_onnx(path)
    kind = model.metadata.get("model_type", MODEL_TYPE)
    if kind != MODEL_TYPE:
        raise UserError(
            f"{path}: a model of the type {shown(kind)}; of sherpa-onnx's models Paraformer is read here: use the "
            "folder of FunASR that it was exported from"
        )
    if missing := [key for key in (FRAMES, STEP, SHIFT, SCALE) if key not in model.metadata]:
        raise UserError(
            f"{path}: expected the model of a folder of sherpa-onnx or FunASR, but its metadata hold no {missing[0]}, "
            "and there is no config.yaml; copy config.yaml and am.mvn of the model beside it"
        )
    try:
        return _content(model, onnx_shapes(path))
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{path}: expected a Paraformer, but its weights hold no {escaped(str(error.args[0]))}; streaming models "
            "(encoder.onnx and decoder.onnx) and other families are not read from ONNX"
        ) from None


def read_cmvn(path: Path) -> Cmvn:
    """Return the normalisation of a file in Kaldi's form, or of the metadata of an ONNX file."""
    if path.suffix != ".onnx":
        return load_cmvn(path)
    metadata = read_onnx(path).metadata
    shift, scale = (_numbers(path, key, metadata.get(key, "")) for key in (SHIFT, SCALE))
    if len(shift) != len(scale):
        raise UserError(f"{path}: its metadata hold {len(shift)} values of {SHIFT}, but {len(scale)} of {SCALE}")
    return Cmvn(shift, scale)


def _content(model: OnnxModel, shapes: Shapes) -> dict[str, Any]:
    width = shapes["encoder.after_norm.weight"][0]
    encoder, decoder = "encoder.encoders0.0", "decoder.decoders.0"
    kernel = shapes["predictor.cif_conv1d.weight"]
    num_layers = _count(shapes, "decoder.decoders.")
    heads = _num_heads(model, width)
    side = kernel[2] // 2
    return {
        "model": "Paraformer",
        "model_conf": {"ctc_weight": 0.0, "predictor_bias": 1},
        "encoder": "SANMEncoder",
        "encoder_conf": {
            "output_size": width,
            "attention_heads": heads,
            "linear_units": shapes[f"{encoder}.feed_forward.w_1.weight"][0],
            "num_blocks": 1 + _count(shapes, "encoder.encoders."),
            "kernel_size": shapes[f"{encoder}.self_attn.fsmn_block.weight"][2],
            "input_layer": "pe",
        },
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": {
            "attention_heads": heads,
            "linear_units": shapes[f"{decoder}.feed_forward.w_1.weight"][0],
            "num_blocks": num_layers + _count(shapes, "decoder.decoders2."),
            "att_layer_num": num_layers,
            "kernel_size": shapes[f"{decoder}.self_attn.fsmn_block.weight"][2],
        },
        "predictor": "CifPredictorV2" if kernel[1] > 1 else "CifPredictor",
        "predictor_conf": {
            "idim": width,
            "l_order": kernel[2] - 1 - side,
            "r_order": side,
            "tail_threshold": _tail_threshold(model),
        },
        "frontend": "WavFrontend",
        "frontend_conf": {
            "lfr_m": _integer(model, FRAMES),
            "lfr_n": _integer(model, STEP),
            "n_mels": len(model.metadata[SHIFT].split(",")) // max(_integer(model, FRAMES), 1),
            "dither": 0.0,
        },
        "tokenizer": "CharTokenizer",
        "normalize": None,
    }


def _count(shapes: Iterable[str], prefix: str) -> int:
    """Return the number of layers in a list of them."""
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})


def _num_heads(model: OnnxModel, width: int) -> int:
    """Return the number of heads: the width is reshaped to (…, heads, width of one)."""
    pairs = set()
    for node in model.nodes:
        sizes = [model.tensors.get(name) for name in node.inputs[-2:]]
        if node.op == "Concat" and len(node.inputs) == 4 and all(s is not None and s.size == 1 for s in sizes):
            pairs.add(tuple(int(size.item()) for size in sizes))
    heads = {heads for heads, head_width in pairs if heads * head_width == width and heads > 0}
    if len(heads) != 1:
        raise UserError(
            f"{model.path}: cannot tell the number of attention heads (candidates: {shown(sorted(heads))}); copy the "
            "config.yaml of the model beside it"
        )
    return heads.pop()


def _tail_threshold(model: OnnxModel) -> float:
    """Return what is added to the weight behind the last frame: the factor of a difference of two shifted masks."""
    writer = {name: node for node in model.nodes for name in node.outputs}
    for node in model.nodes:
        factors = [model.tensors[name] for name in node.inputs if name in model.tensors]
        subtractions = [writer[name] for name in node.inputs if name in writer and writer[name].op == "Sub"]
        if node.op == "Mul" and subtractions and factors and factors[0].dtype.kind == "f" and factors[0].size == 1:
            masks = [writer[name].op for name in subtractions[0].inputs if name in writer]
            if masks == ["Concat", "Concat"]:
                return round(float(factors[0].item()), 6)
    return TAIL


def _integer(model: OnnxModel, key: str) -> int:
    text = model.metadata[key]
    if not text.isascii() or not text.isdigit() or len(text) > 4:
        raise UserError(f"{model.path}: {key} in its metadata: expected a number of frames, found {shown(text)}")
    return int(text)


def _numbers(path: Path, key: str, text: str) -> np.ndarray:
    """Return float32[i], numbers between commas."""
    try:
        values = np.array([float(word) for word in text.split(",")], np.float32)
    except ValueError:
        values = np.array([np.nan], np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: {key} in its metadata: expected finite numbers between commas, found {shown(text)}")
    return values
