"""The web application: its routes, and the protection around them.

POST /v1/audio/transcriptions   a sound in, its text out
POST /v1/audio/translations     refused: the model cannot translate
GET  /v1/models, /v1/models/…   the model and its aliases
GET  /healthz, /health, /ping   the process is alive
GET  /readyz                    it takes work: 503 while it compiles and while it stops
GET  /metrics                   for Prometheus
GET  /docs, /openapi.json       this interface
"""

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from asr.serve.funasr_websocket import add_funasr_websocket
from asr.serve.keys import Keys
from asr.serve.options import FIELDS, LISTS
from asr.serve.page import add_page
from asr.serve.protection import Protection, check_ready
from asr.serve.realtime import add_realtime
from asr.serve.reference_page import reference_page
from asr.serve.refusal import Refusal
from asr.serve.service import Service
from asr.serve.transcriptions import Transcriptions, check_model


def make_app(
    service: Service,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    hosts: Sequence[str] = (),
    *,
    language: str = "",
    with_docs: bool = True,
    with_metrics: bool = True,
) -> FastAPI:
    """Return the ASGI application of a service, which its owner starts and stops.

    Args:
        service: the model with its engine.
        keys: that clients may use; without any, everyone may.
        origins: of browsers that may use the service from pages of other servers.
        hosts: names that clients may call the server by, besides addresses; without any, every name.
        language: of the model, such as `en`; "" if it is not known.
        with_docs: whether there is /docs and /openapi.json.
        with_metrics: whether there is /metrics.
    """
    app = FastAPI(title="asr serve", docs_url=None, redoc_url=None, openapi_url="/openapi.json" if with_docs else None)
    app.add_exception_handler(HTTPException, _refuse)
    _add_transcriptions(app, Transcriptions(service, language))
    _add_models(app, service)
    _add_health(app, service)
    add_funasr_websocket(app, service)
    add_realtime(app, service)
    add_page(app)
    if with_metrics:
        _add_metrics(app, service)
    if with_docs:
        _add_docs(app)
    app.add_middleware(Protection, service=service, keys=Keys(keys), origins=origins, hosts=hosts)
    if origins:
        headers = ["x-request-id", "x-ignored", "x-warning", "retry-after"]
        methods, allowed = ["GET", "POST"], ["authorization", "content-type"]
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=methods,
            allow_headers=allowed,
            expose_headers=headers,
        )
    return app


def _add_transcriptions(app: FastAPI, transcriptions: Transcriptions) -> None:
    @app.post("/v1/audio/transcriptions", openapi_extra=_form_schema(), response_model=None)
    async def transcribe(request: Request):
        """Return what is said in a sound."""
        return await transcriptions.answer(request)

    @app.post("/v1/audio/translations")
    async def translate():
        """Refuse: the model writes the language that it hears."""
        message = "the model does not translate; use /v1/audio/transcriptions"
        raise Refusal(404, message, code="not_supported")


def _add_models(app: FastAPI, service: Service) -> None:
    def describe(name: str) -> dict:
        live = service.live
        modes = ["offline", *(["online"] if live else []), *(["2pass"] if live and live.has_second_pass else [])]
        fields = {"id": name, "object": "model", "created": service.created, "owned_by": "paraformer-asr"}
        return fields | {"modes": modes}

    @app.get("/v1/models")
    async def list_models() -> dict:
        """List the model and its aliases."""
        return {"object": "list", "data": [describe(name) for name in (service.name, *service.aliases)]}

    @app.get("/v1/models/{name:path}")
    async def find_model(name: str) -> dict:
        """Describe one of them; a name may hold slashes."""
        check_model(service, name)
        return describe(name)


def _add_health(app: FastAPI, service: Service) -> None:
    async def alive() -> dict:
        """Answer while the process is alive, however much work waits."""
        return {"status": "alive"}

    async def ready() -> dict:
        """Answer 200 while the service takes work; 503 while it compiles, and while it stops."""
        check_ready(service)
        return {"status": "ready", "model": service.name}

    for path, answer in {"/healthz": alive, "/health": alive, "/ping": alive, "/readyz": ready}.items():
        app.add_api_route(path, answer, methods=["GET"], include_in_schema=path not in ("/health", "/ping"))
        app.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)


def _add_metrics(app: FastAPI, service: Service) -> None:
    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_docs(app: FastAPI) -> None:
    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return reference_page(app.openapi())


def _form_schema() -> dict:
    """Return the form of a transcription for the description of the interface."""
    properties = {name: {"type": "string", "description": meaning} for name, meaning in FIELDS.items()}
    properties["file"]["format"] = "binary"
    for name in LISTS:
        text = {"type": "string"}
        properties[f"{name}[]"] |= {"type": "array", "items": text}
    schema = {"type": "object", "required": ["file"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


async def _refuse(request: Request, error: HTTPException) -> Response:
    """Answer an error of the routing in the form of all errors."""
    messages = {404: "there is no such route; /docs lists them", 405: "the route does not take this method; see /docs"}
    message = messages.get(error.status_code, str(error.detail))
    raise Refusal(error.status_code, message, headers=dict(error.headers or {}))
