"""Changes of plain values (JSON, YAML) and of YAML texts. All draws come from `rng`."""

import copy
import json
import re
from random import Random
from typing import Any

import yaml

TEXTS = ("", " ", "\0", "\ud800", "\x1b[2J", "ü€𝄞", "null", "1e3", "../../x", "a" * 5000, "a" * 300_000, "x/y", ".")
NUMBERS = (-1, 0, 1, 2, 7, 255, 256, 65536, 2**31, 2**63, 2**70, 10**400, 0.5, -0.0, 1e300, 1e-300)
NUMBERS += (float("nan"), float("inf"), float("-inf"))
OTHERS = (None, True, False, [], {}, [[]], [None], {"x": 1}, [0, 0, 0], [1, 2], "@DEEP@", "@HUGE@", "@WIDE@")
PARTS = {
    "DEEP": "[" * 20_000 + "]" * 20_000,
    "HUGE": "9" * 5000,
    "WIDE": "[" + "0," * 20_000 + "0]",
}
"""Replacement in a text for the names between @; the writers of JSON and YAML would refuse it."""

LINES = (
    "a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: [*c, *c, *c, *c]\n",
    "seed: &s 1\nname: *s\n",
    "<<: {seed: 1}\n",
    "name: !!python/object/apply:os.system ['true']\n",
    "name: !!python/name:os.system\n",
    "name: !!binary Zm9v\n",
    "name: !local x\n",
    "name: !!timestamp x\n",
    "name: 2001-99-99\n",
    "name: !!null\n",
    "seed: !!int\n",
    "seed: !!int x\n",
    "seed: !!int 0x\n",
    "seed: 0b\n",
    "seed: 190:20:30:15\n",
    f"seed: 0x{'f' * 20_000}\n",
    f"seed: {'9' * 5000}\n",
    "seed: !!bool x\n",
    "seed: !!float\n",
    "seed: .\n",
    "optimizer: {learning_rate: !!float x}\n",
    f"optimizer: {{learning_rate: {'9' * 400}}}\n",
    f"optimizer: {{clip_norm: {'9' * 400}}}\n",
    "optimizer: {clip_norm: .inf}\n",
    "optimizer: {clip_norm: .nan}\n",
    "optimizer: {rate_factors: {a: 1, a: 2}}\n",
    "optimizer: {rate_factors: {? [a] : 1}}\n",
    "data: {value_map: {0: 1, 0: 2}}\n",
    "seed: 1\nseed: 2\n",
    "\tseed: 1\n",
    "seed:\t1\n",
    '? {a: b}\n: "x"\n',
    "? [[[[a]]]]\n",
    'name: "\\UFFFFFFFF"\n',
    'name: "\\ud800"\n',
    'name: "\\0"\n',
    'init: "\\0"\n',
    'init: "../nowhere"\n',
    "%YAML 9.9\n---\nseed: 1\n",
    "%TAG ! tag:x,2000:\n---\nname: !y z\n",
    "---\nseed: 1\n---\nseed: 2\n",
    "[" * 100_000,
    "{a: " * 50_000,
    "- " * 50_000,
    "? " * 50_000,
    "a" * 200_000 + ": 1\n",
    "name: |\n" + " x\n" * 20_000,
    "name: '" + "''" * 50_000 + "'\n",
    "seed: 1 # " + "x" * 100_000 + "\n",
    "\ufeffseed: 1\n",
    "seed: 1\r\nname: x\r",
    "\x85seed: 1\u2028",
    "x: [1, 2\n",
    "!!set {a, b}\n",
    "- 1\n",
    "5\n",
    "",
)


def change_tree(rng: Random, value: Any) -> Any:
    """Return a copy of a plain value with one to three of its parts replaced, removed, doubled or renamed."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _change_part(rng, copy.deepcopy(value))
    return value


def _change_part(rng: Random, value: Any) -> Any:
    holders = list(_holders(value))
    if not holders or rng.random() < 0.03:
        return strange_value(rng)
    holder = rng.choice(holders)
    key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    match rng.randrange(6):
        case 0 | 1 | 2:
            holder[key] = strange_value(rng)
        case 3:
            del holder[key]
        case 4 if isinstance(holder, dict):
            holder[rng.choice((*TEXTS, str(key)[:-1], f"{key}x"))] = holder.pop(key)
        case 4:
            holder += [copy.deepcopy(holder[key])] * rng.choice((1, 2, 300))
        case _:
            holder[key] = rng.choice(([holder[key]], {"x": holder[key]}, str(holder[key])))
    return value


def _holders(value: Any):
    """Yield the dictionaries and lists in a value that are not empty, itself included."""
    if isinstance(value, dict | list) and value:
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _holders(part)


def strange_value(rng: Random) -> Any:
    """Return a value that seldom belongs where it is put."""
    return copy.deepcopy(rng.choice(rng.choice((TEXTS, NUMBERS, OTHERS))))


def to_json(value: Any) -> bytes:
    """Return a value as JSON, with the parts that are too strange for its writer filled in."""
    return _fill_in(json.dumps(value)).encode()


def to_yaml(value: Any) -> bytes:
    """Return a value as YAML, with the parts that are too strange for its writer filled in."""
    return _fill_in(yaml.safe_dump(value, sort_keys=False)).encode()


def _fill_in(text: str) -> str:
    return re.sub(r"""["']@(\w+)@["']""", lambda match: PARTS[match[1]], text)


def change_yaml(rng: Random, content: bytes) -> bytes:
    """Return a YAML text that is changed in its structure, or has hostile lines in it."""
    if rng.random() < 0.5:
        return to_yaml(change_tree(rng, yaml.safe_load(content) or {}))
    lines = content.decode().splitlines(keepends=True)
    place = rng.choice((0, rng.randrange(len(lines) + 1), len(lines)))
    kept = lines if rng.random() < 0.5 else []
    return "".join([*kept[:place], rng.choice(LINES), *kept[place:]]).encode("utf-8", "surrogatepass")


def change_json(rng: Random, content: bytes) -> bytes:
    """Return a JSON text that is changed in its structure."""
    return to_json(change_tree(rng, json.loads(content)))
