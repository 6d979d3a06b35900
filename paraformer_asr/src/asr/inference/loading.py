"""Reads a trained model from its folder: a run directory, an exported or converted model, or one of FunASR."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.checkpoints import restore_variables
from asr.config import Config, ModelConfig
from asr.config.reader import load_config, override_config
from asr.data.cmvn import load_cmvn
from asr.data.frontend import Cmvn
from asr.data.text.stored_tokenizer import load_tokenizer
from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.files import read_bounded
from asr.funasr_folder import is_funasr_folder
from asr.inference.checksums import CheckedFolder
from asr.inference.model_folder import CMVN, check_variables, is_model_folder, load_weights
from asr.models import CustomModel, build_model
from asr.published.funasr import load_funasr
from asr.published.kinds import check_recognises


def load_parts(
    folder: str | Path,
    which: str = "best",
    overrides: Sequence[str] = (),
    average: int = 1,
    custom: CustomModel | None = None,
) -> tuple[Config, Tokenizer, Cmvn | None, Any]:
    """Return (config, tokenizer, CMVN, variables) of any kind of model folder; arguments as of `asr.load`."""
    folder = Path(folder)
    if average < 1:
        raise UserError(f"--average: expected at least 1 checkpoint, found {average}")
    if is_funasr_folder(folder):
        check_recognises(folder)
        return _load_published(folder, overrides, average)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: expected a run directory or a model folder, but it holds no config.yaml")
    files = CheckedFolder(folder) if is_model_folder(folder) else None
    read = files.read if files else read_bounded
    config = load_config(folder / "config.yaml", overrides, read)
    if custom is not None and config.model.name != "custom":
        raise UserError(f"{folder}: its model is {config.model.name}, of this package; leave model=... out")
    tokenizer = load_tokenizer(folder, read)
    config = dataclasses.replace(config, model=_with_vocabulary(config.model, tokenizer, folder))
    model = build_model(dataclasses.replace(config.model, input_dim=config.features.input_dim), custom)
    cmvn = load_cmvn(folder / CMVN, read) if config.features.cmvn != "none" else None
    if files:
        if average > 1:
            raise UserError(f"--average {average}: {folder} is an exported model, which holds one set of weights")
        return config, tokenizer, cmvn, load_weights(files, config, model)
    variables = restore_variables(folder / "checkpoints", which, average)
    check_variables(variables, config, folder, model)
    return config, tokenizer, cmvn, variables


def _load_published(folder: Path, overrides: Sequence[str], average: int) -> tuple[Config, Tokenizer, Cmvn | None, Any]:
    if average > 1:
        raise UserError(f"--average {average}: {folder} is a model of FunASR, which holds one set of weights")
    config, *parts, variables = load_funasr(folder)
    config = override_config(config, overrides)
    check_variables(variables, config, folder)
    return config, *parts, variables


def _with_vocabulary(model: ModelConfig, tokenizer: Tokenizer, folder: Path) -> ModelConfig:
    if model.vocab_size not in (0, tokenizer.vocab_size):
        raise UserError(
            f"{folder}: model.vocab_size is {model.vocab_size}, but tokenizer.json has {tokenizer.vocab_size} tokens; "
            "the two do not belong together"
        )
    return dataclasses.replace(model, vocab_size=tokenizer.vocab_size)
