"""Streams of the command line: sound from files, the standard input or a microphone, and its text as it comes.

Each event is a line on the standard output, with the seconds of sound that had been heard:

      0.60  partial  hello
      1.20  partial  hello world
      1.35  final    Hello world.

or with `--format json` an object in a line. What was measured goes to the standard error.
"""

import dataclasses
import json
import queue
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asr.data.sounds.audio import iterate_audio
from asr.errors import UserError
from asr.inference.stream import Stream, StreamEvent
from asr.untrusted import harmless

STANDARD_INPUT = "-"
PIECE_S = 0.06
"""Sound is passed on in pieces of this length, as a microphone does."""
BYTES_PER_SAMPLE = 2


def open_pieces(source: Path | None, rate_hz: int, channel: int) -> Iterator[np.ndarray]:
    """Return the pieces of a sound file, of raw samples on the standard input ("-"), or of the microphone (None)."""
    if source is None:
        return microphone_pieces(rate_hz)
    if str(source) == STANDARD_INPUT:
        return pcm_pieces(sys.stdin.buffer, rate_hz)
    return file_pieces(source, rate_hz, channel)


def file_pieces(path: Path, rate_hz: int, channel: int) -> Iterator[np.ndarray]:
    """Yield a sound file in pieces, float32[n] at `rate_hz`."""
    size, rest_n = round(PIECE_S * rate_hz), np.zeros(0, np.float32)
    for block_n in iterate_audio(path, rate_hz, channel=channel):
        rest_n = np.concatenate([rest_n, block_n])
        whole = len(rest_n) // size * size
        yield from np.split(rest_n[:whole], whole // size) if whole else ()
        rest_n = rest_n[whole:]
    yield rest_n


def pcm_pieces(file: BinaryIO, rate_hz: int) -> Iterator[np.ndarray]:
    """Yield raw samples, int16 little-endian of one channel, in pieces as they come.

    Raises:
        UserError: nothing came, or half a sample at the end.
    """
    size, rest, has_any = round(PIECE_S * rate_hz) * BYTES_PER_SAMPLE, b"", False
    while content := file.read1(size):
        content, has_any = rest + content, True
        whole = len(content) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
        rest = content[whole:]
        yield np.frombuffer(content[:whole], "<i2")
    if not has_any:
        raise UserError("the standard input is empty: expected raw samples, int16 little-endian, one channel")
    if rest:
        raise UserError(
            "the standard input ends within a sample: expected raw samples, int16 little-endian, one channel"
        )


def microphone_pieces(rate_hz: int) -> Iterator[np.ndarray]:
    """Yield what the default microphone hears, until Ctrl-C.

    Raises:
        UserError: no package for it, or no microphone.
    """
    try:
        import sounddevice
    except ImportError as error:
        hint = "pip install 'paraformer_asr[microphone]'"
        raise UserError(f"--microphone needs the package sounddevice: {hint} ({error})") from None
    except OSError as error:  # the package is there, its library is not
        raise UserError(
            f"--microphone: the library PortAudio is missing ({error}); apt install libportaudio2"
        ) from None
    pieces: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    options = {"samplerate": rate_hz, "channels": 1, "dtype": "int16", "blocksize": round(PIECE_S * rate_hz)}
    try:
        with sounddevice.InputStream(callback=lambda block, *_: pieces.put(block[:, 0].copy()), **options):
            print("listening; Ctrl-C ends", file=sys.stderr)
            while True:
                yield pieces.get()
    except KeyboardInterrupt:
        return
    except sounddevice.PortAudioError as error:
        raise UserError(f"--microphone: no microphone that can be opened ({error})") from None


def paced(pieces: Iterator[np.ndarray], rate_hz: int) -> Iterator[np.ndarray]:
    """Yield the pieces at the pace of the sound: each when it would have been heard."""
    start, num_samples = time.monotonic(), 0
    for piece in pieces:
        num_samples += len(piece)
        time.sleep(max(start + num_samples / rate_hz - time.monotonic(), 0.0))
        yield piece


@dataclasses.dataclass
class Measured:
    """What streaming a sound took.

    Attributes:
        sound_s: length of the sound.
        compute_s: seconds of computing.
        first_s: from the begin of the first token to its text, in seconds of the sound.
        delays_s: from the end of each token to its text, likewise.
        end_s: from the end of the sound to the last event.
    """

    sound_s: float = 0.0
    compute_s: float = 0.0
    first_s: float | None = None
    delays_s: list[float] = dataclasses.field(default_factory=list)
    end_s: float = 0.0

    def summary(self) -> str:
        """Return a line with the figures."""
        parts = [f"{self.sound_s:.1f} s of sound, real-time factor {self.compute_s / max(self.sound_s, 1e-9):.3f}"]
        if self.first_s is not None:
            middle, late = np.quantile(self.delays_s or [self.first_s], [0.5, 0.95])
            parts.append(f"first token {self.first_s:.2f} s after it began, a token {middle:.2f} s after its end")
            parts[-1] += f" (95 %: {late:.2f} s)"
        return ", ".join([*parts, f"last event {self.end_s:.2f} s after the end"])


def run_stream(
    stream: Stream, pieces: Iterator[np.ndarray], rate_hz: int, write: Callable[[StreamEvent], None]
) -> Measured:
    """Pass the sound on, write each event, and return what was measured.

    A delay counts the sound that had to be heard, and the computing behind it: what a listener of the live sound waits.
    """
    measured = Measured()
    num_samples, busy_until_s = 0, 0.0  # when the computing is done, were the sound live
    for piece in _with_end(pieces):
        begun = time.monotonic()
        events = stream.finish() if piece is None else stream.push(piece)
        seconds = time.monotonic() - begun
        num_samples += 0 if piece is None else len(piece)
        heard_s = num_samples / rate_hz
        busy_until_s = max(busy_until_s, heard_s) + seconds
        measured.compute_s, measured.sound_s = measured.compute_s + seconds, heard_s
        for event in events:
            for token in event.tokens:
                if measured.first_s is None:
                    measured.first_s = busy_until_s - token.start_s
                measured.delays_s.append(busy_until_s - token.end_s)
            write(event)
    measured.end_s = busy_until_s - measured.sound_s
    return measured


def _with_end(pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray | None]:
    """Yield the pieces and then None; also if reading fails in between, so that what was said before is written."""
    try:
        yield from pieces
    except UserError:
        yield None
        raise
    yield None


def event_line(event: StreamEvent) -> str:
    """Return an event as a line of text."""
    kind = "final" if event.final else "partial"
    text = event.transcript.text if event.transcript else event.punctuated
    return f"{event.heard_s:8.2f}  {kind:7}  {harmless(text, kept='')}\n"


def event_json(event: StreamEvent) -> str:
    """Return an event as JSON in a line."""
    content: dict[str, Any] = {"heard_s": round(event.heard_s, 3), "final": event.final, "text": event.text}
    content |= {"partial": event.partial, "punctuated": event.punctuated}
    content |= {"tokens": [_token(token) for token in event.tokens]}
    if event.transcript:
        content["transcript"] = event.transcript.to_plain()
    return json.dumps(content, ensure_ascii=False) + "\n"


def _token(token) -> dict[str, Any]:
    times = {name: round(getattr(token, name), 3) for name in ("start_s", "end_s", "confidence")}
    return {"token": token.text} | times


LINES = {"text": event_line, "json": event_json}
"""`--format` → how an event is written."""
