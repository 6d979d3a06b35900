"""The route `POST /v1/audio/transcriptions`: upload → form → sound → text → answer."""

import time

from starlette.requests import Request
from starlette.responses import Response

from asr.inference.hotword_phrases import warn_of_unknown
from asr.serve.connected import while_connected
from asr.serve.decoding import Decoded
from asr.serve.form import read_form
from asr.serve.formats import MEDIA_TYPES, write_answer
from asr.serve.options import Options, read_options, read_sound
from asr.serve.refusal import Refusal
from asr.serve.service import Service
from asr.serve.sse import EventStream, transcript_events
from asr.untrusted import escaped

MAX_UNKNOWN = 5
"""Most hot words that a warning names which the model cannot write."""


class Transcriptions:
    """Answers requests with transcripts.

    Args:
        service: that recognises.
        language: of its model; "" if it is not known.
    """

    def __init__(self, service: Service, language: str = ""):
        self.service, self.language = service, language
        self._rate_hz = service.transcriber.config.features.sample_rate_hz
        tokens = service.transcriber.tokenizer.tokens
        self._token_ids = {token: number for number, token in enumerate(tokens)}

    async def answer(self, request: Request) -> Response | EventStream:
        """Return the transcript of the sound in a form, in the format that it asks for.

        Raises:
            Refusal: naming the field that is wrong, or the limit that was met.
            Exception: those of `DecodePool.decode` and `Engine.transcribe`.
        """
        service = self.service
        with service.pool.expecting():
            options, sound = await self._read(request)
        request.state.format = "sse" if options.stream else options.response_format
        check_model(service, options.model)
        warning = warn_of_unknown(service.transcriber.tokenizer, options.hotwords, MAX_UNKNOWN)
        start = time.monotonic()
        decoded = await while_connected(request.receive, service.pool.decode(sound))
        request.state.take_sound_s(decoded.num_samples / self._rate_hz)
        headers = {"x-ignored": ", ".join(options.ignored)} if options.ignored else {}
        if options.stream:
            asked = {"hotwords": options.hotwords, "language": options.language}
            events = transcript_events(service.engine, decoded, logprobs=options.logprobs, **asked)
            headers |= warn(decoded.warning, warning)
            return EventStream(events, headers, service.metrics.first_delta_s)
        response = await while_connected(request.receive, self._transcribe(decoded, options, headers, warning))
        service.metrics.request_s.labels("/v1/audio/transcriptions").observe(time.monotonic() - start)
        return response

    async def _read(self, request: Request) -> tuple[Options, bytes]:
        parts = await read_form(request, self.service.settings)
        languages = self.service.transcriber.languages
        return read_options(parts, self.service.settings, self.language, languages), read_sound(parts)

    async def _transcribe(self, decoded: Decoded, options: Options, headers: dict[str, str], warning: str) -> Response:
        asked = {"hotwords": options.hotwords, "language": options.language}
        outcome = await self.service.engine.transcribe(decoded, **asked)
        headers |= warn(decoded.warning, outcome.why_empty, warning)
        language = "" if options.language else self.language  # what was asked for is in the transcript
        body = write_answer(outcome.transcript, options, self._token_ids, language)
        return Response(body.encode("utf-8", "backslashreplace"), 200, headers, MEDIA_TYPES[options.response_format])


def warn(*warnings: str) -> dict[str, str]:
    """Return the header that says what was unusual about a request, such as that its sound is silent or cut off."""
    text = "; ".join(filter(None, warnings))
    return {"x-warning": " ".join(text.encode("ascii", "replace").decode().split())} if text else {}


def check_model(service: Service, name: str) -> None:
    """Refuse a name that is neither the model's nor one of its aliases; no name is the model's.

    Raises:
        Refusal: naming the models there are.
    """
    names = service.name, *service.aliases
    if name and name not in names:
        message = f"model: {escaped(name)!r} does not exist; use {', '.join(names)}"
        raise Refusal(404, message, param="model", code="model_not_found")
