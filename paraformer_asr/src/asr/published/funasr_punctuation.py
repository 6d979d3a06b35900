"""Reads the punctuation models that FunASR publishes, and writes them.

    model.pt            the state dict
    config.yaml         network and signs
    configuration.json  names of the other files
    tokens.json         the words, a list

Reference: FunASR, `funasr/models/ct_transformer` and `funasr/models/ct_transformer_streaming`.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import yaml

from asr.checkpoints.arrays import describe_arrays, named_arrays
from asr.config import ModelConfig
from asr.config.punctuation import UNKNOWN_SIGN, PunctuationConfig
from asr.data.text.building import read_token_file
from asr.errors import UserError
from asr.files import replace_text
from asr.funasr_folder import CONFIG, FILES, TOKENS, WEIGHTS
from asr.models.ct_transformer import CTTransformer
from asr.published.funasr import ANCHOR, funasr_pairs
from asr.published.funasr_punctuation_config import make_punctuation_config, open_punctuation_folder
from asr.published.mapping import AS_IS, LINEAR, Pair, export_arrays, import_arrays
from asr.published.torch_writer import write_torch_file
from asr.published.weights_file import read_tensors


def load_funasr_punctuation(folder: Path) -> tuple[PunctuationConfig, tuple[str, ...], dict[str, Any]]:
    """Return (config, words, {"params": …}) of a punctuation folder; the arrays are views of its file.

    Raises:
        UserError: a file that is missing or damaged, a model of another kind, or a list of the tensors that do not fit
            the config.
    """
    config, files = open_punctuation_folder(folder)
    words = tuple(read_token_file(files.tokens))
    if UNKNOWN_SIGN not in words:
        raise UserError(f"{files.tokens}: expected the word {UNKNOWN_SIGN} for all that are not in the list")
    config = dataclasses.replace(config, vocab_size=len(words))
    tensors = read_tensors(files.weights, ANCHOR)
    embedding = tensors.get("embed.weight")
    if embedding is not None and embedding.ndim == 2 and len(embedding) != len(words):
        raise UserError(
            f"{files.tokens}: {len(words)} words, but {files.weights.name} was trained with {len(embedding)} "
            "(embed.weight); the two do not belong together"
        )
    arrays = import_arrays(punctuation_pairs(config), tensors, array_shapes(config), files.weights)
    return config, words, flax.traverse_util.unflatten_dict(arrays, sep="/")


def save_funasr_punctuation(folder: Path, config: PunctuationConfig, words: Sequence[str], variables: Any) -> None:
    """Write a punctuation folder of FunASR, the inverse of `load_funasr_punctuation`."""
    arrays = {name: np.asarray(array) for name, array in named_arrays(variables).items()}
    write_torch_file(folder / WEIGHTS, export_arrays(punctuation_pairs(config), arrays))
    content = yaml.safe_dump(make_punctuation_config(config), sort_keys=False, allow_unicode=True)
    replace_text(folder / CONFIG, content)
    replace_text(folder / TOKENS, json.dumps(list(words), ensure_ascii=False, indent=0) + "\n")
    places = {"init_param": WEIGHTS, "config": CONFIG, "tokenizer_conf": {"token_list": TOKENS}}
    files = {"framework": "pytorch", "task": "punctuation", "model": {"type": "funasr"}}
    files |= {"pipeline": {"type": "funasr-pipeline"}, "file_path_metas": places}
    replace_text(folder / FILES, json.dumps(files, indent=2) + "\n")


def array_shapes(config: PunctuationConfig) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the arrays of a model."""
    word_bt, one_b = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    initialise = functools.partial(CTTransformer(config).init, words_bt=word_bt, lengths_b=one_b, num_old_b=one_b)
    return {name: shape for name, (shape, _) in describe_arrays(jax.eval_shape(initialise, jax.random.key(0))).items()}


def punctuation_pairs(config: PunctuationConfig) -> list[Pair]:
    """Return every array of a model with FunASR's tensor of the same values; the encoder is a recogniser's."""
    pairs = [pair for pair in funasr_pairs(ModelConfig(encoder=config.encoder)) if pair.theirs.startswith("encoder.")]
    return [
        Pair("params/embedding", "embed.weight", AS_IS),
        *pairs,
        Pair("params/output/kernel", "decoder.weight", LINEAR),
        Pair("params/output/bias", "decoder.bias", AS_IS),
    ]
