"""Reads a YAML config into `asr.config.Config`, and names the file, line and key of each mistake."""

import dataclasses
import difflib
import re
import types
import typing
import unicodedata
from pathlib import Path
from typing import Any, Literal

import yaml

from asr.config import Config, TokenizerConfig
from asr.config.rules import check_config
from asr.config.safe_yaml import CANNOT_BE_READ, MAX_CONFIG_BYTES, compose
from asr.errors import UserError
from asr.files import Reader, read_bounded, replace_text
from asr.untrusted import escaped, shown

MAX_OVERRIDE_CHARACTERS = 1 << 12

MAX_NUMBER = 1 << 1023
"""Whole numbers beyond it have no counterpart with a point."""

NULL = "tag:yaml.org,2002:null"

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = (), read: Reader = read_bounded) -> Config:
    """Return the config in `path`, changed by `overrides`.

    Args:
        path: a YAML file.
        overrides: `key=value` or `section.key=value`, the value in YAML.
        read: as `asr.files.read_bounded`.

    Raises:
        UserError: an unreadable file, an unknown key, a wrong type, a value out of range, or settings that
            contradict each other.
    """
    return _checked(_build(Config, _compose(Path(path), read), "", str(path)), overrides, path)


def load_start_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Return the config of a new run, which may begin with the weights of another model.

    As `load_config`; but if `init` names a model, then what neither the file nor an override states of its
    architecture, features and loss is taken from that model's own config. Its tokenizer is used where the section
    `tokenizer` is left out altogether, and its normalisation where `features.cmvn` is. Of `model.ctc_head` and
    `loss.ctc_weight` the one that is stated decides: a CTC head is trained, or it is left out.

    Args:
        path: a YAML file.
        overrides: `key=value` or `section.key=value`, the value in YAML.

    Raises:
        UserError: as `load_config`, and a folder that holds no config of a model.
    """
    node = _compose(Path(path))
    stated = _build(Config, node, "", str(path))
    for override in overrides:
        stated = _override(stated, override)
    keys = _stated_keys(node) | {override.split("=")[0] for override in overrides}
    base = _with_ctc(_settings_of_model(stated.init, keys), stated, keys) if stated.init else Config()
    return _checked(_build(Config, node, "", str(path), base), overrides, path)


def _checked(config: Config, overrides: list[str] | tuple[str, ...], path: str | Path) -> Config:
    try:
        return override_config(config, overrides)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("override ") else f"{path}: {error}") from None


def _stated_keys(node: yaml.Node, prefix: str = "") -> set[str]:
    """Return the settings that a file states, `section.key`, without those that it leaves empty."""
    keys: set[str] = set()
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            keys |= _stated_keys(value, f"{name}.")
        elif value.value:
            keys.add(name)
    return keys


def _with_ctc(base: Config, stated: Config, keys: set[str]) -> Config:
    """Return what a run takes over with the CTC head, or its weight, following the one that the run states."""
    head, weight = "model.ctc_head" in keys, "loss.ctc_weight" in keys
    if weight and not head:
        has_head = stated.loss.ctc_weight > 0
        return dataclasses.replace(base, model=dataclasses.replace(base.model, ctc_head=has_head))
    if head and not weight and not stated.model.ctc_head:
        return dataclasses.replace(base, loss=dataclasses.replace(base.loss, ctc_weight=0.0))
    return base


def _settings_of_model(folder: str, keys: set[str]) -> Config:
    """Return the defaults with the architecture, features, loss and tokenizer of the model in `folder`.

    The widths that the tokenizer and the features decide are left to them.
    """
    file = Path(folder) / "config.yaml"
    try:
        found = load_config(file)
    except UserError as error:
        expected = (
            "a run directory, or a folder that asr.export or asr.convert wrote (for a folder of FunASR: "
            "python -m asr.convert --from funasr FOLDER --out MODEL_FOLDER)"
        )
        raise UserError(f"init: expected {expected}, found {folder} ({error})") from None
    cmvn = "none" if found.features.cmvn == "none" else "init"
    own_tokenizer = any(key.split(".")[0] == "tokenizer" for key in keys)
    return Config(
        model=dataclasses.replace(found.model, vocab_size=0, input_dim=0),
        features=dataclasses.replace(found.features, cmvn=cmvn, cmvn_file=""),
        loss=found.loss,
        tokenizer=TokenizerConfig() if own_tokenizer else TokenizerConfig(kind="init"),
    )


def override_config(config: Config, overrides: list[str] | tuple[str, ...]) -> Config:
    """Return `config` with the changes that `overrides` ask for, checked.

    Raises:
        UserError: an unknown key, a wrong value, or settings that contradict each other.
    """
    for override in overrides:
        config = _override(config, override)
    check_config(config)
    return config


def read_config_text(text: str, where: str) -> Config:
    """Return the config that a text holds, as `load_config` does of a file.

    Args:
        text: YAML.
        where: it stands, for messages.
    """
    return _checked(_build(Config, compose(text.encode(), where), "", where), (), where)


def save_config(config: Config, path: Path) -> None:
    """Write `config` so that `load_config` returns an equal one; after a power failure the file is there, whole."""
    replace_text(path, config_text(config))


def config_text(config: Config) -> str:
    """Return `config` as YAML."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, default_flow_style=None, width=110)


def to_plain(value: Any) -> Any:
    """Return `value` with dataclasses as dictionaries and tuples as lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_plain(v) for v in value]
    return value


def _compose(path: Path, read: Reader = read_bounded) -> yaml.Node:
    """Return the YAML node tree of a file: nodes keep the line that each value stands on."""
    try:
        content = read(path, MAX_CONFIG_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot read the config ({error.strerror})") from None
    return compose(content, str(path))


def _override(config: Config, override: str) -> Config:
    """Return `config` with the one change that `section.key=value` asks for."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {shown(override)}: expected key=value, for example training.num_epochs=5")
    if len(override) > MAX_OVERRIDE_CHARACTERS:
        raise UserError(f"override {shown(override)}: expected at most {MAX_OVERRIDE_CHARACTERS} characters")
    where = f"override {shown(override)}"
    return _replace(config, key.split("."), compose(text, where), "", where)


def _replace(target: Any, path: list[str], node: yaml.Node, prefix: str, where: str) -> Any:
    field = _field(type(target), path[0], prefix, where)
    name = f"{prefix}{path[0]}"
    if len(path) == 1:
        value = _convert(typing.get_type_hints(type(target))[field.name], node, name, where, field.metadata)
    elif dataclasses.is_dataclass(getattr(target, field.name)):
        value = _replace(getattr(target, field.name), path[1:], node, f"{name}.", where)
    else:
        raise UserError(f"{where}: {name!r} has no keys below it")
    return dataclasses.replace(target, **{field.name: value})


def _build(cls: type, node: yaml.Node, prefix: str, file: str, base: Any = None) -> Any:
    """Return the dataclass `cls` filled from a YAML mapping; what it leaves out is that of `base`, or the default."""
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{_at(file, node)}: expected keys of {prefix.rstrip('.') or 'a config'}, found {_shown(node)}")
    base = cls() if base is None else base
    hints, values = typing.get_type_hints(cls), {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{_at(file, key_node)}: expected the name of a setting, found {_shown(key_node)}")
        field = _field(cls, key_node.value, prefix, _at(file, key_node))
        if field.name in values:
            raise UserError(f"{_at(file, key_node)}: key '{prefix}{field.name}' appears twice")
        key, default = f"{prefix}{field.name}", getattr(base, field.name)
        values[field.name] = _convert(hints[field.name], value_node, key, file, field.metadata, default)
    return dataclasses.replace(base, **values)


def _field(cls: type, key: str, prefix: str, where: str) -> dataclasses.Field:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if key in fields:
        return fields[key]
    close = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    hint = f"did you mean '{prefix}{close[0]}'?" if close else f"known keys: {', '.join(fields)}"
    raise UserError(f"{where}: unknown key '{prefix}{escaped(key)}'; {hint}")


def _convert(
    hint: Any,
    node: yaml.Node,
    key: str,
    file: str,
    metadata: typing.Mapping = types.MappingProxyType({}),
    base: Any = None,
) -> Any:
    """Return the value of `node` as the type `hint`, or say why it is not one; `base` is that of `_build`."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, node, f"{key}.", file, base)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # a value, or null
        if isinstance(node, yaml.ScalarNode) and node.tag == NULL:
            return None
        hint, origin, args = next(arg for arg in args if arg is not types.NoneType), None, ()
    if origin is tuple:
        return _tuple(args, node, key, file, metadata)
    if origin is dict:
        return _dict(args, node, key, file)
    value = _scalar(node, key, file)
    if origin is Literal:
        if value not in args:
            raise UserError(
                f"{_at(file, node)}: {key}: expected one of {', '.join(args)}; found {shown(value)}{_near(value, args)}"
            )
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_NUMBER:
        value = float(value)
    if hint is float and isinstance(value, str) and node.style is None and _EXPONENT.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-3 (without a point) as a text
    if type(value) is not hint:
        expected = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]
        raise UserError(f"{_at(file, node)}: {key}: expected {expected}, found {shown(value)}")
    if hint is str and (bad := next((c for c in value if unicodedata.category(c) in ("Cc", "Cs")), None)):
        raise UserError(f"{_at(file, node)}: {key}: the character {bad!r} cannot be a part of a name or a path")
    low, high = metadata.get("low"), metadata.get("high")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low}" if high is None else f"{low} to {high}"
        raise UserError(f"{_at(file, node)}: {key}: expected {bounds}, found {shown(value)}")
    return value


def _scalar(node: yaml.Node, key: str, file: str) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{_at(file, node)}: {key}: expected a single value, found {_shown(node)}")
    try:
        return yaml.SafeLoader("").construct_object(node)
    except CANNOT_BE_READ:
        kind = escaped(node.tag.removeprefix("tag:yaml.org,2002:"))
        raise UserError(f"{_at(file, node)}: {key}: cannot read {shown(node.value)} as {kind}") from None


def _tuple(args: tuple, node: yaml.Node, key: str, file: str, metadata: typing.Mapping) -> tuple:
    if not isinstance(node, yaml.SequenceNode):
        raise UserError(f"{_at(file, node)}: {key}: expected a list, found {_shown(node)}")
    variable = len(args) == 2 and args[1] is Ellipsis
    if not variable and len(node.value) != len(args):
        raise UserError(f"{_at(file, node)}: {key}: expected a list of {len(args)} values, found {len(node.value)}")
    hints = [args[0]] * len(node.value) if variable else args
    return tuple(
        _convert(hint, item, f"{key}[{i}]", file, metadata)
        for i, (hint, item) in enumerate(zip(hints, node.value, strict=True))
    )


def _dict(args: tuple, node: yaml.Node, key: str, file: str) -> dict:
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{_at(file, node)}: {key}: expected a mapping such as {{encoder: 0.1}}, found {_shown(node)}")
    return {
        _convert(args[0], k, key, file): _convert(args[1], v, f"{key}[{escaped(str(k.value))}]", file)
        for k, v in node.value
    }


def _near(value: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(value), known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _at(file: str, node: yaml.Node) -> str:
    return file if file.startswith("override ") else f"{file}:{node.start_mark.line + 1}"


def _shown(node: yaml.Node) -> str:
    match node:
        case yaml.MappingNode():
            return "a mapping"
        case yaml.SequenceNode():
            return "a list"
        case _:
            return shown(node.value) if node.value else "nothing"
