"""A multipart form, read into memory: no part of it is ever written to disk.

Reference: RFC 7578. Names and types of files are ignored: neither says what the bytes are.
"""

import dataclasses

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from asr.serve.refusal import Refusal
from asr.serve.settings import ServeSettings
from asr.untrusted import escaped

HOW_TO_SEND = "for example: curl -F file=@talk.wav http://…/v1/audio/transcriptions"


@dataclasses.dataclass
class Part:
    """One part of a form.

    Attributes:
        name: of the field.
        is_file: whether it came with a file name.
        content: its bytes.
    """

    name: str
    is_file: bool
    content: bytearray = dataclasses.field(default_factory=bytearray)

    @property
    def text(self) -> str:
        """The content of a text field."""
        return self.content.decode("utf-8", "replace")


async def read_form(request: Request, settings: ServeSettings) -> list[Part]:
    """Return the parts of a multipart form in their order; the same name may come several times.

    Raises:
        Refusal: another type of body, or one that is malformed, cut off, or above a limit of the parts.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        found = escaped(kind.decode("latin-1")) or "no Content-Type"
        raise _malformed(f"expected the Content-Type multipart/form-data, found {found}; {HOW_TO_SEND}")
    if not options.get(b"boundary"):
        raise _malformed("the Content-Type multipart/form-data has no boundary; let the HTTP library set it")
    growing = _GrowingForm(settings)
    try:
        parser = MultipartParser(
            options[b"boundary"], growing.callbacks(), max_header_size=settings.max_part_header_bytes
        )
        async for chunk in request.stream():
            parser.write(chunk)
    except FormParserError as error:
        raise _malformed(f"the multipart body is malformed ({error})") from None
    if not growing.is_complete:
        raise _malformed("the multipart body is cut off: its last boundary is missing")
    return growing.parts


def _malformed(message: str) -> Refusal:
    return Refusal(400, message, code="malformed_body")


class _GrowingForm:
    """The parts, while the parser calls back.

    Attributes:
        parts: so far.
        is_complete: whether the last boundary has come.
    """

    def __init__(self, settings: ServeSettings):
        self._settings, self._header, self._disposition = settings, (bytearray(), bytearray()), b""
        self.parts: list[Part] = []
        self.is_complete = False

    def callbacks(self) -> dict:
        """Return the functions that the parser calls."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._start_part,
            "on_part_data": self._add,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._disposition = b""
        if len(self.parts) >= self._settings.max_parts:
            raise _malformed(f"the form has more than {self._settings.max_parts} parts")

    def _end_header(self) -> None:
        name, value = map(bytes, self._header)
        self._header = bytearray(), bytearray()
        if name.lower() == b"content-disposition":
            self._disposition = value

    def _start_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _malformed(f"part {len(self.parts) + 1} of the form has no name; {HOW_TO_SEND}")
        self.parts.append(Part(options[b"name"].decode("utf-8", "replace"), b"filename" in options))

    def _add(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        limit = self._settings.max_field_bytes
        if not part.is_file and len(part.content) + end - start > limit:
            message = f"a field is longer than {limit // 1024} KiB; only the part file may be longer, with a file name"
            raise Refusal(400, message, param=_known(part.name), code="field_too_long")
        part.content += data[start:end]

    def _end(self) -> None:
        self.is_complete = True


def _known(name: str) -> str | None:
    return name if name.isidentifier() and len(name) <= 64 else None
