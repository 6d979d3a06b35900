"""Turns YAML nodes into the dataclasses of `seg.config`, and names the file, line and key of each mistake."""

import dataclasses
import difflib
import math
import re
import types
import typing
from typing import Any, Literal

import yaml

from seg.config.retired import is_retired
from seg.config.safe_yaml import CANNOT_BE_READ, at, compose_text, describe
from seg.errors import UserError
from seg.untrusted import escaped, is_printable, shown

MAX_TEXT = 4096  # longest text and longest override, in characters
MAX_INT = 2**31 - 1  # largest integer: counts are 32 bits wide on a device

_NULL = "tag:yaml.org,2002:null"
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_NO_METADATA: typing.Mapping = types.MappingProxyType({})


def parse_override(config: Any, override: str) -> Any:
    """Return `config` with the one change of `section.key=value`."""
    where = f"override {shown(override)}"
    if not isinstance(override, str):
        raise UserError(f"{where}: expected a text key=value, for example training.num_epochs=5")
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{where}: expected key=value, for example training.num_epochs=5")
    if len(override) > MAX_TEXT:
        raise UserError(f"{where}: expected at most {MAX_TEXT} characters")
    if is_retired(key, text, where):
        return config
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


def parse(cls: type, node: yaml.Node, where: str, base: Any = None, prefix: str = "") -> Any:
    """Return the dataclass `cls` filled from a YAML mapping; a mistake names file, line and key.

    Args:
        cls: a section, or the whole config.
        node: the mapping.
        where: file, for messages.
        base: holds the values that the mapping leaves out; None: the defaults.
        prefix: dotted name of the section, with a dot at its end.
    """
    if not isinstance(node, yaml.MappingNode):
        section = prefix.rstrip(".") or "a config"
        raise UserError(f"{at(where, node)}: expected keys of {section}, found {describe(node)}")
    base = cls() if base is None else base
    hints, values = typing.get_type_hints(cls), {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{at(where, key_node)}: expected the name of a setting, found {describe(key_node)}")
        key, place = f"{prefix}{key_node.value}", at(where, key_node)
        text = value_node.value if isinstance(value_node, yaml.ScalarNode) else describe(value_node)
        if is_retired(key, text, place):
            continue
        field = _field(cls, key_node.value, prefix, place)
        if field.name in values:
            raise UserError(f"{place}: key '{key}' appears twice")
        default = getattr(base, field.name)
        values[field.name] = _convert(hints[field.name], value_node, key, where, field.metadata, default)
    return dataclasses.replace(base, **values)


def _field(cls: type, key: str, prefix: str, where: str) -> dataclasses.Field:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if key in fields:
        return fields[key]
    section, dot, rest = key.partition(".")
    close = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    if dot and section in fields and not where.startswith("override "):
        hint = f"in a file, write it below its section: {section}: {{{escaped(rest)}: …}}"
    else:
        hint = f"did you mean '{prefix}{close[0]}'?" if close else f"known keys: {', '.join(fields)}"
    raise UserError(f"{where}: unknown key '{prefix}{escaped(key)}'; {hint}")


def _convert(
    hint: Any, node: yaml.Node, key: str, where: str, metadata: typing.Mapping = _NO_METADATA, base: Any = None
) -> Any:
    """Return the value of `node` as the type `hint`; `base` is that of `parse`."""
    if dataclasses.is_dataclass(hint):
        return parse(hint, node, where, base, f"{key}.")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return _tuple(args, node, key, where, metadata)
    if origin is dict:
        return _dict(args, node, key, where)
    if types.NoneType in args and isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
        return None
    value = _scalar(node, key, where)
    words = next((typing.get_args(arg) for arg in (hint, *args) if typing.get_origin(arg) is Literal), ())
    if value in words and isinstance(value, str):
        return value
    is_union = origin in (typing.Union, types.UnionType)
    if words and (not is_union or (isinstance(value, str) and not _EXPONENT.fullmatch(value))):
        expected = f"one of {', '.join(words)}{' or a number' if is_union else ''}"
        close = difflib.get_close_matches(value[:80] if isinstance(value, str) else "", words, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise UserError(f"{at(where, node)}: {key}: expected {expected}; found {shown(value)}{hint}")
    return _checked(float if is_union else hint, value, node, f"{at(where, node)}: {key}", metadata)


def _checked(kind: type, value: Any, node: yaml.Node, where: str, metadata: typing.Mapping) -> Any:
    """Return a value as an int, float, bool or str within its range."""
    # YAML 1.1 reads 1e-3 (without a point) as a text.
    is_number = type(value) is int or (isinstance(value, str) and node.style is None and _EXPONENT.fullmatch(value))
    if kind is float and is_number:
        try:
            value = float(value)
        except OverflowError:  # beyond the largest float
            value = math.inf
    if type(value) is not kind:
        raise UserError(f"{where}: expected {_KINDS[kind]}, found {shown(value)}")
    low, high = metadata.get("low"), metadata.get("high")
    expected = ""
    if isinstance(value, str) and not (len(value) <= MAX_TEXT and is_printable(value)):
        expected = f"at most {MAX_TEXT} printable characters"
    elif (low is not None and not value >= low) or (high is not None and not value <= high):  # false for NaN
        expected = f"at least {low}" if high is None else f"{low} to {high}"
    elif isinstance(value, float) and not math.isfinite(value):
        expected = "a finite number"
    elif isinstance(value, int) and abs(value) > MAX_INT:
        expected = f"at most {MAX_INT}"
    if expected:
        raise UserError(f"{where}: expected {expected}, found {shown(value)}")
    return value


def _scalar(node: yaml.Node, key: str, where: str) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{at(where, node)}: {key}: expected a single value, found {describe(node)}")
    try:
        return yaml.SafeLoader("").construct_object(node)
    except CANNOT_BE_READ:
        kind = escaped(node.tag.removeprefix("tag:yaml.org,2002:"))
        raise UserError(f"{at(where, node)}: {key}: cannot read {shown(node.value)} as {kind}") from None


def _tuple(args: tuple, node: yaml.Node, key: str, where: str, metadata: typing.Mapping) -> tuple:
    if not isinstance(node, yaml.SequenceNode):
        raise UserError(f"{at(where, node)}: {key}: expected a list, found {describe(node)}")
    variable = len(args) == 2 and args[1] is Ellipsis
    if not variable and len(node.value) != len(args):
        raise UserError(f"{at(where, node)}: {key}: expected a list of {len(args)} values, found {len(node.value)}")
    hints = [args[0]] * len(node.value) if variable else args
    items = zip(hints, node.value, strict=True)
    return tuple(_convert(hint, item, f"{key}[{i}]", where, metadata) for i, (hint, item) in enumerate(items))


def _dict(args: tuple, node: yaml.Node, key: str, where: str) -> dict:
    if not isinstance(node, yaml.MappingNode):
        example = "{0: 0, 255: 1}" if args[0] is int else "{encoder: 0.1}"
        raise UserError(f"{at(where, node)}: {key}: expected a mapping such as {example}, found {describe(node)}")
    values = {}
    for key_node, value_node in node.value:
        name = _convert(args[0], key_node, key, where)
        entry = f"{key}[{escaped(str(name))}]"
        if name in values:
            raise UserError(f"{at(where, key_node)}: {entry} appears twice")
        values[name] = _convert(args[1], value_node, entry, where)
    return values


def to_plain(value: Any) -> Any:
    """Return `value` with dataclasses as dictionaries and tuples as lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_plain(v) for v in value]
    return value
