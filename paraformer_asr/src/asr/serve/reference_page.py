"""The page `/docs`: the description of the interface as one page without a script."""

import html
from collections.abc import Mapping
from typing import Any

from fastapi.responses import HTMLResponse

STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code{font-family:ui-monospace,monospace}table{border-collapse:collapse}td,th{border:1px solid #8886;padding:.2rem .6rem;
text-align:left;vertical-align:top}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def reference_page(description: Mapping[str, Any]) -> HTMLResponse:
    """Return the page of an interface.

    Args:
        description: in the form of OpenAPI.
    """
    routes = [
        (f"{method.upper()} {path}", route)
        for path, methods in description["paths"].items()
        for method, route in methods.items()
    ]
    title = html.escape(description["info"]["title"])
    body = "".join(_section(heading, route) for heading, route in routes)
    link = '<p><a href="openapi.json">openapi.json</a> has the same for programs.</p>'
    start = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    content = f"{start}<h1>{title}</h1>{link}{body}</html>"
    return HTMLResponse(content, headers={"content-security-policy": POLICY})


def _section(heading: str, route: Mapping[str, Any]) -> str:
    forms = route.get("requestBody", {}).get("content", {}).values()
    fields = {name: field for form in forms for name, field in form["schema"]["properties"].items()}
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code><td>{html.escape(field.get('description', ''))}"
        for name, field in fields.items()
    )
    table = f"<table><tr><th>field<th>meaning{rows}</table>" if rows else ""
    meaning = html.escape(route.get("description", ""))
    return f"<h2><code>{html.escape(heading)}</code></h2><p>{meaning}</p>{table}"
