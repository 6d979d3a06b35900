"""The page of the service at `/`: a form for people, made of the static files in `page/`.

It needs nothing from other servers, and its policy forbids it to load anything from them.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import FastAPI
from fastapi.responses import Response

FOLDER = "/page"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cache-control": "no-cache",
}


def page_paths() -> list[str]:
    """Return the paths of the page and of the files that it loads."""
    return ["/", *(f"{FOLDER}/{file.name}" for file in _files() if file.name != "index.html")]


def add_page(app: FastAPI) -> None:
    """Serve the page and the files that it loads."""
    contents = {f"{FOLDER}/{file.name}": file for file in _files()}
    for path in page_paths():
        app.add_api_route(path, _route(contents.get(path, contents[f"{FOLDER}/index.html"])), include_in_schema=False)


def _route(file: Traversable):
    content, media_type = file.read_bytes(), MEDIA_TYPES[file.name[file.name.rindex(".") :]]

    async def answer() -> Response:
        return Response(content, headers=HEADERS, media_type=media_type)

    return answer


def _files() -> list[Traversable]:
    return [file for file in files("asr.serve").joinpath("page").iterdir() if file.name.endswith(tuple(MEDIA_TYPES))]
