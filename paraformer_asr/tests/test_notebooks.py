"""Every page of the documentation that is run: its cells in order, as a reader runs them, without Jupyter."""

import ast
import re
import traceback
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(
    path
    for path in [*(DOCS / "notebooks").glob("*.md"), *(DOCS / "course").glob("*.md")]
    if "{code-cell}" in path.read_text()
)
HEADER = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
"""
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TAGS = {"hide-input", "hide-output", "hide-cell"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")


def cells_of(text):
    """Return (line, code) of each cell; the code begins in this line, counted from 0. Its options are left out."""
    cells = []
    for match in CELL.finditer(text):
        options = re.match(r"(:[\w-]+:[^\n]*\n)*", match[1])
        cells.append((text[: match.start(1)].count("\n") + options[0].count("\n"), match[1][options.end() :]))
    return cells


def run_cells(text, name):
    """Run the cells of a page in one namespace; return the HTML that those shown as such give."""
    namespace, shown = {"__name__": "__main__"}, []
    for line, code in cells_of(text):
        body = ast.parse("\n" * line + code, name).body  # the lines of a traceback are those of the page
        last = [body.pop()] if body and isinstance(body[-1], ast.Expr) else []
        exec(compile(ast.Module(body, []), name, "exec"), namespace)
        for node in last:
            value = eval(compile(ast.Expression(node.value), name, "eval"), namespace)
            if hasattr(value, "_repr_html_"):
                shown.append(value._repr_html_())
    return shown


@pytest.fixture
def clean(monkeypatch):
    """As in a reader's session: plots of its own, and shapes of any rank broadcast."""
    with jax.numpy_rank_promotion("allow"):
        yield monkeypatch
    plt.close("all")


@every_page
def test_a_page_runs_and_leaves_nothing_behind(page, clean):
    clean.chdir(page.parent)
    before = sorted(page.parent.iterdir())
    for html in run_cells(page.read_text(), str(page)):
        assert html and "<" in html
        # It works without a network, and for a page that is opened as a file.
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|fetch\(|XMLHttpRequest""", html)
        names = re.findall(r"""\sid=["']([^"']+)""", html)
        assert len(names) == len(set(names))
    assert sorted(page.parent.iterdir()) == before


@every_page
def test_a_page_is_one_that_sphinx_runs_and_no_cell_may_fail(page):
    text = page.read_text()
    assert text.startswith(HEADER)
    cells = cells_of(text)
    assert len(cells) == text.count("{code-cell}") and all(code.strip() for _, code in cells)
    tags = {tag.strip() for tags in re.findall(r"^:tags: \[(.*)\]$", text, re.MULTILINE) for tag in tags.split(",")}
    assert tags <= TAGS, "a tag such as raises-exception hides a failure"
    assert len(re.findall(r"^:tags:", text, re.MULTILINE)) == len(re.findall(r"^:tags: \[.*\]$", text, re.MULTILINE))


def test_there_are_pages():
    assert len(PAGES) >= 6


BROKEN = f"""{HEADER}
```{{code-cell}}
:tags: [hide-input]

x = 1
```

Text.

```{{code-cell}}
y = x + 1
y / 0
```
"""


def test_a_cell_that_fails_is_reported_with_its_line():
    with pytest.raises(ZeroDivisionError) as failure:
        run_cells(BROKEN, "page.md")
    last = traceback.extract_tb(failure.tb)[-1]
    assert last.filename == "page.md"
    assert BROKEN.splitlines()[last.lineno - 1] == "y / 0"


def test_a_warning_in_a_cell_is_an_error():
    text = "```{code-cell}\nimport warnings\n\nwarnings.warn('attention', stacklevel=1)\n```\n"
    with pytest.raises(UserWarning, match="attention"):
        run_cells(text, "page.md")
