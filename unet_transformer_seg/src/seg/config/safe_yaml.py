"""Parses YAML from strangers into nodes, in bounded time and memory; nothing is constructed, and no tag has a meaning.

A text of some kilobytes can ask for all memory, by aliases that stand for lists of aliases, or for minutes, by
brackets within brackets. A config needs neither.
"""

from pathlib import Path
from typing import Any

import yaml

from seg.errors import UserError
from seg.files import Reader, read_bounded

MAX_CONFIG_BYTES = 1 << 17
MAX_DEPTH = 16

_START = yaml.Mark("", 0, 0, 0, None, 0)


def compose_file(path: Path, read: Reader = read_bounded) -> yaml.Node:
    """Return the YAML node tree of a file: nodes keep the line that each value stands on.

    Args:
        path: of the file.
        read: as `seg.files.read_bounded`.

    Raises:
        UserError: the file cannot be read, is too long, or is refused by `compose_text`.
    """
    try:
        content = read(path, MAX_CONFIG_BYTES)
    except OSError as error:
        raise UserError(f"{path!s:.500}: cannot read the config ({error.strerror or error})") from None
    return compose_text(content, str(path))


def compose_text(content: bytes | str, where: str) -> yaml.Node:
    """Return the YAML node tree of a text; of an empty one, a mapping without keys.

    Args:
        content: from anybody.
        where: it stands, for the message.

    Raises:
        UserError: not YAML, aliases, or values nested too deeply.
    """
    try:
        node = yaml.compose(content, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', None) or error!s:.200})") from None
    except (ValueError, OverflowError) as error:  # bytes that are no UTF-8, or the escape of no character
        raise UserError(f"{where}: not a YAML text ({type(error).__name__}: {error!s:.200})") from None
    return node if node is not None else yaml.MappingNode("tag:yaml.org,2002:map", [], _START, _START)


class _Loader(yaml.SafeLoader):
    """Refuses aliases, which multiply what they stand for, and nesting that no config needs."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Return the node that begins here."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="aliases (*name) are not admitted in a config", problem_mark=mark)
        if self.depth == MAX_DEPTH:
            problem = f"values are nested more than {MAX_DEPTH} deep, no setting is"
            raise yaml.composer.ComposerError(problem=problem, problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def at(file: str, node: yaml.Node) -> str:
    """Return where a node stands, as file:line; of an override, the override."""
    return file if file.startswith("override ") else f"{file}:{node.start_mark.line + 1}"


def shown(node: yaml.Node) -> str:
    """Return what a node is, for a message."""
    match node:
        case yaml.MappingNode():
            return "a mapping"
        case yaml.SequenceNode():
            return "a list"
        case _:
            return f"{node.value!r:.80}" if node.value else "nothing"
