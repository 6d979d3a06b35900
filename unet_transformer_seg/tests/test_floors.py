"""The import graph: a file imports only from floors below its own, and from no other project."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "src" / "seg"
OTHER_PACKAGE = "asr"

GROUND = {
    "arguments",
    "errors",
    "untrusted",
    "files",
    "classes",
    "config",
    "contracts",
    "allocator",
    "compiler",
    "distributed",
    "signals",
    "cli",
}
FLOORS = {"ops": 1, "instances": 2, "losses": 2, "metrics": 2, "pictures": 2}
FLOORS |= {"labels": 3, "models": 3, "data": 3, "checkpoints": 3, "watch": 3, "record": 4, "published": 4, "custom": 4}
FLOORS |= {"training": 5, "inference": 5, "profiling": 6, "planning": 7, "cross_validation": 6}
FLOORS |= {"api": 7, "batch": 8, "serve": 8, "__main__": 9, "__init__": 9}
COMMANDS = {"plan", "train", "eval", "infer", "check", "convert", "export", "bench", "diagnose"}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def room(module: tuple[str, ...]) -> str:
    """Return the first part of a module's path below the package: its room."""
    return module[0] if module else ""


def floor(name: str) -> int:
    if name in GROUND:
        return 0
    return 8 if name in COMMANDS else FLOORS[name]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(path: Path) -> set[str]:
    parts = {tuple(name.split(".")[1:]) for name in imports(path) if name.split(".")[0] == "seg"}
    return {room(p) for p in parts if p}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_lower_floors(path):
    own = room(path.relative_to(PACKAGE).with_suffix("").parts)
    for other in rooms_imported(path) - {own}:
        below = floor(other) < floor(own)
        ground = floor(own) == floor(other) == 0
        assert below or ground, f"{own} (floor {floor(own)}) imports {other} (floor {floor(other)})"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_code_is_shared_with_the_other_project(path):
    assert not {name for name in imports(path) if name.split(".")[0] == OTHER_PACKAGE}


def test_what_must_stay_light_or_pure():
    for path in PACKAGE.glob("ops/*.py"):
        assert not {n for n in imports(path) if n.split(".")[0] == "flax"}, f"{path.name}: ops own no parameters"
    for name in (
        "errors",
        "untrusted",
        "files",
        "config/__init__",
        "config/schema",
        "config/reader",
        "config/rules",
        "config/safe_yaml",
        "classes",
        "signals",
        "cli",
    ):
        heavy = {n.split(".")[0] for n in imports(PACKAGE / f"{name}.py")} & {
            "jax",
            "numpy",
            "flax",
            "chex",
            "PIL",
        }
        assert not heavy, f"{name}.py answers mistakes in the config at once, but imports {heavy}"


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    names = {d.split(">")[0].split("[")[0].strip().lower() for d in declared}
    modules = {"yaml": "pyyaml", "PIL": "pillow", "orbax": "orbax-checkpoint", "ml_dtypes": "ml-dtypes"}
    modules |= {
        "prometheus_client": "prometheus-client",
        "skimage": "scikit-image",
        "starlette": "fastapi",
        "h11": "uvicorn",
    }  # parts of these
    for path in SOURCES:
        for name in {n.split(".")[0] for n in imports(path)} - {"seg"} - set(sys.stdlib_module_names):
            assert modules.get(name, name).lower() in names, f"{path.name} imports {name}"


def test_every_dependency_is_bounded_from_below_and_above():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    for dependency in project["dependencies"] + sum(project["optional-dependencies"].values(), []):
        assert re.fullmatch(r"[\w.-]+(\[[\w,]+\])?>=[\d.]+,<[\d.]+", dependency), dependency


def test_requirements_agree_with_pyproject():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == project["dependencies"]


def test_files_are_written_in_one_place():
    """`files.py` writes aside and renames; others write what it gave them, or into a folder that only they know."""
    writes = re.compile(r"(\w+)(?: / [^)]*\))?\.(?:write_(?:text|bytes)\(|open\(\"[wa])")
    given = {"aside", "partial", "archive", "CLEAR"}  # CLEAR is a switch of the system
    found = {(path.name, name) for path in SOURCES for name in writes.findall(path.read_text())}
    assert {(path, name) for path, name in found if name not in given} == set()
    assert found  # else the pattern finds nothing at all


MAX_TRAINING_FILES, MAX_TRAINING_ARROWS = 12, 30


def test_training_stays_small_enough_to_be_read():
    """The files of `training/`, and the imports between them."""
    files = {path.stem: path for path in PACKAGE.glob("training/*.py") if path.stem != "__init__"}
    names = {name: {tuple(module.split(".")) for module in imports(path)} for name, path in files.items()}
    arrows = {(a, b) for a, modules in names.items() for b in files if ("seg", "training", b) in modules}
    assert len(files) <= MAX_TRAINING_FILES, sorted(files)
    assert len(arrows) <= MAX_TRAINING_ARROWS, sorted(arrows)
    assert {("loop", "setup"), ("setup", "step")} <= arrows  # else the count is of nothing


READING_PATH = ("train", "api", "training/run", "training/setup", "training/state", "training/optimizer")
READING_PATH += ("training/loop", "training/step")


def test_eight_files_lead_from_the_command_to_the_gradient():
    opened = READING_PATH[:1]
    for name in READING_PATH[1:]:
        module = f"seg.{name.replace('/', '.')}"
        assert any(module in imports(PACKAGE / f"{earlier}.py") for earlier in opened), name
        opened += (name,)
    assert len(opened) == 8 and "jax.value_and_grad(" in (PACKAGE / f"{opened[-1]}.py").read_text()
