"""The directive `source`: a function or class as it stands in the code, so that a page cannot drift from it.

    ```{source} src/seg/ops/attention.py attention
    ```

shows `attention` without its docstring, with its place as a link; `:docstring:` keeps the docstring. Several names may
be given; `Class.method` is one, too. A name that the file lacks is a warning, and so the end of a strict build.
"""

import ast
import textwrap
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Source(SphinxDirective):
    """Shows named parts of a Python file."""

    required_arguments = 2
    optional_arguments = 20
    option_spec = {"docstring": directives.flag}

    def run(self) -> list[nodes.Node]:
        """Return a block of code with a caption that links to its file."""
        name, *wanted = self.arguments
        path = Path(self.env.srcdir).parent / name
        self.env.note_dependency(str(path))
        try:
            text = path.read_text(encoding="utf-8")
            found = [find(ast.parse(text), one) for one in wanted]
        except (OSError, LookupError) as error:
            raise self.error(f"{name}: {error}") from None
        keep = "docstring" in self.options
        code = "\n\n".join(code_of(text, node, keep) for node in found)
        block = nodes.literal_block(code, code, language="python")
        caption = nodes.caption("", "")
        link = addnodes.download_reference("", f"{name}, line {found[0].lineno}", reftarget=f"/../{name}")
        caption += link
        container = nodes.container("", caption, block, literal_block=True, classes=["literal-block-wrapper"])
        self.set_source_info(block)
        return [container]


def find(tree: ast.AST, name: str) -> ast.stmt:
    """Return the definition or assignment of a dotted name."""
    node: ast.AST = tree
    for part in name.split("."):
        named = [child for child in getattr(node, "body", []) if part in names_of(child)]
        if not named:
            raise LookupError(f"no {name!r} here")
        node = named[0]
    return node


def names_of(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []


def code_of(text: str, node: ast.stmt, docstring: bool) -> str:
    """Return the lines of a definition with its decorators."""
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    if not docstring:
        for inner in reversed([n for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.ClassDef)]):
            if ast.get_docstring(inner) is not None and len(inner.body) > 1:
                doc = inner.body[0]
                del lines[doc.lineno - first : doc.end_lineno - first + 1]
                if not lines[doc.lineno - first].strip():
                    del lines[doc.lineno - first]
    return textwrap.dedent("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("source", Source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
