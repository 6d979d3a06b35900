"""Reads and writes config files: settings, overrides, and the settings of a model to start from."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import yaml

from asr.config import Config, TokenizerConfig
from asr.config.packaged import find_config
from asr.config.parsing import parse, parse_override, to_plain
from asr.config.rules import check_config, check_trainable
from asr.config.safe_yaml import compose_file, compose_text
from asr.errors import UserError
from asr.files import Reader, read_bounded, replace_text


def load_config(path: str | Path, overrides: Sequence[str] = (), read: Reader = read_bounded) -> Config:
    """Return the config in a file, changed by overrides.

    Each override is `key=value` or `section.key=value`, the value in YAML.

    Raises:
        UserError: an unreadable file, an unknown key, a wrong type, a value out of range, or contradictory settings.
    """
    return _checked(parse(Config, compose_file(Path(path), read), str(path)), overrides, path)


def load_start_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config of a new run, which may start from the weights of another model.

    As `load_config`; but if `init` names a model, that model's config supplies the settings of the architecture,
    features and loss that neither the file nor an override sets. Its tokenizer is used if the section `tokenizer` is
    absent, and its normalisation if `features.cmvn` is. If only one of `model.ctc_head` and `loss.ctc_weight` is set,
    the other one follows it.

    The path is that of a YAML file, or the name of a config that comes with the package, such as `toy`.
    """
    path = find_config(path)
    node = compose_file(path)
    stated = parse(Config, node, str(path))
    for override in _each(overrides):
        stated = parse_override(stated, override)
    keys = _stated_keys(node) | {override.split("=")[0] for override in overrides}
    base = _with_ctc(_settings_of_model(stated.init, keys), stated, keys) if stated.init else Config()
    return _checked(parse(Config, node, str(path), base), overrides, path)


def _stated_keys(node: yaml.Node, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            keys |= _stated_keys(value, f"{name}.")
        elif value.value:
            keys.add(name)
    return keys


def _with_ctc(base: Config, stated: Config, keys: set[str]) -> Config:
    """Return `base` with the CTC head, or its weight, that follows from the one that the run sets."""
    head, weight = "model.ctc_head" in keys, "loss.ctc_weight" in keys
    if weight and not head:
        has_head = stated.loss.ctc_weight > 0
        return dataclasses.replace(base, model=dataclasses.replace(base.model, ctc_head=has_head))
    if head and not weight and not stated.model.ctc_head:
        return dataclasses.replace(base, loss=dataclasses.replace(base.loss, ctc_weight=0.0))
    return base


def _settings_of_model(folder: str, keys: set[str]) -> Config:
    """Return the defaults with the architecture, features, loss and tokenizer of the model in `folder`."""
    try:
        config = load_config(Path(folder) / "config.yaml")
    except UserError as error:
        expected = (
            "a run directory, or a folder written by asr.export or asr.convert (for a folder of FunASR: "
            "python -m asr.convert --from funasr FOLDER --out MODEL_FOLDER)"
        )
        raise UserError(f"init: expected {expected}, found {folder} ({error})") from None
    # The arithmetic that a stream of that model follows; none other is trained.
    streaming = dataclasses.replace(config.model.streaming, compat="none")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, streaming=streaming))
    check_trainable(config.model, f"init: {folder}")
    cmvn = "none" if config.features.cmvn == "none" else "init"
    own_tokenizer = any(key.split(".")[0] == "tokenizer" for key in keys)
    return Config(
        model=dataclasses.replace(config.model, vocab_size=0, input_dim=0),
        features=dataclasses.replace(config.features, cmvn=cmvn, cmvn_file=""),
        loss=config.loss,
        tokenizer=TokenizerConfig() if own_tokenizer else TokenizerConfig(kind="init"),
    )


def _checked(config: Config, overrides: Sequence[str], path: str | Path) -> Config:
    try:
        return override_config(config, overrides)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("override ") else f"{path}: {error}") from None


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """Return `config` changed by overrides, checked."""
    for override in _each(overrides):
        config = parse_override(config, override)
    check_config(config)
    return config


def _each(overrides: Sequence[str]) -> Sequence[str]:
    if isinstance(overrides, str):
        raise UserError(f"overrides: expected a list of key=value, found one text; write [{overrides!r:.80}]")
    return overrides


def read_config_text(text: str, where: str) -> Config:
    """Return the config in a YAML text, as `load_config` does for a file; messages say `where` it is."""
    return _checked(parse(Config, compose_text(text, where), where), (), where)


def save_config(config: Config, path: Path) -> None:
    """Write `config` atomically, so that `load_config` returns an equal one."""
    replace_text(path, config_text(config))


def config_text(config: Config) -> str:
    """Return `config` as YAML."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, default_flow_style=None, width=110)
