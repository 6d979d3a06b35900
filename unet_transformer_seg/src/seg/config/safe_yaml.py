"""Parses untrusted YAML into nodes, within bounds: a small file must cost neither much time nor much memory.

Nothing is constructed and no tag has a meaning. Aliases are refused: a few lines of them describe gigabytes.
"""

from pathlib import Path
from typing import NoReturn

import yaml

from seg.errors import UserError
from seg.files import Reader, read_bounded
from seg.untrusted import escaped, shown

MAX_CONFIG_BYTES = 1 << 17  # largest config file read, in bytes; all settings written out take 5 kB
MAX_DEPTH = 16  # deepest nesting of lists and mappings; PyYAML's time grows with its square
MAX_NODES = 4096  # largest number of values, lists and mappings; PyYAML reads about ten thousand a second

CANNOT_BE_READ = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError)
"""Errors that PyYAML raises for a value that does not fit its tag."""

_START = yaml.Mark("", 0, 0, 0, None, 0)


def compose_file(path: Path, read: Reader = read_bounded) -> yaml.Node:
    """Return the node tree of a YAML file, within the bounds above; each node knows its line."""
    try:
        content = read(path, MAX_CONFIG_BYTES)
    except OSError as error:
        raise UserError(f"{path!s:.500}: cannot read the config ({error.strerror or error})") from None
    return compose_text(content, str(path))


def compose_text(content: bytes | str, where: str) -> yaml.Node:
    """Return the node tree of a YAML text, within the bounds above; an empty text is an empty mapping."""
    try:
        check_bounds(content, where)
        node = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        fail(error, where)
    return node if node is not None else yaml.MappingNode("tag:yaml.org,2002:map", [], _START, _START)


def check_bounds(content: bytes | str, where: str, *, aliases: bool = False) -> None:
    """Refuse too many values, too deep nesting, and aliases, before anything is built."""
    depth, num_nodes = 0, 0
    try:
        for event in yaml.parse(content, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            num_nodes += isinstance(event, yaml.NodeEvent)
            refused = ""
            if depth > MAX_DEPTH:
                refused = f"lists and mappings nested more than {MAX_DEPTH} deep"
            elif num_nodes > MAX_NODES:
                refused = f"more than {MAX_NODES} values"
            elif isinstance(event, yaml.AliasEvent) and not aliases:
                refused = "YAML aliases (*name)"
            elif isinstance(event, yaml.ScalarEvent) and event.value == "<<" and aliases:
                refused = "merge keys (<<)"
            if refused:
                raise UserError(f"{where}:{event.start_mark.line + 1}: {refused} are not allowed in a config")
    except (ValueError, OverflowError, RecursionError) as error:  # not UTF-8, or an escape beyond Unicode
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: not a YAML text ({type(error).__name__})") from None


def fail(error: yaml.YAMLError, where: str) -> NoReturn:
    """Raise a PyYAML error as a message with its line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    line = f":{mark.line + 1}" if mark else ""
    raise UserError(f"{where}{line}: not valid YAML ({escaped(problem or str(error))})") from None


def at(where: str, node: yaml.Node) -> str:
    """Return the place of a node as file:line; for an override, the override."""
    return where if where.startswith("override ") else f"{where}:{node.start_mark.line + 1}"


def describe(node: yaml.Node) -> str:
    """Return the value of a node, for a message."""
    match node:
        case yaml.MappingNode():
            return "a mapping"
        case yaml.SequenceNode():
            return "a list"
        case _:
            return shown(node.value) if node.value else "nothing"
