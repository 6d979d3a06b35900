"""What documents, configs and scripts speak of exists: names, settings, files, commands, messages, sizes."""

import ast
import dataclasses
import functools
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from asr.config import Config
from asr.config.reader import load_config
from asr.models import build_model, count_parameters

PROJECT = Path(__file__).parents[1]
SOURCES = sorted((PROJECT / "src" / "asr").rglob("*.py"))
CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))
DOCUMENTS = sorted(path for path in [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")] if path.exists())
SCRIPTS = sorted([*(PROJECT / "scripts").rglob("*.py"), *(PROJECT / "scripts").rglob("*.sh")])
TEXTS = DOCUMENTS + SCRIPTS + CONFIGS

SECTIONS = "mesh|features|model|data|tokenizer|loss|optimizer|training|inference"


def relative(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def every_file(paths=TEXTS):
    return pytest.mark.parametrize("path", paths, ids=relative)


def parameters(config: Config) -> int:
    """Return the parameters of the model that a config describes, without making any."""
    width = config.features.input_dim
    model = build_model(dataclasses.replace(config.model, input_dim=width))
    given = np.zeros((1, 8, width), np.float32), np.array([8]), np.zeros((1, 3), np.int32), np.array([3])
    shapes = jax.eval_shape(functools.partial(model.init, train=False), {"params": jax.random.key(0)}, *given)
    return count_parameters(shapes["params"])


# ── configs ──


@every_file(CONFIGS)
def test_a_config_can_be_built_and_its_header_names_its_command(path):
    config = load_config(path, ["data.root=somewhere", "model.vocab_size=204"])
    assert parameters(config) > 10_000
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    named = re.search(r"^# +(python -m asr\.train --config configs/(\w+)\.yaml|sh (scripts/\S+\.sh))", header, re.M)
    assert named, "the header gives the command that trains with it"
    if named[3]:
        assert f"configs/{path.name}" in (PROJECT / named[3]).read_text()
    else:
        assert named[2] == path.stem


def test_the_large_config_has_the_published_size():
    config = load_config(PROJECT / "configs/paraformer_large.yaml", ["data.root=somewhere", "model.vocab_size=8404"])
    assert round(parameters(config) / 1e6) == 220


def test_the_full_an4_config_has_the_size_that_its_header_says():
    path = PROJECT / "configs/an4_full.yaml"
    millions = int(re.search(r"(\d+) million parameters", path.read_text())[1])
    assert round(parameters(load_config(path, ["data.root=x", "model.vocab_size=204"])) / 1e6) == millions


# ── names, settings, files, commands ──


def known_names() -> set[str]:
    """Return the classes and functions of the package, bare, and behind their class or file: `Decoder.embed`."""
    names = set()
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names |= {node.name, f"{path.stem}.{node.name}"}
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
    return names


def test_the_first_column_of_the_contracts_names_what_exists():
    rows = re.findall(r"^\| (`.*?) \|", (PROJECT / "docs/tensor_contracts.md").read_text(), re.M)
    named = {name for row in rows for name in re.findall(r"`([A-Za-z_][\w.]*)`", row)}
    assert len(named) > 50
    assert named <= known_names(), named - known_names()


def shown_code() -> list[tuple[str, str, str]]:
    """Return (page, file, name) of all code that the pages show with the directive `source`."""
    shown = []
    for page in sorted((PROJECT / "docs").rglob("*.md")):
        for file, names in re.findall(r"^`{3}\{source\} (\S+) (.+)$", page.read_text(), re.MULTILINE):
            shown += [(page.name, file, name) for name in names.split()]
    return shown


def test_the_code_that_the_pages_show_exists():
    shown = shown_code()
    assert len(shown) > 20
    for page, file, name in shown:
        node = ast.parse((PROJECT / file).read_text())
        for part in name.split("."):
            found = [child for child in node.body if part in names_of(child)]
            assert found, f"{page}: {file} has no {name}"
            node = found[0]


def names_of(node: ast.stmt) -> list[str]:
    targets = [node, *getattr(node, "targets", []), getattr(node, "target", None)]
    return [getattr(target, "name", getattr(target, "id", "")) for target in targets if target is not None]


@every_file([path for path in TEXTS if path.suffix != ".py"])
def test_settings_that_are_named_exist(path):
    prose = re.sub(r"^```\{code-cell\}.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for key in re.findall(rf"(?<![\w./])((?:{SECTIONS})(?:\.[a-z]\w*)+)(?![\w(/])", prose):
        if key.endswith((".py", ".md", ".json", ".yaml", ".pt", ".onnx")) or key.startswith("model.pt."):
            continue
        section = Config()
        for part in key.split("."):
            assert hasattr(section, part), f"{key}: there is no such setting"
            section = getattr(section, part)


@every_file()
def test_files_that_are_named_exist(path):
    text = path.read_text()
    for name in re.findall(
        r"(?<![\w./…<])(?:asr|configs|docs|scripts|src|tests)/[\w./-]*\w\.(?:py|md|yaml|sh)\b", text
    ):
        assert (PROJECT / name).exists() or (PROJECT / "src" / name).exists(), f"there is no {name}"
    if path.suffix == ".md":
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (path.parent / link).exists(), f"the link to {link} leads nowhere"


@every_file()
def test_commands_that_are_named_exist(path):
    commands = r"(?:python -m asr\.|(?<=`)asr |^asr )(?!configs|--|COMMAND)(\w+)([^`\n|;,]*)"
    for module, rest in re.findall(commands, path.read_text(), re.MULTILINE):
        package = PROJECT / "src" / "asr"
        sources = [path for path in (package / f"{module}.py", package / module / "__main__.py") if path.exists()]
        assert sources, f"there is no command asr.{module}"
        known = "".join(path.read_text() for path in (*sources, package / "arguments.py"))
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", rest):
            assert f'"{option}"' in known, f"asr.{module} has no {option}"


def test_anchors_within_a_document_lead_to_headings():
    for path in DOCUMENTS:
        text = path.read_text()
        headings = re.findall(r"^#+ (.+)$", text, re.M)
        known = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= known, path


# ── messages ──


def package_messages() -> str:
    """Return all texts of the package, one a line, with N for what is put into them."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "N" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_messages_of_broken_sound_and_manifests_are_those_of_the_code():
    text, messages = (PROJECT / "docs/data.md").read_text(), package_messages()
    listed = text[text.index("### Broken sound") :]
    rows = [row.split(" | ")[1] for row in re.findall(r"^\| (.+) \|$", listed, re.M) if "python -m" not in row]
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 20
    for message in quoted:
        assert message in messages, f"no message of the package says: {message}"


def test_the_settings_of_your_own_data_can_be_read(tmp_path):
    block = re.search(r"```yaml\n(# my_config\.yaml\n.*?)```", (PROJECT / "docs/data.md").read_text(), re.S)[1]
    (tmp_path / "my_config.yaml").write_text(block)
    config = load_config(tmp_path / "my_config.yaml")
    assert config.data.dataset == "jsonl" and config.data.root == "my_data"
