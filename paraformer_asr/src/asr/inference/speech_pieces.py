"""Decides which segments of speech are one piece for a recogniser, as the segments become known.

Two rules, a class each. Both hold a few numbers, whatever the length of the sound:

    JoinedSpeech   from the start of a segment to the end of a later one; the silence between two pieces is left out
    MergedSpeech   one piece begins where the last one ends, the first with the sound: the silence is kept

Times are in ms. `docs/voice_activity.md` describes the rules for users.
"""

from collections.abc import Iterator

Span = tuple[int, int]
"""Start and end of a piece, in ms."""


class JoinedSpeech:
    """Joins neighbouring segments, with the silence between them, while together they are at most `limit_ms` long."""

    def __init__(self, limit_ms: int):
        self._limit_ms = limit_ms
        self._group: Span | None = None  # what waits for its successor

    def accept(self, start_ms: int, end_ms: int) -> Iterator[Span]:
        """Take the next segment; yield the piece that is complete with it."""
        if self._group and end_ms - self._group[0] <= self._limit_ms:
            self._group = self._group[0], end_ms
        else:
            yield from self.finish()
            self._group = start_ms, end_ms

    def reach(self, time_ms: int) -> Iterator[Span]:
        """Take note that no further segment starts before `time_ms`; yield the piece that is complete with that."""
        if self._group and time_ms - self._group[0] > self._limit_ms:
            yield from self.finish()

    def finish(self) -> Iterator[Span]:
        """Yield the last piece."""
        if self._group:
            yield self._group
        self._group = None

    def needed_from_ms(self, time_ms: int) -> int:
        """Return where the next piece may start if no further segment starts before `time_ms`."""
        return self._group[0] if self._group else time_ms


class MergedSpeech:
    """Cuts a sound, silence included, into pieces shorter than `limit_ms`, at the starts and ends of its segments.

    With b = 0 at first, and the starts and ends t₁ < t₂ < … of all segments:

        if t_{i+1} − b ≥ limit_ms:  (b, t_i) is a piece, and b becomes t_i

    The last piece ends with the last segment. A segment longer than the limit is a piece of its own. What lies between
    two cuts without any speech is left out, so silence of any length takes no memory.

    Attributes:
        num_segments: so far.
        first_start_ms: start of the first of them.

    Reference: FunASR, `merge_vad`.
    """

    def __init__(self, limit_ms: int):
        self._limit_ms = limit_ms
        self._start_ms = self._last_ms = 0  # of the open piece; the last time at which it can be cut
        self._has_speech = False  # between the two
        self.num_segments = self.first_start_ms = 0

    def accept(self, start_ms: int, end_ms: int) -> Iterator[Span]:
        """Take the next segment; yield the piece that is complete with it."""
        if not self.num_segments:
            self.first_start_ms = start_ms
        self.num_segments += 1
        for time_ms in (start_ms, end_ms):
            yield from self.reach(time_ms)
            self._last_ms = time_ms
        self._has_speech = True

    def reach(self, time_ms: int) -> Iterator[Span]:
        """Take note that no further segment starts before `time_ms`; yield the piece that is complete with that."""
        if time_ms - self._start_ms >= self._limit_ms:
            yield from self.finish()
            self._start_ms = self._last_ms

    def finish(self) -> Iterator[Span]:
        """Yield the last piece."""
        if self._has_speech:
            yield self._start_ms, self._last_ms
        self._has_speech = False

    def needed_from_ms(self, time_ms: int) -> int:
        """Return where the next piece may start if no further segment starts before `time_ms`."""
        # Silence that is as long as a piece is cut off where the next segment starts.
        is_left_out = not self._has_speech and time_ms - self._start_ms >= self._limit_ms
        return time_ms if is_left_out else self._start_ms
