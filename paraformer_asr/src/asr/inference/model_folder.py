"""An exported model: a folder that any jax program can run, and that `asr.load` reads.

    config.yaml          settings of the run
    tokenizer.json       the tokens; bpe.model beside it if they are pieces of words
    cmvn.txt             mean and variance of the features, in Kaldi's form; a model without normalisation has none
    weights.safetensors  arrays by their names, such as params/encoder/block0/qkv/kernel; averaged ones if any
    model.stablehlo      a program: (weights, wave float32[b, n], lengths int32[b]) → tokens, confidence, times, counts
    checksums.txt        SHA-256 of the files, as `sha256sum -c` reads it
    README.txt           how to run it

The weights are an argument of the program: they are stored once, and can be inspected and replaced.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from asr.checkpoints.arrays import check_finite, check_same_arrays, describe_arrays, named_arrays
from asr.checkpoints.safetensors_file import read_safetensors, write_safetensors
from asr.config import Config
from asr.config.reader import save_config
from asr.data.cmvn import save_cmvn
from asr.data.frontend import Cmvn
from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.files import appearing, replace_text
from asr.inference.checksums import CheckedFolder, write_checksums
from asr.inference.exported_program import PLATFORMS, export_program, nested, num_samples
from asr.models import CustomModel, abstract_variables

WEIGHTS = "weights.safetensors"
PROGRAM = "model.stablehlo"
CMVN = "cmvn.txt"


def is_model_folder(folder: Path) -> bool:
    """Return whether `folder` looks like an exported model."""
    return (folder / WEIGHTS).is_file()


def save_model_folder(
    folder: Path,
    config: Config,
    tokenizer: Tokenizer,
    cmvn: Cmvn | None,
    variables: Any,
    *,
    force: bool = False,
    custom: CustomModel | None = None,
) -> None:
    """Write a model folder; it appears under its name only when it is complete.

    `variables` are {"params": …}; with `force` an existing exported model is replaced; `custom` is the network, if it
    comes from outside the package.
    """
    check_target(folder, force)
    with appearing(folder) as partial:
        weights = named_arrays(variables)
        (partial / PROGRAM).write_bytes(export_program(config, cmvn, weights, custom))
        write_safetensors(partial / WEIGHTS, weights)
        save_config(config, partial / "config.yaml")
        tokenizer.save(partial)
        if cmvn is not None:
            save_cmvn(partial / CMVN, cmvn)
        replace_text(partial / "README.txt", _readme(config, tokenizer))
        write_checksums(partial)


def load_weights(files: CheckedFolder, config: Config, model: nn.Module | None = None) -> dict[str, Any]:
    """Return the variables {"params": …} of a model folder after verifying all of its files."""
    path = files.folder / WEIGHTS
    weights, sha256 = read_safetensors(path)
    files.check(path, sha256)
    files.check_the_others()
    variables = nested(weights)
    check_variables(variables, config, files.folder, model)
    return variables


def check_variables(variables: Any, config: Config, folder: Path, model: nn.Module | None = None) -> None:
    """Refuse variables {"params": …} that are not those of the model in `config`, or not finite.

    `model` is the network if it came from outside the package; messages name the `folder` they come from.
    """
    expected = abstract_variables(dataclasses.replace(config.model, input_dim=config.features.input_dim), model)
    check_same_arrays(describe_arrays(expected), describe_arrays(variables), folder)
    check_finite(named_arrays(variables), folder)


def check_target(folder: Path, force: bool, replaceable: Callable[[Path], bool] = is_model_folder) -> None:
    """Refuse to overwrite anything but, with `force`, a folder that is `replaceable`."""
    if not folder.exists():
        return
    if not force:
        raise UserError(f"{folder}: exists already; choose another --out, or replace it with --force")
    if not replaceable(folder):
        raise UserError(f"{folder}: --force replaces a model of the same kind only, which this is not; choose another")


def _without_hotwords(config: Config) -> str:
    if config.model.name not in ("seaco", "contextual"):
        return ""
    return "\nThe program takes no hot words; with them use this package, which needs the other files only."


def _readme(config: Config, tokenizer: Tokenizer) -> str:
    n, rate_hz = num_samples(config), config.features.sample_rate_hz
    return f"""\
A speech recognition model with {tokenizer.vocab_size} tokens, for sound at {rate_hz} Hz.

model.stablehlo is a program of three arguments, written for {" and ".join(PLATFORMS)}:
    weights  the arrays of weights.safetensors, by name
    waves    float32[b, {n}], one channel in -1...1 at {rate_hz} Hz, zeros behind the end, any number b of utterances
    lengths  int32[b], samples of each utterance, at most {n} ({n / rate_hz:g} s)
It returns tokens int32[b, u], the probability of each, when each begins and ends (in seconds), and counts int32[b]:
how many of the u places are tokens. Their texts are the list "tokens" in tokenizer.json.{_without_hotwords(config)}

To run it from any jax program (pip install jax flatbuffers safetensors numpy; jax {jax.__version__} or newer):

    import json, jax.export, numpy, safetensors.numpy
    program = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    weights = safetensors.numpy.load_file("weights.safetensors")
    texts = json.load(open("tokenizer.json", encoding="utf-8"))["tokens"]
    waves, lengths = numpy.zeros((1, {n}), numpy.float32), numpy.array([{rate_hz}], numpy.int32)
    tokens, confidence, start, end, counts = program.call(weights, waves, lengths)
    print([[texts[token] for token in row[:count]] for row, count in zip(tokens, counts)])

Sound of any length, with this package installed: asr infer --model THIS_FOLDER FILES
"""
