"""YAML of strangers: parsed within bounds of depth and number, so that a small file costs neither time nor memory."""

from typing import NoReturn

import yaml

from asr.errors import UserError
from asr.untrusted import escaped

MAX_CONFIG_BYTES = 1 << 16
"""All settings written out take 5 kilobytes."""

MAX_DEPTH = 16
"""Lists and mappings within each other; PyYAML takes a time that grows with the square."""

MAX_NODES = 4096
"""Values, lists and mappings; PyYAML reads some ten thousand in a second."""

CANNOT_BE_READ = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError)
"""What PyYAML raises for a value that is not what its tag says."""

_START = yaml.Mark("", 0, 0, 0, None, 0)


def compose(content: bytes | str, where: str) -> yaml.Node:
    """Return the tree of nodes of a YAML text, each with its line; an empty text is an empty mapping.

    Args:
        content: of the file.
        where: for messages.

    Raises:
        UserError: naming the place and the line: no YAML, aliases, or beyond the bounds above.
    """
    try:
        check_bounds(content, where, aliases=False)
        node = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        fail(error, where)
    return node if node is not None else yaml.MappingNode("tag:yaml.org,2002:map", [], _START, _START)


def check_bounds(content: bytes | str, where: str, *, aliases: bool) -> None:
    """Refuse too many values, too deep ones, and aliases, before anything is built of them.

    Args:
        content: of the file.
        where: for messages.
        aliases: admit `*name`; but keys that merge other mappings (`<<`) make a huge one of a small text.

    Raises:
        UserError: naming the place and the line.
        yaml.YAMLError: no YAML.
    """
    depth, num_nodes = 0, 0
    try:
        for event in yaml.parse(content, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            num_nodes += isinstance(event, yaml.NodeEvent)
            found = ""
            if depth > MAX_DEPTH:
                found = f"lists and mappings within each other, more than {MAX_DEPTH} deep,"
            elif num_nodes > MAX_NODES:
                found = f"more than {MAX_NODES} values"
            elif isinstance(event, yaml.AliasEvent) and not aliases:
                found = "YAML aliases (*name)"
            elif isinstance(event, yaml.ScalarEvent) and event.value == "<<" and aliases:
                found = "keys that merge others (<<)"
            if found:
                raise UserError(f"{where}:{event.start_mark.line + 1}: {found} are not admitted in a config")
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{where}: not a YAML text ({type(error).__name__})") from None


def fail(error: yaml.YAMLError, where: str) -> NoReturn:
    """Raise what PyYAML found, with its line, as a message.

    Raises:
        UserError: always.
    """
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    line = f":{mark.line + 1}" if mark else ""
    raise UserError(f"{where}{line}: not valid YAML ({escaped(problem or str(error))})") from None
