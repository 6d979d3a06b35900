"""The text frames of FunASR's websocket protocol: what a client states, and what it is answered.

A client's frame is a JSON object. Fields that are missing or null keep their value; unknown fields are ignored.

    mode        offline | online | 2pass
    wav_name    repeated in every answer
    wav_format  pcm, or anything else: the binary frames are then the bytes of a sound file
    audio_fs    samples in a second of pcm
    is_speaking false ends the sound, as is_finished: true does
    is_end      true: acknowledge the end
    hotwords    words to prefer, in the forms of `asr.serve.hotwords`

Reference: modelscope/FunASR, docs `runtime/docs/websocket_protocol.md`, and its clients in Python and HTML5.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from asr.errors import UserError
from asr.inference.hotwords import SOURCE, Hotword
from asr.inference.words import Word
from asr.serve.hotwords import read_funasr
from asr.serve.session import Event
from asr.serve.settings import ServeSettings
from asr.untrusted import HALF_CHARACTER, shown

BAD_DATA, BAD_JSON, NOT_ALLOWED, TOO_BIG, OUR_FAULT, TRY_LATER = 1003, 1007, 1008, 1009, 1011, 1013
"""Codes that close a websocket (RFC 6455, section 7.4.1)."""

MODES = ("offline", "online", "2pass")
MAX_LEVELS = 8
"""Most levels of a client's JSON."""
MAX_NAME_CHARACTERS = 256
"""Longest `wav_name` that is repeated."""
KINDS = {str: "a text", bool: "true or false"}
LATIN_WORD = re.compile("[a-zA-Z]+")
PUNCTUATION = frozenset("。？，、?.,")
"""Characters that the HTML5 client removes before it counts the pairs of times."""


class ConversationError(Exception):
    """What ends a conversation early.

    Attributes:
        code: that closes the connection.
    """

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client has stated about the sound that it sends.

    Attributes:
        mode: how it is recognised.
        wav_name: the client's name of it, for its answers only.
        is_file: the binary frames are the bytes of a sound file.
        rate_hz: of int16 samples.
        is_speaking: more of it will come.
        wants_end: the client waits for an acknowledgement of the end.
        hotwords: to prefer.
    """

    mode: str = "offline"
    wav_name: str = "demo"
    is_file: bool = False
    rate_hz: int = 16_000
    is_speaking: bool = True
    wants_end: bool = False
    hotwords: tuple[Hotword, ...] = ()


def read_frame(text: str, before: Request, settings: ServeSettings) -> Request:
    """Return what a client states with a frame, `before` changed by its fields.

    Raises:
        ConversationError: not a JSON object, too large or too deep, or a field of the wrong type or out of range.
    """
    fields = {key: value for key, value in _parse(text, settings).items() if value is not None}
    is_speaking = _read(fields, "is_speaking", bool, True) and not _read(fields, "is_finished", bool, False)
    mode, wav_format = _read(fields, "mode", str, before.mode), _read(fields, "wav_format", str, "")
    if mode not in MODES:
        raise ConversationError(BAD_DATA, f"mode: expected {', '.join(MODES)}, found {shown(mode)}")
    return Request(
        mode,
        HALF_CHARACTER.sub("\ufffd", _read(fields, "wav_name", str, before.wav_name))[:MAX_NAME_CHARACTERS],
        wav_format.lower() != "pcm" if wav_format else before.is_file,
        _read_rate(fields, before.rate_hz, settings),
        is_speaking,
        _read(fields, "is_end", bool, False),
        _read_hotwords(fields["hotwords"], settings) if "hotwords" in fields else before.hotwords,
    )


def text_frame(request: Request, event: Event) -> dict[str, Any]:
    """Return the frame for what was recognised. The last one is final, unless an acknowledgement follows.

    `timestamp` is JSON in a string, as the HTML5 client parses it.
    """
    frame = {"mode": request.mode, "wav_name": request.wav_name, "text": event.transcript.text}
    frame |= {"is_final": event.is_final and not request.wants_end}
    frame |= {"timestamp": json.dumps(pairs_ms(event.transcript.words))}
    return frame | ({"warning": event.warning} if event.warning else {})


def end_frame(request: Request, error: str = "") -> dict[str, Any]:
    """Return the acknowledgement of the end, for clients that wait for it; final only without an error."""
    frame = {"mode": request.mode, "wav_name": request.wav_name, "is_final": not error, "is_end": True}
    return frame | ({"error": error} if error else {})


def error_frame(request: Request, error: str) -> dict[str, Any]:
    """Return the answer to what cannot be recognised."""
    return {"mode": request.mode, "wav_name": request.wav_name, "text": "", "is_final": True, "error": error}


def pairs_ms(words: Sequence[Word]) -> list[list[int]]:
    """Return start and end of each word of Latin letters, and of each other character, in milliseconds.

    The HTML5 client counts like this: what is between blanks and punctuation is one word if it has only letters a to z,
    otherwise one for each of its characters. Characters share the time of their word evenly.
    """
    stretches: list[list[tuple[str, float, float]]] = [[]]
    for word in words:
        if word.space_before:
            stretches.append([])
        step_s = (word.end_s - word.start_s) / len(word.text)
        for place, character in enumerate(word.text):
            start_s = word.start_s + place * step_s
            if character in PUNCTUATION:
                stretches.append([])
            else:
                stretches[-1].append((character, start_s, start_s + step_s))
    return [pair for stretch in stretches if stretch for pair in _pairs_of_stretch(stretch)]


def _pairs_of_stretch(stretch: list[tuple[str, float, float]]) -> list[list[int]]:
    characters, starts_s, ends_s = zip(*stretch, strict=True)
    if LATIN_WORD.fullmatch("".join(characters)):
        starts_s, ends_s = starts_s[:1], ends_s[-1:]
    return [[round(1000 * start_s), round(1000 * end_s)] for start_s, end_s in zip(starts_s, ends_s, strict=True)]


def _parse(text: str, settings: ServeSettings) -> dict[str, Any]:
    if len(text.encode("utf-8", "surrogatepass")) > settings.websocket_config_bytes:
        raise ConversationError(TOO_BIG, f"a text frame has at most {settings.websocket_config_bytes} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ConversationError(BAD_JSON, 'expected JSON, such as {"mode": "offline", "is_speaking": true}') from None
    if not isinstance(value, dict):
        raise ConversationError(BAD_DATA, f"expected a JSON object, found {shown(value)}")
    if _is_deeper(value, MAX_LEVELS):
        raise ConversationError(BAD_DATA, f"a JSON object has at most {MAX_LEVELS} levels")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (levels == 0 or any(_is_deeper(item, levels - 1) for item in inner))


def _read(fields: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.get(name, default)
    if not isinstance(value, kind):
        raise ConversationError(BAD_DATA, f"{name}: expected {KINDS[kind]}, found {shown(value)}")
    return value


def _read_rate(fields: dict[str, Any], default: int, settings: ServeSettings) -> int:
    value = fields.get("audio_fs", default)
    if isinstance(value, str) and re.fullmatch("[0-9]{1,6}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    low, high = settings.min_rate_hz, settings.max_rate_hz
    if type(value) is not int or not low <= value <= high:
        raise ConversationError(BAD_DATA, f"audio_fs: expected {low} to {high}, found {shown(value)}")
    return value


def _read_hotwords(value: Any, settings: ServeSettings) -> tuple[Hotword, ...]:
    try:
        return read_funasr(value, settings)
    except UserError as error:
        raise ConversationError(BAD_DATA, f"hotwords: {str(error).removeprefix(f'{SOURCE}: ')}") from None
