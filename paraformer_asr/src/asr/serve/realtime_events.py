"""The events of OpenAI's realtime interface, as far as it transcribes: what a client sets, and what it is answered.

A client's event is a JSON object with a `type`. Of a session it may set, in either form:

    session.update                  transcription_session.update    value
    session.audio.input.format      session.input_audio_format      int16 samples; the newer form states their rate
    …input.transcription.model      …input_audio_transcription      the model or an alias
    …input.turn_detection           session.turn_detection          null: the client commits; server_vad: the detector

Fields that are missing keep their value; unknown fields are ignored.

Reference: the `openai` package (3.57), `openai.types.realtime`, and `openai.types.beta.realtime` for the older form.
"""

import base64
import binascii
import dataclasses
import json
import random
from typing import Any

from asr.serve.refusal import Refusal
from asr.serve.settings import ServeSettings
from asr.untrusted import HALF_CHARACTER, shown

PCM, OLD_PCM, OLD_RATE_HZ = "audio/pcm", "pcm16", 24_000
SERVER_VAD = "server_vad"
OLD_UPDATE = "transcription_session.update"
MAX_ID_CHARACTERS = 256
"""Longest id of a client's event that is repeated."""
TRANSCRIPTION = "conversation.item.input_audio_transcription"
NO_DETECTOR = (
    "this server has no voice activity detector: set turn_detection to null and commit, or start it with --vad"
)


@dataclasses.dataclass(frozen=True)
class SessionState:
    """What holds for the sound that a client appends.

    Attributes:
        id: of the session.
        model: name, as the client calls it.
        rate_hz: of int16 samples.
        detects_turns: the server's detector ends an item; otherwise the client commits it.
        is_old: the client uses the older form.
    """

    id: str
    model: str
    rate_hz: int = OLD_RATE_HZ
    detects_turns: bool = False
    is_old: bool = False

    @property
    def shown(self) -> dict[str, Any]:
        """The session as its events describe it."""
        turns = {"type": SERVER_VAD} if self.detects_turns else None
        fields = {"id": self.id, "object": "realtime.transcription_session"}
        model = {"model": self.model}
        if self.is_old:
            old = {"input_audio_format": OLD_PCM, "input_audio_transcription": model, "turn_detection": turns}
            return fields | {"modalities": ["text"]} | old
        sound = {"format": {"type": PCM, "rate": self.rate_hz}, "transcription": model, "turn_detection": turns}
        return fields | {"type": "transcription", "audio": {"input": sound}}


def make_id(kind: str) -> str:
    """Return an id that no other event, item or session has."""
    return f"{kind}_{random.getrandbits(96):024x}"


def parse_event(text: str) -> dict[str, Any]:
    """Return a client's event.

    Raises:
        Refusal: not a JSON object with a type.
    """
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        raise _invalid('expected JSON, such as {"type": "input_audio_buffer.commit"}') from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise _invalid(f'expected a JSON object with a "type", found {shown(event)}', "type")
    return event


def event_id(event: dict[str, Any]) -> str | None:
    """Return the id that the client gave its event, if it did."""
    value = event.get("event_id")
    return HALF_CHARACTER.sub("\ufffd", value)[:MAX_ID_CHARACTERS] if isinstance(value, str) else None


def read_audio(event: dict[str, Any]) -> bytes:
    """Return the bytes of the samples that an event appends.

    Raises:
        Refusal: not base64.
    """
    audio = event.get("audio")
    try:
        return base64.b64decode(audio, validate=True) if isinstance(audio, str) else _no_audio(audio)
    except (binascii.Error, ValueError):
        raise _invalid("audio: expected int16 samples in base64", "audio") from None


def read_update(
    event: dict[str, Any], before: SessionState, settings: ServeSettings, *, has_detector: bool
) -> SessionState:
    """Return the session that an event asks for, `before` changed by its fields; the model's name is not checked.

    Raises:
        Refusal: naming the field that is wrong, or that this server cannot honour.
    """
    is_old, session = event["type"] == OLD_UPDATE, _part(event, "session", "session")
    if is_old:
        rate_hz = _read_old_format(session, before)
        where, sound, name = "session", session, "input_audio_transcription"
    else:
        if session.get("type", "transcription") != "transcription":
            raise _invalid(f"expected transcription, found {shown(session['type'])}", "session.type")
        where, name = "session.audio.input", "transcription"
        sound = _part(_part(session, "audio", "session.audio"), "input", where)
        rate_hz = _read_format(_part(sound, "format", f"{where}.format"), before, settings, f"{where}.format")
    model = _part(sound, name, f"{where}.{name}").get("model") or before.model
    if not isinstance(model, str):
        raise _invalid(f"expected a name, found {shown(model)}", f"{where}.{name}.model")
    detects = _read_turns(sound, before, f"{where}.turn_detection", has_detector=has_detector)
    return dataclasses.replace(before, model=model, rate_hz=rate_hz, detects_turns=detects, is_old=is_old)


def error_event(refusal: Refusal, answered: str | None = None) -> dict[str, Any]:
    """Return the event for an error; `answered` is the id of the client's event that caused it."""
    return {"type": "error", "error": json.loads(refusal.body)["error"] | {"event_id": answered}}


def item_event(kind: str, item_id: str, previous_id: str | None, **content: Any) -> dict[str, Any]:
    """Return an event of a kind about a whole item, whose content may have a `transcript`."""
    part = {"type": "input_audio", "audio": None, "transcript": None, **content}
    item = {"id": item_id, "object": "realtime.item", "type": "message", "status": "completed", "role": "user"}
    return {"type": kind, "previous_item_id": previous_id, "item": item | {"content": [part]}}


def delta_event(item_id: str, delta: str) -> dict[str, Any]:
    """Return the event for new text of an item."""
    return {"type": f"{TRANSCRIPTION}.delta", "item_id": item_id, "content_index": 0, "delta": delta}


def completed_event(item_id: str, text: str, seconds: float) -> dict[str, Any]:
    """Return the event for the whole text of an item."""
    usage = {"type": "duration", "seconds": round(seconds, 3)}
    event = {"type": f"{TRANSCRIPTION}.completed", "item_id": item_id, "content_index": 0}
    return event | {"transcript": text, "usage": usage}


def _part(fields: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return an object within another one, empty if it is missing or null."""
    value = fields.get(name)
    if not isinstance(value, dict | None):
        raise _invalid(f"expected an object, found {shown(value)}", where)
    return value or {}


def _read_format(sound: dict[str, Any], before: SessionState, settings: ServeSettings, where: str) -> int:
    if sound.get("type", PCM) != PCM:
        raise _invalid(f"expected {PCM}, found {shown(sound['type'])}", f"{where}.type")
    rate_hz, low, high = sound.get("rate") or before.rate_hz, settings.min_rate_hz, settings.max_rate_hz
    if type(rate_hz) is not int or not low <= rate_hz <= high:
        raise _invalid(f"expected {low} to {high}, found {shown(rate_hz)}", f"{where}.rate")
    return rate_hz


def _read_old_format(session: dict[str, Any], before: SessionState) -> int:
    if "input_audio_format" not in session:
        return before.rate_hz
    if session["input_audio_format"] != OLD_PCM:
        where = "session.input_audio_format"
        raise _invalid(f"expected {OLD_PCM}, found {shown(session['input_audio_format'])}", where)
    return OLD_RATE_HZ


def _read_turns(sound: dict[str, Any], before: SessionState, where: str, *, has_detector: bool) -> bool:
    if "turn_detection" not in sound:
        return before.detects_turns
    if sound["turn_detection"] is None:
        return False
    kind = _part(sound, "turn_detection", where).get("type", SERVER_VAD)
    if kind != SERVER_VAD:
        raise _invalid(f"expected {SERVER_VAD} or null, found {shown(kind)}", f"{where}.type")
    if not has_detector:
        raise Refusal(400, NO_DETECTOR, param=where, code="not_supported")
    return True


def _no_audio(value: Any) -> bytes:
    raise ValueError(value)


def _invalid(message: str, param: str | None = None) -> Refusal:
    named = f"{param}: {message}" if param and not message.startswith(param) else message
    return Refusal(400, named, param=param, code="invalid_value")
