"""The segments that wait for the device: requests take turns, and segments of similar length share a batch."""

import collections
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from asr.inference.hotwords import Hotword
from asr.inference.segmentation import Segment

MAX_EMPTY_ROWS = 0.3
"""Largest share of a batch's rows that may be empty if a smaller batch can be full."""


class Request:
    """The segments of one sound that were not taken to the device yet.

    Attributes:
        waiting: (place, segment), in order.
        waiting_s: their seconds of sound.
        hotwords: to prefer in them; only requests with the same ones share a batch.
        language: of the sound; "": the model's setting.
        deliver: called in any thread with a place and its recognition, or with an exception that ends the request.
        since: when it came, by `time.monotonic`.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        rate_hz: int,
        deliver: Callable[[int, Any], None],
        hotwords: tuple[Hotword, ...] = (),
        language: str = "",
    ):
        self.waiting = collections.deque(enumerate(segments))
        self.rate_hz, self.deliver, self.hotwords, self.language = rate_hz, deliver, hotwords, language
        self.waiting_s = sum(len(segment.wave) for segment in segments) / rate_hz
        self.since = time.monotonic()

    def take(self) -> "Item":
        """Return the first segment, which no longer waits."""
        place, segment = self.waiting.popleft()
        self.waiting_s -= len(segment.wave) / self.rate_hz
        return Item(self, place, segment)


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """A segment on its way to the device.

    Attributes:
        request: whose it is.
        place: its number in the request.
        segment: the sound.
    """

    request: Request
    place: int
    segment: Segment


class SegmentQueue:
    """Requests in a ring. A batch takes one segment of each in turn, then a second of each, until it is full.

    Attributes:
        changed: notified when work arrives or the queue is closed.
        closed: no more work is accepted.
    """

    def __init__(self):
        self.changed = threading.Condition()
        self.closed = False
        self._ring: collections.deque[Request] = collections.deque()

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, request: Request) -> None:
        """Add a request at the end of the ring."""
        with self.changed:
            self._ring.append(request)
            self.changed.notify()

    def drop(self, request: Request) -> int:
        """Remove a request; return how many of its segments were still waiting."""
        with self.changed:
            if request in self._ring:
                self._ring.remove(request)
                return len(request.waiting)
            return 0

    def close(self) -> list[Request]:
        """Accept no more work; return the requests that were waiting."""
        with self.changed:
            self.closed = True
            requests = list(self._ring)
            self._ring.clear()
            self.changed.notify_all()
            return requests

    def seconds(self, share_s: float = float("inf")) -> float:
        """Return the seconds of sound that wait, of each request at most `share_s`."""
        with self.changed:
            return sum(min(request.waiting_s, share_s) for request in self._ring)

    def num_waiting(self) -> int:
        """Return the number of segments that wait."""
        with self.changed:
            return sum(len(request.waiting) for request in self._ring)

    def take(self, sizes: Sequence[int], length_of: Callable[[int], int]) -> list[Item]:
        """Remove and return the segments of the next batch; the request whose turn it is decides on its kind.

        Its length and hot words are those of that request's first segment.

        Args:
            sizes: rows that batches are compiled for, ascending.
            length_of: samples of a segment → samples of the shortest batch that it fits into.
        """
        with self.changed:
            if not self._ring:
                return []
            length = length_of(len(self._ring[0].waiting[0][1].wave))
            items = self._take_first(sizes[-1], lambda samples: length_of(samples) == length, sizes)
            room = min(size for size in sizes if size >= len(items)) - len(items)
            items += self._take_first(room, lambda samples: samples <= length)  # in rows that would be empty
            self._end_turns({item.request for item in items})
            return items

    def _take_first(self, most: int, fits: Callable[[int], bool], sizes: Sequence[int] = ()) -> list[Item]:
        alike = (request for request in self._ring if request.hotwords == self._ring[0].hotwords)
        fitting = list(itertools.islice(_by_turns(alike, fits), most))
        if sizes:
            fitting = fitting[: choose_rows(len(fitting), sizes)]
        return [request.take() for request in fitting]

    def _end_turns(self, served: set[Request]) -> None:
        """Move the requests that were served behind the others; forget those with nothing left."""
        waiting = [request for request in self._ring if request.waiting]
        waiting.sort(key=lambda request: request in served)
        self._ring = collections.deque(waiting)


def batch_sizes(most: int) -> tuple[int, ...]:
    """Return the rows that batches are compiled for: 1, 4, 16 and so on, and `most`."""
    sizes = itertools.takewhile(lambda size: size < most, (4**power for power in itertools.count()))
    return (*sizes, most)


def choose_rows(number: int, sizes: Sequence[int]) -> int:
    """Return how many of `number` segments to take: all if few rows stay empty, else as many as fill a smaller batch.

    Args:
        number: segments that fit into one batch, at least 1.
        sizes: rows that batches are compiled for, ascending.
    """
    enough = min((size for size in sizes if size >= number), default=sizes[-1])
    full = max((size for size in sizes if size <= number), default=number)
    return number if number >= (1 - MAX_EMPTY_ROWS) * enough else full


def _by_turns(requests: Iterable[Request], fits: Callable[[int], bool]) -> Iterator[Request]:
    """Yield each request once for its first segment that fits, then each for its second, and so on."""
    candidates, depth = list(requests), 0
    while candidates:
        candidates = [r for r in candidates if depth < len(r.waiting) and fits(len(r.waiting[depth][1].wave))]
        yield from candidates
        depth += 1
