"""How much each client may ask for in a minute."""

import time
from collections import OrderedDict

from seg.serve.refusal import RefusedError

MAX_CLIENTS = 10_000
"""Clients that are remembered; the one that has been silent longest is forgotten first."""


class RateLimit:
    """An allowance per client, which fills up within a minute."""

    def __init__(self, per_minute: float, unit: str):
        """Args are the allowance, 0 for no limit, and what it counts, for messages."""
        self._per_minute, self._unit = per_minute, unit
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, amount: float) -> None:
        """Take an amount from the allowance of a client; a full allowance suffices for any amount.

        Raises:
            RefusedError: the allowance is used up.
        """
        if not self._per_minute:
            return
        now = time.monotonic()
        left, since = self._left.pop(client, (self._per_minute, now))
        left = min(left + (now - since) * self._per_minute / 60, self._per_minute)
        needed = min(amount, self._per_minute)
        self._left[client] = (left - amount if left >= needed else left, now)
        if len(self._left) > MAX_CLIENTS:
            self._left.popitem(last=False)
        if left < needed:
            message = f"more than {self._per_minute:g} {self._unit} in a minute"
            raise RefusedError(429, message, "rate_limit", retry_after_s=60 * (needed - left) / self._per_minute)
