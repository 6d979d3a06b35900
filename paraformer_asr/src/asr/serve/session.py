"""A sound that arrives in pieces and is recognised when it has ended: push them, flush, close.

`push` only keeps the sound; `flush` recognises all of it and returns one event, which is final. Speech that is
recognised while it is spoken has a session of another kind (`asr.serve.live_session`).

Protocols (`asr.serve.funasr_websocket`) are adapters: they translate between a client's frames and these calls.
"""

import dataclasses
from collections.abc import Callable

from asr.inference.hotword_phrases import warn_of_unknown
from asr.inference.hotwords import Hotword
from asr.inference.transcript import Transcript
from asr.serve.decoding import Decoded
from asr.serve.service import Service

BYTES_PER_SAMPLE = 2


class TooMuchSoundError(Exception):
    """More sound was pushed than is recognised at once, or than the server has memory for.

    Attributes:
        is_full: the server has no memory left for this sound now; a shorter one would not help.
    """

    def __init__(self, message: str, *, is_full: bool = False):
        super().__init__(message)
        self.is_full = is_full


@dataclasses.dataclass(frozen=True)
class Event:
    """What was recognised.

    Attributes:
        transcript: of the sound, from its start.
        warning: what is unusual about the sound: silent, or cut off.
        is_final: the sound has ended, and nothing will follow.
    """

    transcript: Transcript
    warning: str = ""
    is_final: bool = True


class SoundMemory:
    """The memory that the sounds of all sessions share.

    Attributes:
        num_bytes: now in use.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes, self.num_bytes = max_bytes, 0

    def take(self, num_bytes: int) -> None:
        """Reserve bytes.

        Raises:
            TooMuchSoundError: there are not so many left.
        """
        if self.num_bytes + num_bytes > self.max_bytes:
            raise TooMuchSoundError("the sounds of all clients fill the server's memory: try again later", is_full=True)
        self.num_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Release bytes."""
        self.num_bytes -= num_bytes


class Session:
    """A stream of sound from one client.

    Args:
        service: recognises.
        memory: of all sessions.
        rate_hz: of int16 samples, little-endian, one channel; None: the pieces are those of a sound file.
        take_sound_s: called with the seconds of a sound before it is recognised; may raise to refuse it.
    """

    def __init__(
        self,
        service: Service,
        memory: SoundMemory,
        *,
        rate_hz: int | None = 16_000,
        take_sound_s: Callable[[float], None] = lambda seconds: None,
    ):
        self._service, self._memory, self._rate_hz, self._take_sound_s = service, memory, rate_hz, take_sound_s
        self._content = bytearray()

    @property
    def has_sound(self) -> bool:
        """Whether sound was pushed that is not flushed."""
        return bool(self._content)

    async def push(self, content: bytes) -> list[Event]:
        """Add a piece of the sound and return what it completes; the cut between two pieces may be within a sample.

        Raises:
            TooMuchSoundError: longer than the service allows.
        """
        settings, size = self._service.settings, len(self._content) + len(content)
        if self._rate_hz is None and size > settings.max_body_bytes:
            raise TooMuchSoundError(f"a sound file has at most {settings.max_body_bytes} bytes")
        if self._rate_hz is not None and size > settings.max_sound_s * self._rate_hz * BYTES_PER_SAMPLE:
            raise TooMuchSoundError(f"a sound lasts at most {settings.max_sound_s:g} s")
        self._memory.take(len(content))
        self._content += content
        return []

    async def flush(self, hotwords: tuple[Hotword, ...] = ()) -> list[Event]:
        """Recognise what was pushed and return the events; the next `push` begins a new sound.

        Half a sample at the end is dropped.

        Raises:
            Exception: those of `DecodePool.decode`, `DecodePool.split`, `take_sound_s` and `Engine.transcribe`.
        """
        try:
            decoded = await self._decode()
            self._take_sound_s(decoded.num_samples / self._service.transcriber.config.features.sample_rate_hz)
            outcome = await self._service.engine.transcribe(decoded, hotwords=hotwords)
        finally:
            self.close()
        unknown = warn_of_unknown(self._service.transcriber.tokenizer, hotwords)
        return [Event(outcome.transcript, "; ".join(filter(None, (decoded.warning, outcome.why_empty, unknown))))]

    def close(self) -> None:
        """Drop the sound that was not flushed."""
        self._memory.give_back(len(self._content))
        self._content = bytearray()

    async def _decode(self) -> Decoded:
        if self._rate_hz is None:
            return await self._service.pool.decode(bytes(self._content))
        return await self._service.pool.split(bytes(self._content), self._rate_hz)
