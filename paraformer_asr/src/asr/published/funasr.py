"""Reads Paraformer and SenseVoice models that FunASR publishes, and writes models of this package for it.

    model.pt            the state dict
    config.yaml         network, front end and training
    configuration.json  names of the other files
    tokens.json         the vocabulary, a list
    seg_dict            English words and their pieces
    bpe.model           instead of both: a model of sentencepiece
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
from asr.files import replace_text, replacing
from asr.funasr_folder import CMVN, CONFIG, FILES, OF_PIECES, ONNX, PIECES, SEG_DICT, TOKENS, WEIGHTS, FunasrFiles
from asr.models import abstract_variables, unstack_blocks
from asr.published.funasr_config import make_funasr_config, open_funasr_folder
from asr.published.funasr_pairs import CTC_HEAD, EMBEDDING, funasr_pairs
from asr.published.kinds import KINDS
from asr.published.mapping import export_arrays, import_arrays
from asr.published.sherpa_folder import read_cmvn
from asr.published.torch_writer import write_torch_file
from asr.published.weights_file import DECODER, part_beside, read_tensors

log = logging.getLogger("asr")


WITHOUT_EMBEDDING = ("paraformer", "bicif", "streaming")
"""Kinds of model whose embedding of tokens only training needs; hot words need it, too."""

ANCHOR = "encoder.after_norm.weight"  # a tensor that every model has
OUTPUTS = ("decoder.output_layer", CTC_HEAD)  # of the map to the tokens; SenseVoice has no decoder
EMO_UNKNOWN = "<|EMO_UNKNOWN|>"  # SenseVoice's tag for an emotion that it does not know
PARTS = {
    "predictor.blstm": ("seaco", "bicif"),
    "seaco_decoder": ("seaco",),
    "decoder.bias_decoder": ("contextual",),
}
"""Prefix of the tensors of a part → kinds of model that have it."""

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
    tensors = read_tensors(files.weights, ANCHOR)
    _check_decoder(tensors, config, files)
    num_outputs = _num_outputs(tensors)
    tokenizer = load_funasr_tokenizer(folder, config.tokenizer.text_case, files.text, num_outputs)
    cmvn = read_cmvn(files.cmvn) if files.cmvn else None
    if cmvn is not None and len(cmvn.shift) != config.features.input_dim:
        expected = f"n_mels · lfr_m = {config.features.input_dim} values as {files.config.name} says"
        raise UserError(f"{files.cmvn}: expected {expected}, found {len(cmvn.shift)}")
    _check_vocabulary(num_outputs, config, tokenizer, files)
    sizes = {"vocab_size": tokenizer.vocab_size, "input_dim": config.features.input_dim}
    if config.model.name == "sense_voice":
        unknown_id = tokenizer.tokens.index(EMO_UNKNOWN) if EMO_UNKNOWN in tokenizer.tokens else 0
        sizes["sense_voice"] = dataclasses.replace(config.model.sense_voice, emo_unknown_id=unknown_id)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **sizes))
    if files.weights.suffix == ONNX and EMBEDDING not in tensors and config.model.name in WITHOUT_EMBEDDING:
        log.warning(
            "%s: an export leaves out the embedding of tokens, which only training needs: zeros here", files.weights
        )
        tensors[EMBEDDING] = np.zeros((tokenizer.vocab_size, config.model.encoder.width), np.float32)
    _check_ctc_head(tensors, config, files)
    _check_parts(tensors, config, files)
    pairs = funasr_pairs(config.model)
    _check_names(tensors, [name for pair in pairs for name in pair.names], files)
    arrays = import_arrays(pairs, tensors, array_shapes(config.model), files.weights)
    return config, tokenizer, cmvn, flax.traverse_util.unflatten_dict(arrays, sep="/")


def save_funasr(folder: Path, config: Config, tokenizer: Tokenizer, cmvn: Cmvn | None, variables: Any) -> None:
    """Write a FunASR model folder, the inverse of `load_funasr`; without a `seg_dict` only the list of tokens."""
    content = make_funasr_config(config)
    content["tokenizer"] = OF_PIECES if tokenizer.kind == "sentencepiece" else content["tokenizer"]
    params = unstack_blocks(variables["params"])
    arrays = {name: np.asarray(array) for name, array in named_arrays({"params": params}).items()}
    write_torch_file(folder / WEIGHTS, export_arrays(funasr_pairs(config.model), arrays))
    replace_text(folder / CONFIG, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    places: dict[str, Any] = {"init_param": WEIGHTS, "config": CONFIG}
    places["tokenizer_conf"] = _save_tokenizer(folder, tokenizer)
    if cmvn is not None:
        save_cmvn(folder / CMVN, cmvn)
        places["frontend_conf"] = {"cmvn_file": CMVN}
    files = {"framework": "pytorch", "task": "auto-speech-recognition", "model": {"type": "funasr"}}
    files |= {"pipeline": {"type": "funasr-pipeline"}, "file_path_metas": places}
    replace_text(folder / FILES, json.dumps(files, indent=2) + "\n")


def _save_tokenizer(folder: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """Write the tokenizer's files; return their names by FunASR's keys."""
    if tokenizer.kind == "sentencepiece":
        with replacing(folder / PIECES) as aside:
            aside.write_bytes(tokenizer.bpe_model)
        return {"bpemodel": PIECES}
    replace_text(folder / TOKENS, json.dumps(tokenizer.tokens, ensure_ascii=False, indent=0) + "\n")
    if not tokenizer.seg_dict:
        return {"token_list": TOKENS}
    write_seg_dict(folder / SEG_DICT, tokenizer.seg_dict)
    return {"token_list": TOKENS, "seg_dict_file": SEG_DICT}


def array_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the arrays of a model."""
    return {name: shape for name, (shape, _) in describe_arrays(abstract_variables(config)).items()}


def _check_parts(tensors: dict[str, np.ndarray], config: Config, files: FunasrFiles) -> None:
    """Refuse a class whose special parts the weights lack, and weights with such parts of another class."""
    stated = next(each for each, kind in KINDS.items() if kind == config.model.name)
    for prefix, names in PARTS.items():
        has_part, of_class = any(name.startswith(prefix) for name in tensors), config.model.name in names
        if has_part != of_class:
            classes = " and ".join(each for each, kind in KINDS.items() if kind in names)
            raise UserError(
                f"{files.weights}: holds {'' if has_part else 'no '}tensors {prefix}*, a part of {classes}, but "
                f"{files.config.name} says {stated}; the two do not belong together"
            )


def _check_decoder(tensors: dict[str, np.ndarray], config: Config, files: FunasrFiles) -> None:
    """Refuse the encoder's half of a pair of graphs alone."""
    if config.model.name == "streaming" and not any(name.startswith(f"{DECODER}.") for name in tensors):
        raise UserError(
            f"{files.weights}: holds no decoder, which FunASR exports beside the rest of a streaming model; copy "
            f"{part_beside(files.weights, DECODER).name} into the folder, too"
        )


def _check_names(tensors: dict[str, np.ndarray], names: list[str], files: FunasrFiles) -> None:
    """Refuse a config with far more layers than the file, before the network is traced, which takes long."""
    missing = [name for name in names if name not in tensors]
    if len(missing) > MAX_MISSING:
        raise UserError(
            f"{files.weights}: {len(missing)} of the {len(names)} tensors that {files.config.name} asks for are "
            f"missing, such as {missing[0]}; the two do not belong together"
        )


def _num_outputs(tensors: dict[str, np.ndarray]) -> int | None:
    """Return the number of tokens that the network was trained with, if the tensors tell it."""
    outputs = (tensors.get(f"{name}.weight") for name in OUTPUTS)
    return next((len(output) for output in outputs if output is not None and output.ndim == 2), None)


def _check_vocabulary(num_outputs: int | None, config: Config, tokenizer: Tokenizer, files: FunasrFiles) -> None:
    """Refuse a vocabulary whose size is not the width of the network's output."""
    if num_outputs not in (None, tokenizer.vocab_size):
        output = CTC_HEAD if config.model.name == "sense_voice" else OUTPUTS[0]
        raise UserError(
            f"{files.pieces or files.tokens}: {tokenizer.vocab_size} tokens, but {files.weights.name} was trained with "
            f"{num_outputs} ({output}.weight); the two do not belong together"
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
