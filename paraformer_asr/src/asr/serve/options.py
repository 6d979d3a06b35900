"""The fields of `POST /v1/audio/transcriptions`, checked.

A list is a field that is repeated, with or without brackets behind its name. An empty field counts as missing. What
this server cannot honour is listed in the header `x-ignored`; a value that makes no sense is refused.

Reference: OpenAI's interface, "Create transcription", as its package for Python sends it (3.57).
"""

import dataclasses
import json
import math
from collections.abc import Sequence

from asr.errors import UserError
from asr.inference.hotwords import Hotword
from asr.serve.form import Part
from asr.serve.hotwords import read_field
from asr.serve.refusal import Refusal
from asr.serve.settings import ServeSettings
from asr.untrusted import escaped

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
STREAMED_FORMATS = ("json", "text")
GRANULARITIES = ("word", "segment")
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

FIELDS = {
    "file": "the sound: WAV, FLAC, OGG, Opus, MP3, WebM, MP4/M4A, AAC, AMR or AIFF, recognised by its bytes",
    "model": "name of the model or an alias; may be left out",
    "response_format": f"{', '.join(FORMATS)} (default: json)",
    "timestamp_granularities[]": "word, segment or both, for verbose_json (default: segment)",
    "include[]": "logprobs: the tokens with their log probabilities, for json",
    "stream": "true: server-sent events, for json and text",
    "language": "of the sound, for SenseVoice; other models ignore it, unless it is theirs",
    "temperature": "0 to 1; ignored, unless it is 0: the model does not sample",
    "prompt": "ignored",
    "keywords[]": "hot words: names and terms to prefer",
    "hotwords": "the same in one field, between commas; ` :2` behind one doubles its bonus",
    "languages[]": "ignored",
    "chunking_strategy": "auto; ignored with settings of its own: sound is cut at its silences in any case",
    "known_speaker_names[]": "ignored",
    "known_speaker_references[]": "ignored",
}
"""Every field of the form → its meaning, for the documentation."""
LISTS = tuple(name.removesuffix("[]") for name in FIELDS if name.endswith("[]"))


@dataclasses.dataclass(frozen=True)
class Options:
    """How to answer.

    Attributes:
        model: name that the client used; "" for none.
        response_format: of `FORMATS`.
        words: whether verbose_json lists words.
        segments: whether it lists segments.
        logprobs: whether json lists tokens.
        stream: whether the answer is a stream of events.
        ignored: names of the fields that were not honoured.
        hotwords: names and terms to prefer.
        language: of the sound; "": the model's setting.
    """

    model: str
    response_format: str
    words: bool
    segments: bool
    logprobs: bool
    stream: bool
    ignored: tuple[str, ...]
    hotwords: tuple[Hotword, ...] = ()
    language: str = ""


def read_options(
    parts: Sequence[Part], settings: ServeSettings, language: str = "", languages: Sequence[str] = ()
) -> Options:
    """Return the options in the parts of a form.

    Args:
        parts: of the form.
        settings: `max_hotwords` and `max_hotword_characters` are used.
        language: of the model, such as `en`; "" if it is not known.
        languages: that a request may state; none if the model takes no language.

    Raises:
        Refusal: naming the field that is missing or wrong.
    """
    fields = _Fields(parts)
    response_format = fields.choice("response_format", FORMATS, "json")
    stream = fields.flag("stream")
    if stream and response_format not in STREAMED_FORMATS:
        formats = " or ".join(STREAMED_FORMATS)
        raise _wrong("stream", f"true needs response_format {formats}, not {response_format}")
    granularities = fields.choices("timestamp_granularities", GRANULARITIES)
    logprobs = bool(fields.choices("include", ("logprobs",)))
    verbose = response_format == "verbose_json"
    asked = fields.text("language").lower() if languages else ""
    if asked and asked not in languages:
        raise _wrong("language", f"expected one of {', '.join(languages)}, found {escaped(asked)!r}")
    ignored = _list_ignored(fields, asked or language)
    ignored += ["timestamp_granularities"] if granularities and not verbose else []
    ignored += ["include"] if logprobs and response_format != "json" else []
    return Options(
        model=fields.text("model"),
        response_format=response_format,
        words="word" in granularities,
        segments="segment" in granularities or not granularities,
        logprobs=logprobs and response_format == "json",
        stream=stream,
        ignored=tuple(ignored),
        hotwords=_read_hotwords(fields, settings),
        language=asked,
    )


def read_sound(parts: Sequence[Part]) -> bytes:
    """Return the bytes of the only file in a form.

    Raises:
        Refusal: there is none, several, or an empty one.
    """
    files = [part for part in parts if part.name in ("file", "file[]")]
    if not files:
        raise _wrong("file", "the form has no part of this name; for example: curl -F file=@talk.wav")
    if len(files) > 1:
        raise _wrong("file", f"expected one sound, found {len(files)}; send each in a request of its own")
    if not files[0].is_file:
        raise _wrong("file", "expected a file, found a text; curl needs an @, as in -F file=@talk.wav")
    if not files[0].content:
        raise _wrong("file", "the file is empty")
    return bytes(files[0].content)


class _Fields:
    """The text fields of a form, by their names without brackets."""

    def __init__(self, parts: Sequence[Part]):
        self.values: dict[str, list[str]] = {}
        for part in parts:
            if not part.is_file and part.content:
                name = part.name.removesuffix("[]")
                self.values.setdefault(name if name in LISTS else part.name, []).append(part.text)

    def text(self, name: str) -> str:
        """Return the value of a field, "" if it is missing."""
        values = self.values.get(name, [""])
        if len(values) > 1:
            raise _wrong(name, f"expected one value, found {len(values)}")
        return values[0].strip()

    def flag(self, name: str) -> bool:
        """Return the value of a field that is true or false."""
        text = self.text(name).lower()
        if text and text not in TRUE + FALSE:
            raise _wrong(name, f"expected true or false, found {escaped(text)!r}")
        return text in TRUE

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """Return the value of a field with a fixed set of values."""
        text = self.text(name) or default
        if text == "diarized_json" and text not in choices:
            raise _wrong(name, f"the model does not tell speakers apart: no diarized_json; use {', '.join(choices)}")
        if text not in choices:
            raise _wrong(name, f"expected one of {', '.join(choices)}, found {escaped(text)!r}")
        return text

    def choices(self, name: str, choices: Sequence[str]) -> list[str]:
        """Return the values of a list with a fixed set of values."""
        values = [value.strip() for value in self.values.get(name, [])]
        for value in values:
            if value not in choices:
                raise _wrong(f"{name}[]", f"expected {' or '.join(choices)}, found {escaped(value)!r}")
        return values


def _list_ignored(fields: _Fields, language: str) -> list[str]:
    """Return the fields that have a sensible value without effect."""
    ignored = [name for name in ("prompt", *LISTS) if name not in ("timestamp_granularities", "include", "keywords")]
    ignored = [name for name in ignored if name in fields.values]
    if fields.text("language").lower() not in ("", language.lower()):
        ignored.append("language")
    if _temperature(fields):
        ignored.append("temperature")
    if _has_chunking(fields):
        ignored.append("chunking_strategy")
    return ignored


def _read_hotwords(fields: _Fields, settings: ServeSettings) -> tuple[Hotword, ...]:
    try:
        return read_field(fields.text("hotwords"), fields.values.get("keywords", []), settings)
    except UserError as error:
        name = "hotwords" if "hotwords" in fields.values else "keywords[]"
        raise _wrong(name, str(error)) from None


def _temperature(fields: _Fields) -> float:
    text = fields.text("temperature") or "0"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise _wrong("temperature", f"expected a number from 0 to 1, found {escaped(text)!r}")
    return value


def _has_chunking(fields: _Fields) -> bool:
    """Return whether the form sets how to cut the sound: as JSON, or as parts like `chunking_strategy[type]`."""
    name = "chunking_strategy"
    text = fields.text(name)
    settings = {key: values[-1] for key, values in fields.values.items() if key.startswith(f"{name}[")}
    if text and text != "auto":
        try:
            settings |= {f"{name}[{key}]": value for key, value in json.loads(text).items()}
        except (ValueError, AttributeError, RecursionError):
            raise _wrong(name, f"expected auto, or a JSON object, found {escaped(text)!r}") from None
    kind = settings.get(f"{name}[type]", "server_vad")
    if kind != "server_vad":
        raise _wrong(name, f"expected the type server_vad, found {escaped(str(kind))!r}")
    return bool(settings)


def _wrong(name: str, message: str) -> Refusal:
    return Refusal(400, f"{name}: {message}", param=name, code="invalid_value")
