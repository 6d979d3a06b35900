"""Makes a page of each file or folder of this project that a page links to, so that a click shows it.

A link is written as a path relative to the page, `[step.py](../src/asr/training/step.py)`, which forges follow, too.
"""

import html
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
PICTURES = {".png", ".jpg", ".svg", ".gif"}


class FileLinks(SphinxPostTransform):
    """Turns links to files of the project into links to pages of them."""

    default_priority = 5

    def run(self, **_: Any) -> None:
        """Replace each link of the document."""
        for node in list(self.document.findall(addnodes.pending_xref)) + list(
            self.document.findall(addnodes.download_reference)
        ):
            target = node.get("reftarget", "").split("#")[0]
            path = self._path(target) if target and "://" not in target else None
            if path is None or path.suffix in PICTURES or self._is_document(path):
                continue
            page = page_of(self.app, path)
            self.env.__dict__.setdefault("repository_pages", {})[page] = path
            uri = self.app.builder.get_relative_uri(self.env.docname, page)
            reference = nodes.reference("", "", *node.children, internal=True, refuri=uri)
            node.replace_self(reference)

    def _is_document(self, path: Path) -> bool:
        return path.suffix == ".md" and path.is_relative_to(self.app.srcdir)

    def _path(self, target: str) -> Path | None:
        """Return the file or folder that a link means, or None if it means something else."""
        source = Path(self.app.srcdir)
        page = Path(self.env.doc2path(self.env.docname)).parent
        for path in ((page / target).resolve(), (source / target.lstrip("/")).resolve()):
            if path.exists() and path.is_relative_to(source.parent) and path != source:
                return path
        return None


def page_of(app: Sphinx, path: Path) -> str:
    """Return the name of the page of a file or folder."""
    return posixpath.join("files", path.relative_to(Path(app.srcdir).parent.resolve()).as_posix())


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the page of each file and folder that is linked to, and of what the folders hold."""
    waiting, made = dict(getattr(app.env, "repository_pages", {})), set()
    while waiting:
        page, path = waiting.popitem()
        made.add(page)
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix in {".py", ".yaml", ".sh", ".md"}]
            rows = "".join(f'<li><a href="{path.name}/{p.name}.html">{p.name}</a></li>' for p in inside)
            waiting |= {page_of(app, p): p for p in inside if page_of(app, p) not in made}
            body = f"<ul>{rows}</ul>"
        else:
            body = highlighted(path)
        name = path.relative_to(Path(app.srcdir).parent.resolve()).as_posix()
        yield page, {"title": name, "body": f"<h1>{html.escape(name)}</h1>{body}", "toc": ""}, "page.html"


def highlighted(path: Path) -> str:
    """Return a text file as HTML, with numbered lines."""
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    code = highlight(
        path.read_text(encoding="utf-8"), lexer, HtmlFormatter(linenos="inline", anchorlinenos=True, lineanchors="line")
    )
    return f'<div class="highlight-default notranslate">{code}</div>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the links and their pages."""
    app.add_post_transform(FileLinks)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": False, "parallel_write_safe": False}
