"""The page of the service and its documentation: HTML without a script or a style from elsewhere."""

import base64
import hashlib
import html
import re
from importlib import resources

from seg.serve.formats import FORMATS

DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


MEANINGS = {
    "format": f"of the answer: {', '.join(FORMATS)} (default: {FORMATS[0]}, or tiff if classes overlap)",
    "opacity": "of the colours in an overlay, 0 to 1 (default: 0.5)",
    "probabilities": "true adds those of all classes to an npz",
    "model": "a name that /v1/models lists",
}


def load_page() -> tuple[str, str]:
    """Return the page, and the policy that lets only its own script and style run."""
    text = resources.files("seg.serve").joinpath("page.html").read_text(encoding="utf-8")
    script, style = (_digest(re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]) for tag in ("script", "style"))
    policy = f"default-src 'none'; script-src {script}; style-src {style}; img-src 'self' blob: data:; "
    return text, policy + "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def describe_routes() -> dict:
    """Return what OpenAPI says about the upload, which the route reads itself."""
    options = {
        "format": {"type": "string", "enum": list(FORMATS)},
        "opacity": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
        "probabilities": {"type": "boolean", "default": False},
        "model": {"type": "string"},
    }
    form = {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}
    form["properties"] |= options
    content = {"multipart/form-data": {"schema": form}, "application/octet-stream": {"schema": {"format": "binary"}}}
    query = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": MEANINGS[name]}
        for name, schema in options.items()
    ]
    return {"requestBody": {"required": True, "content": content}, "parameters": query}


def draw_docs(schema: dict) -> str:
    """Return a page with the routes of an OpenAPI schema."""
    rows = [
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code><td>{html.escape(route.get('summary', ''))}"
        for path, methods in schema["paths"].items()
        for method, route in methods.items()
    ]
    options = [
        f"<tr><td><code>{option['name']}</code><td>{html.escape(option['description'])}"
        for option in describe_routes()["parameters"]
    ]
    return _DOCS.format(rows="\n".join(rows), options="\n".join(options))


_DOCS = """<!doctype html><html lang="en"><meta charset="utf-8"><title>seg: routes</title>
<meta name="viewport" content="width=device-width"><style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
td {{ padding: .2rem 1rem .2rem 0; vertical-align: top }}</style>
<h1>Routes</h1><table>{rows}</table>
<h2>Options of <code>/v1/segment</code></h2><p>As fields of the form, or in the query.</p><table>{options}</table>
<pre>curl -F file=@photo.jpg -F format=png http://127.0.0.1:8000/v1/segment -o mask.png
curl --data-binary @photo.jpg "http://127.0.0.1:8000/v1/segment?format=geojson"</pre>
<p>An error is JSON: <code>{{"error": {{"message", "type", "param", "code"}}}}</code>.
The schema is at <a href="/openapi.json">/openapi.json</a>.</p></html>
"""
