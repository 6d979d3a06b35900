"""How much one client may ask for in a minute: requests, and seconds of sound."""

import collections
import time

from asr.serve.refusal import Refusal

MAX_CLIENTS = 10_000
"""Most clients remembered; the one that was not seen for the longest time is forgotten first."""
MINUTE_S = 60.0


class RateLimit:
    """A bucket for each client, refilled steadily: a client may use a whole minute's share at once.

    Attributes:
        per_minute: the share; 0: no limit.
        noun: what is counted, for the message.

    Reference: Turner, "New directions in communications", IEEE Communications Magazine 24(10), 1986 (leaky bucket).
    """

    def __init__(self, per_minute: float, noun: str):
        self.per_minute, self.noun = per_minute, noun
        self._levels: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def take(self, client: str, amount: float = 1.0) -> None:
        """Count an amount for a client.

        An amount larger than the share of a minute passes when the bucket is full, and leaves a debt.

        Raises:
            Refusal: the bucket is empty; nothing is counted then.
        """
        if not self.per_minute:
            return
        level, now = self._level(client), time.monotonic()
        needed = min(amount, self.per_minute)
        if level < needed:
            wait_s = (needed - level) * MINUTE_S / self.per_minute
            message = f"more than {self.per_minute:g} {self.noun} in a minute; try again in {wait_s:.0f} s"
            raise Refusal(429, message, code="rate_limit_exceeded", retry_after_s=wait_s)
        self._levels[client] = level - amount, now
        self._levels.move_to_end(client)
        if len(self._levels) > MAX_CLIENTS:
            self._levels.popitem(last=False)

    def _level(self, client: str) -> float:
        """Return what is left in the bucket of a client."""
        level, seen = self._levels.get(client, (self.per_minute, 0.0))
        return min(self.per_minute, level + (time.monotonic() - seen) * self.per_minute / MINUTE_S)
