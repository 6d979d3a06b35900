"""The pages of the course and the notebooks run as they are printed, each as one script, without Jupyter."""

import ast
import contextlib
import re
from pathlib import Path

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).parents[1] / "docs"
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n((?::[^\n]*\n)*)(.*?)^```$", re.MULTILINE | re.DOTALL)
"""The options and the code of a cell."""

PAGES = [
    path
    for folder in ("course", "notebooks")
    for path in sorted((DOCS / folder).glob("*.md"))
    if "{code-cell}" in path.read_text(encoding="utf-8")
]


def cells(path):
    """Return (options, code) of each cell; the code has the line numbers of the page."""
    text = path.read_text(encoding="utf-8")
    return [(cell[1], "\n" * text.count("\n", 0, cell.start(2)) + cell[2]) for cell in CELL.finditer(text)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_runs(path):
    names = {"__name__": path.stem}
    with contextlib.chdir(path.parent), mpl.rc_context(), jax.numpy_rank_promotion("allow"):
        try:
            for _, code in cells(path):
                exec(compile(code, str(path), "exec"), names)
                for number in plt.get_fignums():
                    axes = plt.figure(number).axes
                    assert axes and all(axis.has_data() or not axis.axison for axis in axes), f"{path}: an empty figure"
                plt.close("all")
        finally:
            plt.close("all")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_build_runs_the_page_and_no_cell_fails_in_silence(path):
    text = path.read_text(encoding="utf-8")
    head = text.split("---\n")[1]
    assert text.startswith("---\n") and "kernelspec:" in head and "format_name: myst" in head
    assert len(cells(path)) == text.count("{code-cell}")
    for options, code in cells(path):
        assert not re.search(r"raises-exception|skip-execution|remove-stderr", options)
        for node in ast.walk(ast.parse(code)):
            caught = ast.unparse(node.type) if isinstance(node, ast.ExceptHandler) and node.type else ""
            broad = isinstance(node, ast.ExceptHandler) and caught in ("", "Exception", "BaseException")
            assert not broad, f"{path.name}, line {node.lineno}: a cell hides its errors"


def test_each_notebook_is_in_the_index():
    index = (DOCS / "notebooks" / "index.md").read_text(encoding="utf-8")
    listed = re.search(r"```\{toctree\}\n(?::[^\n]*\n)*\n(.*?)```", index, re.DOTALL)[1].split()
    assert sorted(listed) == sorted(path.stem for path in PAGES if path.parent.name == "notebooks")
