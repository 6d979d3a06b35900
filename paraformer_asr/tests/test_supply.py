"""No file of the package or its scripts runs what it reads: no unpickling, no loose YAML, no shell, no open server."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SOURCES = sorted([*(PROJECT / "src").rglob("*.py"), *(PROJECT / "scripts").rglob("*.py")])

UNPICKLERS = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
MAY_PICKLE = {"tensor_pickle.py": "_Unpickler", "torch_writer.py": "_Pickler"}
"""File → the class in it that admits tensors and nothing else."""
OF_PICKLE = {"_Unpickler", "_Pickler", "UnpicklingError", "GLOBAL", "PROTO", "BUILD"}
"""What those two take from `pickle`: the interpreters written in Python, to be restricted, and names."""

CALLS = {
    **dict.fromkeys(("eval", "exec", "__import__"), "runs a text"),
    **dict.fromkeys(("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"), "makes any object"),
    **dict.fromkeys(("yaml.unsafe_load_all", "yaml.full_load_all"), "makes any object"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), "starts a shell"),
    **dict.fromkeys(("tempfile.mktemp", "os.tempnam"), "is a race"),
    **dict.fromkeys(("torch.load", "jnp.load", "np.fromregex"), "reads what it should not"),
}
LOADERS = {"Loader", "UnsafeLoader", "FullLoader", "CLoader", "CUnsafeLoader", "CFullLoader"}
EVERYWHERE = ("0.0.0.0", "::")
"""Addresses of a server that all the world can reach."""


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` of an expression, "" if it is something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (value := dotted(node.value)):
        return f"{value}.{node.attr}"
    return ""


def literal(call: ast.Call, name: str):
    """Return the value of a keyword, None where it is left out; what is no literal is the text "?"."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else "?"
    return None


def faults(text: str, name: str = "a.py") -> list[str]:
    """Return what a source does that it must not, with its lines."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if fault := _fault(node, name):
            found.append(f"{name}:{node.lineno}: {fault}")
    return found


def _fault(node: ast.AST, name: str) -> str:
    match node:
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            module = getattr(node, "module", None)
            modules = {module or ""} if module else {alias.name for alias in names}
            roots = {each.split(".")[0] for each in modules}
            if roots & UNPICKLERS and (roots != {"pickle"} or name not in MAY_PICKLE or module):
                return f"imports {roots & UNPICKLERS}"
            hidden = {f"{module}.{alias.name}" for alias in names} & set(CALLS) if module else set()
            return f"imports {hidden}" if hidden else ""
        case ast.Call(func=function):
            return _fault_of_call(node, dotted(function))
        case ast.Attribute(attr=attr, value=ast.Name(id="pickle")) if attr not in OF_PICKLE and not attr.isupper():
            return "" if attr == "UnpicklingError" else f"pickle.{attr}"
        case ast.Attribute(attr=attr, value=ast.Name(id="yaml")) if attr in LOADERS:
            return f"yaml.{attr} makes any object"
        case ast.Constant(value=str(value)) if value in EVERYWHERE:
            return f"listens at {value}"
    return ""


def _fault_of_call(call: ast.Call, function: str) -> str:
    if function in CALLS:
        return f"{function} {CALLS[function]}"
    if function.startswith("os.exec") or function.startswith("os.spawn"):
        return f"{function} starts a program"
    if literal(call, "shell") not in (None, False):
        return f"{function} with a shell"
    if literal(call, "allow_pickle") not in (None, False):
        return f"{function} unpickles"
    if function in ("np.load", "numpy.load") and literal(call, "allow_pickle") is not False:
        return f"{function} without allow_pickle=False"
    if function in ("yaml.parse", "yaml.compose", "yaml.scan") and not any(
        keyword.arg == "Loader" and dotted(keyword.value) == "yaml.SafeLoader" for keyword in call.keywords
    ):
        return f"{function} without Loader=yaml.SafeLoader"
    return ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_a_source_runs_nothing_that_it_reads(path):
    assert faults(path.read_text(encoding="utf-8"), path.name) == []


BAD = [
    "import pickle",
    "from pickle import loads",
    "import marshal",
    "import shelve as s",
    "import yaml\nyaml.load(x)",
    "import yaml\nyaml.load(x, Loader=yaml.Loader)",
    "import yaml\nyaml.unsafe_load(x)",
    "import yaml\nyaml.full_load(x)",
    "import yaml\nyaml.compose(x)",
    "from yaml import load",
    "eval(x)",
    "exec(x)",
    "import os\nos.system(x)",
    "import os\nos.popen(x)",
    "from os import system",
    "import os\nos.execv(x, y)",
    "import subprocess\nsubprocess.run(x, shell=True)",
    "import subprocess\nsubprocess.Popen(x, shell=flag)",
    "import numpy as np\nnp.load(x)",
    "import numpy as np\nnp.load(x, allow_pickle=True)",
    "import tempfile\ntempfile.mktemp()",
    "import torch\ntorch.load(x)",
    'serve("0.0.0.0", 80)',
    'serve(host="::")',
]


@pytest.mark.parametrize("text", BAD)
def test_each_of_them_would_be_found(text):
    assert len(faults(text)) >= 1


def test_what_is_harmless_passes():
    text = 'import subprocess\nsubprocess.run(["git"])\nserve("127.0.0.1")\nimport re\nre.compile("a")\n'
    text += "import yaml\nyaml.safe_load(x)\nimport numpy as np\nnp.load(x, allow_pickle=False)\nmodel.eval()\n"
    assert faults(text) == []


def test_only_restricted_interpreters_of_pickles_exist():
    for name, restricted in MAY_PICKLE.items():
        (path,) = (path for path in SOURCES if path.name == name)
        text = path.read_text(encoding="utf-8")
        assert faults(text.replace("pickle._", "pickle.load("), name) if False else faults(text, name) == []
        assert faults(text, name) == []
        assert faults(f"{text}\npickle.loads(b'')\n", name) and faults(f"{text}\npickle.Unpickler(f)\n", name)
        classes = {node.name: node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)}
        assert [dotted(base) for base in classes[restricted].bases] == [f"pickle.{restricted}"]
    methods = {node.name for node in _class("tensor_pickle.py", "_Unpickler").body if isinstance(node, ast.FunctionDef)}
    assert {"find_class", "persistent_load", "load_build"} <= methods


def _class(file: str, name: str) -> ast.ClassDef:
    (path,) = (path for path in SOURCES if path.name == file)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
