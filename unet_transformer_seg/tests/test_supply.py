"""What no file of the package may do: run what an input says, start a shell, or listen to the world."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "seg"
SOURCES = sorted(PACKAGE.rglob("*.py"))

RUNS_WHAT_IT_READS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
RESTRICTED_PICKLE = {"published/tensor_pickle.py", "published/torch_writer.py"}
"""The reader knows the parts of tensors, runs no other name and refuses those of programs; the writer only writes."""

FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "tempfile.mktemp"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnl", "os.spawnv"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "extractall"),
}
FORBIDDEN_NAMES = {"UnsafeLoader", "FullLoader"}
EVERYWHERE = ("0.0.0.0", "::")


def name_of(node: ast.AST) -> str:
    """Return the dotted name of a function that is called; `?` stands for what is no name, as in `?.compile`."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def full_names(tree: ast.AST) -> dict[str, str]:
    """Return what an imported name stands for: `np` for numpy, `load` for yaml.load."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_modules(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def faults(source: str, may_pickle: bool = False) -> Iterator[str]:
    """Yield what a source does that it may not do, with the line."""
    tree = ast.parse(source)
    known = full_names(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if not may_pickle and (found := imported_modules(node) & RUNS_WHAT_IT_READS):
            yield f"{line}: imports {', '.join(found)}"
        if isinstance(node, ast.Constant) and node.value in EVERYWHERE:
            yield f"{line}: listens to the world"
        if isinstance(node, ast.Name | ast.Attribute) and name_of(node).split(".")[-1] in FORBIDDEN_NAMES:
            yield f"{line}: {name_of(node)}"
        if isinstance(node, ast.Call):
            yield from (f"{line}: {fault}" for fault in faults_of_call(node, known))


def faults_of_call(node: ast.Call, known: dict[str, str]) -> Iterator[str]:
    first, _, rest = name_of(node.func).partition(".")
    name = ".".join(filter(None, (known.get(first, first), rest)))
    given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
    if name in FORBIDDEN_CALLS or name.split(".")[-1] == "extractall":
        yield name
    if name == "numpy.load" and given.get("allow_pickle") is not False:
        yield "numpy.load without allow_pickle=False"
    if "shell" in given and given["shell"] is not False:
        yield f"{name} with a shell"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_run_and_nobody_is_listened_to(path):
    may_pickle = path.relative_to(PACKAGE).as_posix() in RESTRICTED_PICKLE
    assert not list(faults(path.read_text(), may_pickle))


def test_the_only_unpickler_is_restricted():
    tree = ast.parse((PACKAGE / "published/tensor_pickle.py").read_text())
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    methods = {node.name for node in classes["_Unpickler"].body if isinstance(node, ast.FunctionDef)}
    assert {"find_class", "persistent_load", "load_build"} <= methods
    uses = [name_of(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and name_of(n).startswith("pickle.")]
    interpreter = {"pickle._Unpickler", "pickle._Unpickler.dispatch", "pickle._Unpickler.dispatch.copy"}
    assert set(uses) == interpreter | {"pickle.BUILD", "pickle.UnpicklingError"}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal",
        "import os\nos.system('x')",
        "from os import popen\npopen('x')",
        "import yaml\nyaml.load('x', Loader=L)",
        "from yaml import unsafe_load as f\nf('x')",
        "import yaml\nyaml.compose('x', Loader=yaml.UnsafeLoader)",
        "eval('1')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import subprocess\nsubprocess.run('x', shell=flag)",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "from tempfile import mktemp\nmktemp()",
        "serve(host='0.0.0.0')",
        "archive.extractall(folder)",
    ],
)
def test_each_fault_would_be_found(source):
    assert list(faults(source))


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess\nsubprocess.run(['git'], shell=False)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import yaml\nyaml.safe_load('x')",
        "serve(host='127.0.0.1')",
        "model.eval_step(x)",
        "jit(f).lower(x).compile()",
    ],
)
def test_what_is_harmless_is_no_fault(source):
    assert not list(faults(source))
