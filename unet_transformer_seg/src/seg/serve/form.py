"""What a client asks for: the image and the options, from a form, or from the bare body and the query."""

import dataclasses
from collections.abc import Mapping

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from seg.serve.formats import FORMATS, Format
from seg.serve.refusal import RefusedError
from seg.serve.settings import ServeSettings

FIELDS = ("format", "opacity", "probabilities", "model")

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


@dataclasses.dataclass(frozen=True)
class Order:
    """One request.

    Attributes:
        content: bytes of the image file.
        format: of the answer; None: the first of `formats_of` the model's classes.
        opacity: of an overlay.
        probabilities: whether arrays hold them.
        ignored: fields that have no meaning for this format.
    """

    content: bytes
    format: Format | None = None
    opacity: float = 0.5
    probabilities: bool = False
    ignored: tuple[str, ...] = ()


async def read_order(request: Request, settings: ServeSettings, model_names: tuple[str, ...]) -> Order:
    """Return what a request asks for.

    Raises:
        RefusedError: no image, or an option that is not known or has no such value.
    """
    fields = dict(request.query_params)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        content, form_fields = await _read_form(request, settings)
        fields |= form_fields
    else:
        content = await request.body()
    if not content:
        raise RefusedError(400, "the image is missing: post it as the form field `file`, or as the body", "no_file")
    return Order(content, **_options(fields, model_names))


async def _read_form(request: Request, settings: ServeSettings) -> tuple[bytes, dict[str, str]]:
    """Return the file and the other fields of a form."""
    parser = _InMemory(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=settings.max_fields,
        max_part_size=settings.max_field_bytes,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RefusedError(400, f"the form cannot be read: {error.message}", "bad_form") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            text = 'the form has no file: send the image as the field `file`, as curl -F "file=@photo.jpg" does'
            raise RefusedError(400, text, "no_file", param="file")
        return await file.read(), {name: value for name, value in form.items() if isinstance(value, str)}
    finally:
        await form.close()


class _InMemory(MultiPartParser):
    """Never writes an upload to disk; the limits of a body bound it."""

    spool_max_size = 1 << 40  # bytes at which a part would move to disk


def _options(fields: Mapping[str, str], model_names: tuple[str, ...]) -> dict:
    """Return the options of an `Order`."""
    for name in fields:
        if name not in FIELDS:
            raise _bad(name[:40], f"unknown field {name[:40]!r}; expected file, {', '.join(FIELDS)}", "unknown_field")
    if fields.get("model", model_names[0]) not in model_names:
        names = ", ".join(model_names)
        raise RefusedError(404, f"there is no such model; this server has {names}", "model_not_found", param="model")
    form = fields.get("format")
    if form is not None and form not in FORMATS:
        raise _bad("format", f"format: expected one of {', '.join(FORMATS)}, found {form[:40]!r}")
    probabilities = _switch(fields.get("probabilities", "false"))
    if probabilities and form != "npz":
        raise _bad("probabilities", "probabilities: only format=npz holds them")
    ignored = ("opacity",) if "opacity" in fields and form != "overlay" else ()
    opacity = _number(fields.get("opacity", "0.5"))
    return {"format": form, "opacity": opacity, "probabilities": probabilities, "ignored": ignored}


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise _bad("opacity", f"opacity: expected a number from 0 to 1, found {text[:40]!r}")
    return number


def _switch(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise _bad("probabilities", f"probabilities: expected true or false, found {text[:40]!r}")
    return text.lower() in TRUE


def _bad(param: str, message: str, code: str = "bad_value") -> RefusedError:
    return RefusedError(400, message, code, param=param)
