"""Finds where speech starts and ends by the scores of its frames: the rules of FSMN-VAD.

Three stages, each a class below, take one frame of 10 ms after the other:

    FrameLabels      scores → is the frame speech? by the probability of silence, the level and its distance to noise
    SpeechWindow     labels → does speech start, stop, or does neither? by the frames of speech among the last ones
    SpeechSegments   starts and stops → segments, with context on either side, ended by silence or the longest length

They are plain Python on purpose: `docs/voice_activity.md` has the rules as a table, to be read beside this file. Frames
are counted from 0; frame t stands for the 10 ms from 10·t ms on.

Reference: FunASR, `funasr/models/fsmn_vad_streaming`.
"""

import collections
import dataclasses
from collections.abc import Iterable
from typing import Literal

from asr.config.voice_activity import FRAME_MS, VoiceActivityConfig

DYNAMIC_MARGIN = 0.5  # `min_speech_margin` with the dynamic end silence
DYNAMIC_END_SILENCES_MS = ((10_000, 2000), (20_000, 1000), (30_000, 800), (40_000, 600), (50_000, 400), (60_000, 200))
SHORTEST_END_SILENCE_MS = 100
"""(speech so far up to, silence that ends it), in ms; what is longer than the last needs the shortest silence."""

NO_NOISE_DB = -100.0  # level of the noise before the first frame of it

Change = Literal["starts", "stops", "sounds", "silent"]
"""What a frame means: speech starts or stops with it, goes on, or there is none."""


@dataclasses.dataclass(frozen=True)
class SpeechEvent:
    """The start or the end of a segment of speech."""

    kind: Literal["start", "end"]
    time_ms: int  # from the start of the sound

    @property
    def time_s(self) -> float:
        """The same in seconds."""
        return self.time_ms / 1000


class FrameLabels:
    """Decides for each frame whether it is speech."""

    def __init__(self, settings: VoiceActivityConfig):
        self._settings, self._noise_db = settings, NO_NOISE_DB
        self._margin = DYNAMIC_MARGIN if settings.dynamic_end_silence else settings.min_speech_margin

    def label(self, silence: float, level_db: float) -> bool:
        """Return whether a frame is speech; `silence` is its probability, 0 to 1."""
        settings = self._settings
        if level_db < settings.min_level_db:
            return False
        # Compared as probabilities, not as logarithms: exactly 0 and 1 are as good as any other.
        if 1.0 - silence >= silence**settings.silence_exponent + self._margin:
            return level_db - self._noise_db >= settings.min_snr_db
        # What is not speech is noise; its level is a slow running mean.
        first, n = self._noise_db < NO_NOISE_DB + 0.1, settings.noise_frames
        self._noise_db = level_db if first else (level_db + (n - 1) * self._noise_db) / n
        return False


class SpeechWindow:
    """Counts the frames of speech among the last ones, so that single frames start and stop nothing."""

    def __init__(self, settings: VoiceActivityConfig):
        self._labels = collections.deque([False] * (settings.window_ms // FRAME_MS))
        self._onset, self._offset = settings.speech_onset_ms // FRAME_MS, settings.speech_offset_ms // FRAME_MS
        self._count, self._on = 0, False
        self.num_silent = 0

    def change(self, label: bool) -> Change:
        """Return what the next frame means; `num_silent` is then the number of silent ones in a row, up to it."""
        self._count += label - self._labels.popleft()
        self._labels.append(label)
        if not self._on and self._count >= self._onset:
            self._on, change = True, "starts"
        elif self._on and self._count <= self._offset:
            self._on, change = False, "stops"
        else:
            change = "sounds" if self._on else "silent"
        self.num_silent = self.num_silent + 1 if change == "silent" else 0
        return change


class SpeechSegments:
    """Turns the scores of a sound's frames into the starts and ends of its segments, in pieces of any lengths.

    Attributes:
        num_frames: frames so far.
        first_free: the first frame that no segment has used; the next one starts there or later.
    """

    def __init__(self, settings: VoiceActivityConfig):
        self._settings = settings
        self._labels, self._window = FrameLabels(settings), SpeechWindow(settings)
        lookback_ms = settings.window_ms + (settings.lookback_ms if settings.extend else 0)
        self._lookback, self._lookahead = lookback_ms // FRAME_MS, settings.lookahead_ms // FRAME_MS
        self._longest = settings.max_segment_ms // FRAME_MS
        self.num_frames = self.first_free = 0
        self._start: int | None = None  # first frame of the open segment
        self._noticed = 0  # frame with which its speech started
        self._last = 0  # last frame that belongs to it for certain
        self._is_over = False  # mode one: nothing more is looked for
        self._events: list[SpeechEvent] = []

    @property
    def is_open(self) -> bool:
        """Whether a segment has started and not ended."""
        return self._start is not None

    def accept(self, silence_t: Iterable[float], level_db_t: Iterable[float], final: bool = False) -> list[SpeechEvent]:
        """Return the starts and ends that the next frames bring, in order.

        Args:
            silence_t: each frame's probability of silence.
            level_db_t: its level in dB.
            final: the sound ends with the last of these frames: an open segment ends, too.
        """
        frames = list(zip(silence_t, level_db_t, strict=True))
        self._events = []
        for number, (silence, level_db) in enumerate(frames, 1):
            if not self._is_over:
                change = self._window.change(self._labels.label(float(silence), float(level_db)))
                step = self._outside if self._start is None else self._inside
                step(self.num_frames, change, final and number == len(frames))
            self.num_frames += 1
        if self._is_over:
            self.first_free = self.num_frames
        if final and self.is_open:  # it started with the very last frame
            self._close(self._last)
        return self._events

    def _outside(self, t: int, change: Change, final: bool) -> None:
        """Take a frame while no segment is open."""
        if change == "starts":
            # Speech was noticed late, and it began softly: the segment starts some time before.
            self._start = max(self.first_free, t - self._lookback)
            self._noticed, self.first_free = t, self._start + 1
            self._events.append(SpeechEvent("start", self._start * FRAME_MS))
            self._mark(t)
        elif self._settings.mode == "one" and self._silent_ms > self._settings.max_start_silence_ms:
            self._is_over = True
        else:
            self.first_free = max(self.first_free, t - self._lookback)

    def _inside(self, t: int, change: Change, final: bool) -> None:
        """Take a frame while a segment is open."""
        is_too_long = t - self._start + 1 > self._longest
        if change != "silent":
            if is_too_long or final:
                self._close(t)
            else:
                self._mark(t)
            return
        needed_ms = self._end_silence_ms(t)
        if self._silent_ms >= needed_ms:
            # Of the silence that ended the segment only the start belongs to it.
            back = needed_ms // FRAME_MS
            self._close(t - (max(back - self._lookahead - 1, 0) if self._settings.extend else back))
        elif is_too_long or final:
            self._close(t)
        elif self._settings.extend and self._window.num_silent <= self._lookahead:
            self._mark(t)

    @property
    def _silent_ms(self) -> int:
        return self._window.num_silent * FRAME_MS

    def _end_silence_ms(self, t: int) -> int:
        """Return the silence after the stop of speech that ends the segment at frame `t`."""
        silence_ms = self._settings.max_end_silence_ms
        if self._settings.dynamic_end_silence:
            speech_ms = (t - self._noticed) * FRAME_MS
            schedule = (silence for limit, silence in DYNAMIC_END_SILENCES_MS if speech_ms <= limit)
            silence_ms = next(schedule, SHORTEST_END_SILENCE_MS)
        # The window has seen silence for this long when speech stops.
        return max(silence_ms - self._settings.speech_offset_ms, 0)

    def _mark(self, t: int) -> None:
        """Count the frames up to `t` to the open segment."""
        if t > self._last:
            self._last, self.first_free = t, t + 1

    def _close(self, t: int) -> None:
        """End the open segment with frame `t`; the next one starts behind it, with an empty window.

        If frames behind `t` were counted to the segment already, none of them can start the next one.
        """
        self.first_free = max(t, self.first_free) + 1
        self._events.append(SpeechEvent("end", (t + 1) * FRAME_MS))
        self._start, self._last = None, 0
        self._window = SpeechWindow(self._settings)
        self._is_over = self._settings.mode == "one"
