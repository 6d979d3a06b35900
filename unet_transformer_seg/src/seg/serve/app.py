"""The routes of the service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from seg.serve.form import read_order
from seg.serve.formats import formats_of
from seg.serve.metrics import CONTENT_TYPE
from seg.serve.page import DOCS_POLICY, describe_routes, load_page
from seg.serve.protection import Protection
from seg.serve.refusal import RefusedError, draining, starting
from seg.serve.service import Service

CLIENT_CLOSED_REQUEST = 499
"""Status, in logs and counters, of a request whose client went away."""

CODES = {404: "not_found", 405: "method_not_allowed"}


def make_app(
    service: Service, keys: Sequence[str] = (), hosts: Sequence[str] = (), *, metrics: bool = True, docs: bool = True
) -> FastAPI:
    """Return the ASGI application of a service, which it starts and stops.

    Args:
        service: not yet started.
        keys: any of which a client must send; empty: none is needed.
        hosts: names that clients may call the server by, besides addresses; empty: every name.
        metrics: whether there is a route `/metrics`.
        docs: whether there are routes `/docs` and `/openapi.json`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Compilation may take minutes; the server says meanwhile that it is alive, and not yet ready.
        app.state.startup = asyncio.create_task(asyncio.to_thread(service.start))
        yield
        await asyncio.wait([app.state.startup])
        await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="seg",
        description="Segments images.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
    )
    app.add_middleware(Protection, service=service, keys=keys, hosts=hosts)
    _add_segment(app, service)
    _add_lists(app, service)
    _add_health(app, service)
    _add_pages(app, metrics and service, docs)
    _add_errors(app, service)
    return app


def _add_segment(app: FastAPI, service: Service) -> None:
    @app.post("/v1/segment", summary="Segment an image", openapi_extra=describe_routes(), response_class=Response)
    async def segment(request: Request) -> Response:
        order = await read_order(request, service.settings, service.names)
        reply = await _unless_gone(request, service.answer(order, request.state.client))
        if reply is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(reply.content, media_type=reply.media_type, headers=dict(reply.headers))


def _add_lists(app: FastAPI, service: Service) -> None:
    def describe(name: str) -> dict:
        return {"id": name, "object": "model", "created": service.created, "owned_by": "seg"}

    @app.get("/v1/models", summary="List the model")
    async def models() -> dict:
        return {"object": "list", "data": [describe(name) for name in service.names]}

    @app.get("/v1/models/{name:path}", summary="Describe a model")
    async def model(name: str) -> dict:
        if name not in service.names:
            raise RefusedError(404, "there is no such model; /v1/models lists them", "model_not_found", param="model")
        return describe(name)

    @app.get("/v1/classes", summary="List the classes")
    async def classes() -> dict:
        pairs = zip(service.classes.names, service.classes.palette, strict=True)
        data = [{"label": i, "name": name, "colour": f"#{bytes(rgb).hex()}"} for i, (name, rgb) in enumerate(pairs)]
        kind = {"overlapping": service.classes.overlapping, "formats": formats_of(service.classes)}
        return {"object": "list", "model": service.names[0], "data": data, **kind}


def _add_health(app: FastAPI, service: Service) -> None:
    async def alive() -> dict:
        return {"status": "ok"}

    for path in ("/healthz", "/health", "/ping"):
        app.add_api_route(path, alive, summary="Whether the process is alive", include_in_schema=path == "/healthz")

    @app.get("/readyz", summary="Whether images are taken")
    async def ready() -> dict:
        if service.engine.draining:
            raise draining()
        if not service.engine.ready:
            raise starting()
        return {"status": "ready"}


def _add_pages(app: FastAPI, counted: Service | bool, docs: bool) -> None:
    page, policy = load_page()

    @app.get("/", include_in_schema=False)
    async def root() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": policy})

    if counted:

        @app.get("/metrics", summary="Counters for Prometheus")
        async def exposition() -> Response:
            return Response(counted.metrics.exposition(), media_type=CONTENT_TYPE)

    if docs:
        from seg.serve.page import draw_docs

        @app.get("/docs", include_in_schema=False)
        async def documentation() -> HTMLResponse:
            return HTMLResponse(draw_docs(app.openapi()), headers={"content-security-policy": DOCS_POLICY})


def _add_errors(app: FastAPI, service: Service) -> None:
    """Answer every error in the form that clients of the OpenAI API read."""

    async def refuse(_: Request, refusal: RefusedError) -> JSONResponse:
        service.metrics.refusals.labels(refusal.code).inc()
        return JSONResponse(refusal.body(), refusal.status, headers=refusal.headers())

    async def explain(request: Request, error: HTTPException) -> JSONResponse:
        text = "there is no such path; /docs lists them" if error.status_code == 404 else str(error.detail)
        refusal = RefusedError(error.status_code, text, CODES.get(error.status_code, "bad_request"))
        return JSONResponse(refusal.body(), refusal.status, headers={**refusal.headers(), **(error.headers or {})})

    app.add_exception_handler(RefusedError, refuse)
    app.add_exception_handler(HTTPException, explain)


async def _unless_gone(request: Request, coroutine: Coroutine) -> Any:
    """Return what the coroutine returns; if the client goes away meanwhile, cancel it and return None."""
    work = asyncio.ensure_future(coroutine)
    gone = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else None
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.wait({work, gone})


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
