"""Reads Paraformer models that FunASR publishes, and writes models of this package for it.

    model.pt            the state dict
    config.yaml         network, front end and training
    configuration.json  names of the other files
    tokens.json         the vocabulary, a list
    seg_dict            English words and their pieces
    am.mvn              mean and variance of the features

Instead of model.pt the folder may hold FunASR's export, model.onnx; a folder of sherpa-onnx is read as well.

Reference: FunASR, `funasr/models/paraformer` and `funasr/models/sanm`.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np
import yaml

from asr.checkpoints.arrays import describe_arrays, named_arrays
from asr.config import Config, ModelConfig
from asr.data.cmvn import save_cmvn
from asr.data.frontend import Cmvn
from asr.data.text.building import load_funasr_tokenizer
from asr.data.text.funasr_text import write_seg_dict
from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.files import replace_text
from asr.funasr_folder import CMVN, CONFIG, FILES, ONNX, SEG_DICT, TOKENS, WEIGHTS, FunasrFiles
from asr.models import abstract_variables, unstack_blocks
from asr.published.funasr_config import make_funasr_config, open_funasr_folder
from asr.published.mapping import AS_IS, LINEAR, Layout, Pair, export_arrays, import_arrays
from asr.published.sherpa_folder import read_cmvn
from asr.published.torch_writer import write_torch_file
from asr.published.weights_file import read_tensors

log = logging.getLogger("asr")

DEPTHWISE = Layout(lambda w_o1k: w_o1k[:, 0].T, lambda w_ko: w_ko.T[:, None])
"""`Conv1d.weight` of torch with one group for each channel: output channels o, kernel taps k."""

CONV1D = Layout(lambda w_oik: w_oik.transpose(2, 1, 0), lambda w_kio: w_kio.transpose(2, 1, 0))
"""`Conv1d.weight` of torch."""

EMBEDDING = "decoder.embed.0.weight"
WITHOUT_EMBEDDING = ("paraformer", "bicif")
"""Kinds of model whose embedding of tokens only training needs; hot words need it, too."""

ANCHOR = "encoder.after_norm.weight"  # a tensor that every model has
CTC_HEAD = "ctc.ctc_lo"  # prefix of the tensors of the CTC head
MAX_MISSING = 100  # most missing tensors that are listed with their shapes


def load_funasr(folder: Path) -> tuple[Config, Tokenizer, Cmvn | None, dict[str, Any]]:
    """Return (config, tokenizer, CMVN, {"params": …}) of a FunASR model folder; the arrays are views of its file.

    Raises:
        UserError: a file that is missing or damaged, a model of another kind, or a list of the tensors that do not fit
            the config.
    """
    config, files = open_funasr_folder(folder)
    for remark in files.remarks:
        log.warning("%s", remark)
    tokenizer = load_funasr_tokenizer(folder, config.tokenizer.text_case, (files.tokens, files.seg_dict))
    cmvn = read_cmvn(files.cmvn) if files.cmvn else None
    if cmvn is not None and len(cmvn.shift) != config.features.input_dim:
        expected = f"n_mels · lfr_m = {config.features.input_dim} values as {files.config.name} says"
        raise UserError(f"{files.cmvn}: expected {expected}, found {len(cmvn.shift)}")
    tensors = read_tensors(files.weights, ANCHOR)
    _check_vocabulary(tensors, tokenizer, files)
    sizes = {"vocab_size": tokenizer.vocab_size, "input_dim": config.features.input_dim}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **sizes))
    if files.weights.suffix == ONNX and EMBEDDING not in tensors and config.model.name in WITHOUT_EMBEDDING:
        log.warning(
            "%s: an export leaves out the embedding of tokens, which only training needs: zeros here", files.weights
        )
        tensors[EMBEDDING] = np.zeros((tokenizer.vocab_size, config.model.encoder.width), np.float32)
    _check_ctc_head(tensors, config, files)
    pairs = funasr_pairs(config.model)
    _check_names(tensors, [name for pair in pairs for name in pair.names], files)
    arrays = import_arrays(pairs, tensors, array_shapes(config.model), files.weights)
    return config, tokenizer, cmvn, flax.traverse_util.unflatten_dict(arrays, sep="/")


def save_funasr(folder: Path, config: Config, tokenizer: Tokenizer, cmvn: Cmvn | None, variables: Any) -> None:
    """Write a FunASR model folder, the inverse of `load_funasr`; without a `seg_dict` only the list of tokens."""
    content = make_funasr_config(config)
    params = unstack_blocks(variables["params"])
    arrays = {name: np.asarray(array) for name, array in named_arrays({"params": params}).items()}
    write_torch_file(folder / WEIGHTS, export_arrays(funasr_pairs(config.model), arrays))
    replace_text(folder / CONFIG, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    replace_text(folder / TOKENS, json.dumps(tokenizer.tokens, ensure_ascii=False, indent=0) + "\n")
    places: dict[str, Any] = {"init_param": WEIGHTS, "config": CONFIG, "tokenizer_conf": {"token_list": TOKENS}}
    if tokenizer.seg_dict:
        write_seg_dict(folder / SEG_DICT, tokenizer.seg_dict)
        places["tokenizer_conf"]["seg_dict_file"] = SEG_DICT
    if cmvn is not None:
        save_cmvn(folder / CMVN, cmvn)
        places["frontend_conf"] = {"cmvn_file": CMVN}
    files = {"framework": "pytorch", "task": "auto-speech-recognition", "model": {"type": "funasr"}}
    files |= {"pipeline": {"type": "funasr-pipeline"}, "file_path_metas": places}
    replace_text(folder / FILES, json.dumps(files, indent=2) + "\n")


def array_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the arrays of a model."""
    return {name: shape for name, (shape, _) in describe_arrays(abstract_variables(config)).items()}


def funasr_pairs(config: ModelConfig) -> list[Pair]:
    """Return every array of an unrolled model with FunASR's tensor of the same values."""
    encoder, decoder = config.encoder, config.decoder
    pairs = _norm("encoder/norm", "encoder.after_norm")
    for number in range(encoder.num_layers):
        theirs = f"encoder.encoders.{number - 1}" if number else "encoder.encoders0.0"
        pairs += _encoder_block(f"encoder/block{number}", theirs)
    pairs += _predictor(config.predictor.kind)
    pairs += [_pair("decoder/embedding", EMBEDDING)]
    for number in range(decoder.num_layers):
        pairs += _decoder_block(f"decoder/block{number}", f"decoder.decoders.{number}", attends=True)
    for number in range(decoder.num_memory_layers):
        pairs += _decoder_block(f"decoder/memory_block{number}", f"decoder.decoders2.{number}", attends=False)
    for number in range(decoder.num_ffn_layers):
        ours, theirs = f"decoder/ffn_block{number}", f"decoder.decoders3.{number}"
        pairs += _norm(f"{ours}/norm1", f"{theirs}.norm1") + _decoder_ffn(ours, theirs)
    pairs += _norm("decoder/norm", "decoder.after_norm") + _dense("decoder/output", "decoder.output_layer")
    return pairs + (_dense("ctc", CTC_HEAD) if config.ctc_head else [])


def _encoder_block(ours: str, theirs: str) -> list[Pair]:
    return [
        *_norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *_dense(f"{ours}/qkv", f"{theirs}.self_attn.linear_q_k_v"),
        _pair(f"{ours}/memory/kernel", f"{theirs}.self_attn.fsmn_block.weight", DEPTHWISE),
        *_dense(f"{ours}/out", f"{theirs}.self_attn.linear_out"),
        *_norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *_dense(f"{ours}/ffn/expand", f"{theirs}.feed_forward.w_1"),
        *_dense(f"{ours}/ffn/contract", f"{theirs}.feed_forward.w_2"),
    ]


def _predictor(kind: str) -> list[Pair]:
    layout = CONV1D if kind == "conv" else DEPTHWISE
    return [
        _pair("predictor/conv_kernel", "predictor.cif_conv1d.weight", layout),
        _pair("predictor/conv_bias", "predictor.cif_conv1d.bias"),
        *_dense("predictor", "predictor.cif_output"),
    ]


def _decoder_block(ours: str, theirs: str, *, attends: bool) -> list[Pair]:
    pairs = [
        *_norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *_decoder_ffn(ours, theirs),
        *_norm(f"{ours}/norm2", f"{theirs}.norm2"),
        _pair(f"{ours}/memory/kernel", f"{theirs}.self_attn.fsmn_block.weight", DEPTHWISE),
    ]
    if not attends:
        return pairs
    return [
        *pairs,
        *_norm(f"{ours}/norm3", f"{theirs}.norm3"),
        *_dense(f"{ours}/q", f"{theirs}.src_attn.linear_q"),
        *_dense(f"{ours}/kv", f"{theirs}.src_attn.linear_k_v"),
        *_dense(f"{ours}/out", f"{theirs}.src_attn.linear_out"),
    ]


def _decoder_ffn(ours: str, theirs: str) -> list[Pair]:
    """Return the pairs of the decoder's feed-forward network: a norm inside, and no second bias."""
    return [
        *_dense(f"{ours}/ffn/expand", f"{theirs}.feed_forward.w_1"),
        *_norm(f"{ours}/ffn/norm", f"{theirs}.feed_forward.norm"),
        _pair(f"{ours}/ffn/contract/kernel", f"{theirs}.feed_forward.w_2.weight", LINEAR),
    ]


def _dense(ours: str, theirs: str) -> list[Pair]:
    return [_pair(f"{ours}/kernel", f"{theirs}.weight", LINEAR), _pair(f"{ours}/bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[Pair]:
    return [_pair(f"{ours}/scale", f"{theirs}.weight"), _pair(f"{ours}/bias", f"{theirs}.bias")]


def _pair(ours: str, theirs: str, layout: Layout = AS_IS) -> Pair:
    return Pair(f"params/{ours}", theirs, layout)


def _check_names(tensors: dict[str, np.ndarray], names: list[str], files: FunasrFiles) -> None:
    """Refuse a config with far more layers than the file, before the network is traced, which takes long."""
    missing = [name for name in names if name not in tensors]
    if len(missing) > MAX_MISSING:
        raise UserError(
            f"{files.weights}: {len(missing)} of the {len(names)} tensors that {files.config.name} asks for are "
            f"missing, such as {missing[0]}; the two do not belong together"
        )


def _check_vocabulary(tensors: dict[str, np.ndarray], tokenizer: Tokenizer, files: FunasrFiles) -> None:
    """Refuse a list of tokens whose length is not the width of the network's output."""
    output = tensors.get("decoder.output_layer.weight")
    if output is not None and output.ndim == 2 and len(output) != tokenizer.vocab_size:
        raise UserError(
            f"{files.tokens}: {tokenizer.vocab_size} tokens, but {files.weights.name} was trained with {len(output)} "
            f"(decoder.output_layer.weight); the two do not belong together"
        )


def _check_ctc_head(tensors: dict[str, np.ndarray], config: Config, files: FunasrFiles) -> None:
    """Refuse a CTC head that only the config or only the weights have."""
    head, weight = f"{CTC_HEAD}.weight" in tensors, config.loss.ctc_weight
    if head == config.model.ctc_head:
        return
    there = "holds no CTC head" if weight else f"holds a CTC head ({CTC_HEAD})"
    advice = "model_conf.ctc_weight: 0.0" if weight else "the weight that the head was trained with, such as 0.3"
    stated = f"model_conf.ctc_weight is {weight:g} in {files.config.name}"
    raise UserError(f"{files.weights}: {there}, but {stated}; write {advice} there")
