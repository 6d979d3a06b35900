"""Reads a YAML config into `seg.config.Config`, and names the file, line and key of each mistake."""

import dataclasses
import difflib
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal

import yaml

from seg.classes import is_printable
from seg.config import Config, DataConfig, InferenceConfig
from seg.config.rules import check_config
from seg.config.safe_yaml import at, compose_file, compose_text, shown
from seg.errors import UserError
from seg.files import Reader, read_bounded, replace_text

MAX_TEXT = 4096
MAX_INT = 2**31 - 1
"""Counts are 32 bits wide on a device; no setting needs more."""

ORIGIN = "origin.json"
"""File of a converted model that says what it was made of."""

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = (), read: Reader = read_bounded) -> Config:
    """Return the config in `path`, changed by `overrides`.

    Args:
        path: a YAML file.
        overrides: `key=value` or `section.key=value`, the value in YAML.
        read: as `seg.files.read_bounded`.

    Raises:
        UserError: an unreadable file, an unknown key, a wrong type, a value out of range, or settings that
            contradict each other.
    """
    return _checked(_build(Config, compose_file(Path(path), read), "", str(path), _defaults(path)), overrides, path)


def _defaults(path: str | Path) -> Config:
    """Return what a config leaves out. A converted model from before `inference.scale` takes images as they are."""
    converted = Path(path).with_name(ORIGIN).is_file()
    return Config(inference=InferenceConfig(scale="native")) if converted else Config()


def load_start_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Return the config of a new run, which may begin with the weights of another model.

    As `load_config`; but if `init` names a model, then what neither the file nor an override states of its
    architecture and of the normalisation of images is taken from that model's own config.

    Args:
        path: a YAML file.
        overrides: `key=value` or `section.key=value`, the value in YAML.

    Raises:
        UserError: as `load_config`, and a folder that holds no config of a model.
    """
    node = compose_file(Path(path))
    stated = _build(Config, node, "", str(path))
    for override in overrides:
        stated = _override(stated, override)
    base = _settings_of_model(stated.init, path) if stated.init else Config()
    return _checked(_build(Config, node, "", str(path), base), overrides, path)


def _checked(config: Config, overrides: list[str] | tuple[str, ...], path: str | Path) -> Config:
    try:
        return override_config(config, overrides)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("override ") else f"{path}: {error}") from None


def _settings_of_model(folder: str, path: str | Path) -> Config:
    """Return the defaults with the architecture and normalisation of the model in `folder`.

    The number of classes is left to the data.
    """
    file = Path(folder) / "config.yaml"
    try:
        found = load_config(file)
    except UserError as error:
        expected = "a run directory, or a folder that seg.export or seg.convert wrote"
        raise UserError(f"{path}: init: expected {expected}, found {folder:.500} ({error})") from None
    data = DataConfig(mean=found.data.mean, std=found.data.std)
    return Config(model=dataclasses.replace(found.model, num_classes=0), data=data)


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
    return _checked(_build(Config, compose_text(text, where), "", where), (), where)


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


def _override(config: Config, override: str) -> Config:
    """Return `config` with the one change that `section.key=value` asks for."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r:.200}: expected key=value, for example training.num_epochs=5")
    where = f"override {override!r:.200}"
    return _replace(config, key.split("."), compose_text(text, where), "", where)


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
        raise UserError(f"{at(file, node)}: expected keys of {prefix.rstrip('.') or 'a config'}, found {shown(node)}")
    base = cls() if base is None else base
    hints, values = typing.get_type_hints(cls), {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{at(file, key_node)}: expected the name of a key, found {shown(key_node)}")
        field = _field(cls, key_node.value, prefix, at(file, key_node))
        if field.name in values:
            raise UserError(f"{at(file, key_node)}: key '{prefix}{field.name}' appears twice")
        key, default = f"{prefix}{field.name}", getattr(base, field.name)
        values[field.name] = _convert(hints[field.name], value_node, key, file, field.metadata, default)
    return dataclasses.replace(base, **values)


def _field(cls: type, key: str, prefix: str, where: str) -> dataclasses.Field:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if key in fields:
        return fields[key]
    section, dot, rest = key.partition(".")
    if dot and section in fields and not where.startswith("override "):
        lines = f"{section}: {{{rest}: …}}"
        raise UserError(
            f"{where}: unknown key '{prefix}{key:.80}'; in a file, write it below its section: {lines:.120}"
        )
    close = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    hint = f"did you mean '{prefix}{close[0]}'?" if close else f"known keys: {', '.join(fields)}"
    raise UserError(f"{where}: unknown key '{prefix}{key:.80}'; {hint}")


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
    if origin is tuple:
        return _tuple(args, node, key, file, metadata)
    if origin is dict:
        return _dict(args, node, key, file)
    value = _scalar(node, key, file)
    is_union = origin in (typing.Union, types.UnionType)  # some words, or a number
    if is_union and (not isinstance(value, str) or _EXPONENT.fullmatch(value)):
        return _convert(float, node, key, file, metadata)
    if is_union or origin is Literal:
        words = typing.get_args(args[0]) if is_union else args
        if value not in words:
            expected = f"{', '.join(words)}{' or a number' if is_union else ''}"
            found = f"{_quoted(value)}{_near(value, words)}"
            raise UserError(f"{at(file, node)}: {key}: expected one of {expected}; found {found}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = _as_float(value)
    if hint is float and isinstance(value, str) and node.style is None and _EXPONENT.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-3 (without a point) as a text
    if type(value) is not hint:
        expected = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]
        raise UserError(f"{at(file, node)}: {key}: expected {expected}, found {_quoted(value)}")
    if expected := _violated(value, metadata):
        raise UserError(f"{at(file, node)}: {key}: expected {expected}, found {_quoted(value)}")
    return value


def _violated(value: Any, metadata: typing.Mapping) -> str:
    """Return what a value of the right type should have been, or an empty text."""
    if isinstance(value, str):
        return "" if len(value) <= MAX_TEXT and is_printable(value) else f"at most {MAX_TEXT} printable characters"
    low, high = metadata.get("low"), metadata.get("high")
    if (low is not None and not value >= low) or (high is not None and not value <= high):  # false of NaN
        return f"at least {low}" if high is None else f"{low} to {high}"
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    return f"at most {MAX_INT}" if isinstance(value, int) and abs(value) > MAX_INT else ""


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:  # beyond the largest float
        return math.inf


def _quoted(value: Any) -> str:
    """Return a value for a message, shortened if need be."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python prints no number of so many digits
        return "a number of thousands of digits"


def _scalar(node: yaml.Node, key: str, file: str) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{at(file, node)}: {key}: expected a single value, found {shown(node)}")
    try:
        value = yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, ValueError) as error:
        reason = f"{getattr(error, 'problem', None) or error!s:.200}"  # what is wrong for its tag, such as !!int x
        raise UserError(f"{at(file, node)}: {key}: cannot read {node.value!r:.80} ({reason})") from None
    return value


def _tuple(args: tuple, node: yaml.Node, key: str, file: str, metadata: typing.Mapping) -> tuple:
    if not isinstance(node, yaml.SequenceNode):
        raise UserError(f"{at(file, node)}: {key}: expected a list, found {shown(node)}")
    variable = len(args) == 2 and args[1] is Ellipsis
    if not variable and len(node.value) != len(args):
        raise UserError(f"{at(file, node)}: {key}: expected a list of {len(args)} values, found {len(node.value)}")
    hints = [args[0]] * len(node.value) if variable else args
    return tuple(
        _convert(hint, item, f"{key}[{i}]", file, metadata)
        for i, (hint, item) in enumerate(zip(hints, node.value, strict=True))
    )


def _dict(args: tuple, node: yaml.Node, key: str, file: str) -> dict:
    if not isinstance(node, yaml.MappingNode):
        example = "{0: 0, 255: 1}" if args[0] is int else "{encoder: 0.1}"
        raise UserError(f"{at(file, node)}: {key}: expected a mapping such as {example}, found {shown(node)}")
    found = {}
    for key_node, value_node in node.value:
        name = _convert(args[0], key_node, key, file)
        if name in found:
            raise UserError(f"{at(file, key_node)}: {key}[{name!s:.80}] appears twice")
        found[name] = _convert(args[1], value_node, f"{key}[{name!s:.80}]", file)
    return found


def _near(value: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(value[:80] if isinstance(value, str) else "", known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
