"""Sets mathematics as MathML while the site is built: browsers draw it themselves, without a script or a font file."""

import html
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def to_mathml(latex: str, node: nodes.Node, display: str) -> str:
    """Return `<math>…</math>`; what cannot be read is a warning, and shown as it was written."""
    try:
        return convert(latex, display=display)
    except Exception as error:  # the converter raises many kinds, some of them bare
        LOGGER.warning("mathematics that cannot be set: %s (%s)", latex, error or type(error).__name__, location=node)
        return f"<code>{html.escape(latex)}</code>"


def visit_inline(translator: Any, node: nodes.math) -> None:
    """Write mathematics within a sentence."""
    translator.body.append(to_mathml(node.astext(), node, "inline"))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """Write an equation on a line of its own."""
    translator.body.append(f'<div class="math">{to_mathml(node.astext(), node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
