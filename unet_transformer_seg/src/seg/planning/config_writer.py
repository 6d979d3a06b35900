"""Writes proposed settings as a config file, each with its reason as a comment."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from seg.config import Config
from seg.config.reader import override_config
from seg.planning.proposal import Proposal

WIDTH = 110  # of a comment, in characters
SECTIONS = ("data", "data.augment", "model", "loss", "optimizer", "training", "inference", "instances")
"""Sections in the order in which they are written; others follow."""


def apply(config: Config, proposals: Iterable[Proposal]) -> Config:
    """Return the config with the proposed values, checked together."""
    return override_config(config, [f"{proposal.key}={_yaml(proposal.value)}" for proposal in proposals])


def write_config(proposals: Sequence[Proposal], header: str) -> str:
    """Return the text of a config: the header as comments, then each setting below its reason."""
    by_section: dict[str, list[Proposal]] = {name: [] for name in ("", *SECTIONS)}
    for proposal in proposals:
        by_section.setdefault(proposal.key.rpartition(".")[0], []).append(proposal)
    lines, opened = _comment(header, ""), set()
    for section in _nested(by_section):
        parts = section.split(".") if section else []
        for depth in range(len(parts)):
            if (name := ".".join(parts[: depth + 1])) not in opened:
                opened.add(name)
                lines.append(f"{'  ' * depth}{parts[depth]}:")
        for proposal in by_section[section]:
            indent = "  " * len(parts)
            lines += _comment(proposal.reason, indent) if proposal.reason else []
            lines.append(f"{indent}{proposal.key.rpartition('.')[2]}: {_yaml(proposal.value)}")
    return "\n".join(lines) + "\n"


def _nested(by_section: dict[str, list[Proposal]]) -> list[str]:
    """Return the sections that hold something, each followed by those inside it."""
    held = [name for name, proposals in by_section.items() if proposals]
    tops = dict.fromkeys(name.partition(".")[0] for name in held)
    return [name for top in tops for name in sorted((n for n in held if n.partition(".")[0] == top), key=len)]


def _comment(text: str, indent: str) -> list[str]:
    lines = text.splitlines()
    return [
        f"{indent}# {part}".rstrip()
        for line in lines
        for part in textwrap.wrap(line, WIDTH - len(indent), break_long_words=False, drop_whitespace=False) or [""]
    ]


def _yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True).split("\n...")[0].strip()
    )
