"""Configs in YAML and command-line overrides: wrong values, hostile YAML, and changed bytes."""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from asr.config import Config
from asr.config.reader import load_config, load_start_config, override_config, save_config
from fuzzing.mutations import change_bytes, change_text, write_changed
from fuzzing.trials import Kind

VALUES = (
    "1",
    "0",
    "-1",
    "2.5",
    "1e-3",
    "1.e400",
    ".nan",
    "-.inf",
    ".inf",
    "9" * 400,
    "9" * 5000,
    "0x" + "f" * 300,
    "0b" + "1" * 300,
    "1:99:99",
    "9:" * 300 + "9",
    "1_000",
    "true",
    "yes",
    "~",
    '""',
    "''",
    "text",
    '"\\ud800"',
    '"\\0"',
    '"\\e[2J"',
    '"\\u2028"',
    "ключ",
    "[]",
    "[1, 2]",
    "[[[]]]",
    "{}",
    "{a: 1}",
    "{{a: 1}: 2}",
    "[1, 1]: 2",
    "2001-99-99",
    "2001-01-01",
    "2001-01-01 25:61:61",
    "!!int abc",
    "!!int ''",
    "!!float abc",
    "!!bool maybe",
    "!!timestamp abc",
    "!!binary '###'",
    "!!binary aGVsbG8=",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!pairs [a]",
    "!!null abc",
    "!!str 1",
    "!!map x",
    "!!python/object:os.system 1",
    "!!python/object/apply:os.system [id]",
    "!!python/name:os.system ''",
    "!unknown x",
    "&anchor 1",
    "*anchor",
    "&a [*a]",
    "<<",
    "|\n   text",
    ">-\n  text",
    "? a",
    "'unclosed",
    "[unclosed",
    "@reserved",
    "%directive",
    "a: b: c",
    "\t1",
    "x" * 20_000,
    "[" * 500,
    "{a: " * 300,
    "- " * 500,
)
"""Values that YAML reads in surprising ways, or that are dangerous to read."""


def _billion_laughs(opening: str, closing: str, merged: str = "") -> str:
    """Return a text in which each level holds the one before ten times."""
    levels = [f"a0: &a0 {opening}{merged and 'k: '}x{closing}"]
    for level in range(1, 12):
        inner = ", ".join([f"*a{level - 1}"] * 10)
        levels.append(f"a{level}: &a{level} {f'{{<<: [{inner}]}}' if merged else f'{opening}{inner}{closing}'}")
    return "\n".join(levels)


BOMBS = (
    _billion_laughs("[", "]"),
    _billion_laughs("{", "}", merged="<<"),
    "[" * 20_000,
    "{" * 20_000,
    "? " * 5000,
    "- " * 5000,
    "\n".join(" " * depth + "a:" for depth in range(300)),
    "a: [" + "{}," * 10_000 + "]",
    "\n".join(f"k{i}: 1" for i in range(5000)),
    "'" + "x" * 60_000,
    "#" * 60_000,
    "\n" * 60_000,
    "---\n" * 5000,
    "? [" + "a, " * 3000 + "]\n: 1",
    "%YAML 9.9\n---\na: 1",
    "%TAG ! tag:x,2000:\n---\n!a b",
    "seed: 1\n" * 3000,
    '"' + "\\x41" * 15_000 + '": 1',
)
"""Whole files."""


def all_keys(config: Any = None, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings, sections among them."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        yield f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from all_keys(value, f"{prefix}{field.name}.")


KEYS = tuple(all_keys(Config()))


def _samples(folder: Path) -> list[bytes]:
    """Return the text of a config with all settings, and a short one as a person writes it."""
    save_config(Config(), folder / "config.yaml")
    short = b"# toy\nname: toy\nmodel:\n  encoder: {kind: conv, width: 64}\ntraining:\n  num_epochs: 3\n"
    return [(folder / "config.yaml").read_bytes(), short]


def _nested(key: str, value: str) -> str:
    """Return YAML that sets a dotted key."""
    parts = key.split(".")
    return "\n".join(f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)) + f" {value}\n"


def _write_config(rng: random.Random, samples: list[bytes], folder: Path) -> list[str]:
    """Write a config: some keys set to odd values, a hostile file, or a changed sample."""
    match rng.randrange(4):
        case 0 | 1:
            settings = {rng.choice(KEYS).split(".")[0]: _setting(rng) for _ in range(rng.randint(1, 3))}
            content = "".join(settings.values()).encode()
            content += rng.choice((b"", b"", samples[1]))
        case 2:
            content = change_text(rng, rng.choice(samples), (*VALUES, *KEYS), samples)
        case _:
            bomb = rng.choice(BOMBS).encode()
            content = rng.choice((bomb, b"seed: 1\n" + bomb, change_bytes(rng, bomb)))
    write_changed(rng, folder / "train.yaml", content)
    return [str(folder / "train.yaml")]


def _setting(rng: random.Random) -> str:
    """Return YAML with one setting, its key or its value odd."""
    key = rng.choice(KEYS)
    if rng.random() < 0.1:
        key = rng.choice(
            (key[:-1], key.upper(), f"{key}.more", f"no.{key}", "<<", "? [a]", "*a", "\t" + key, "é" + key)
        )
    return _nested(key, rng.choice(VALUES))


def _read_config(folder: Path) -> None:
    path = folder / "train.yaml"
    config = load_config(path)
    load_start_config(path)
    path.unlink()
    save_config(config, path)
    assert load_config(path) == config or _has_nan(config)


def _has_nan(config: Config) -> bool:
    return "nan" in repr(config)


def _write_override(rng: random.Random, samples: list[bytes], folder: Path) -> list[str]:
    """Write the overrides of a command line, one a file: a line may hold any character."""
    overrides = []
    for number in range(rng.randint(1, 2)):
        key = rng.choice(KEYS) if rng.random() < 0.8 else rng.choice(("", ".", "=", "a.b", "model..name", "é"))
        value = rng.choice(VALUES) if rng.random() < 0.8 else rng.choice(BOMBS)
        override = f"{key}={value}"
        if rng.random() < 0.2:
            override = change_bytes(rng, override.encode()).decode(errors="replace")
        overrides.append(override)
        (folder / f"{number}").write_bytes(override.encode(errors="surrogatepass"))
    return [*(o.partition("=")[0] for o in overrides if o.partition("=")[0]), *map(repr, overrides), "override"]


def _read_override(folder: Path) -> None:
    overrides = [path.read_bytes().decode(errors="surrogatepass") for path in sorted(folder.iterdir())]
    config = override_config(Config(), overrides)
    yaml.safe_load(yaml.safe_dump(repr(config)))


KINDS = (
    Kind("config", 12, _samples, _write_config, _read_config),
    Kind("override", 8, _samples, _write_override, _read_override),
)
