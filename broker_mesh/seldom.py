"""Things that may happen at any pace, and are to be done seldom: a line in the log, a look into the registry.

On the way of a message: beside it; the layers ask before they say what they have audited.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable


class Seldom:
    """Tells whether something is due, for each key once in a while. Memory is bounded, and so is what is due.

    Args:
        seconds: how long a key is not due again.
        most: how many different keys are due within that time.
        clock: gives seconds.
    """

    def __init__(self, seconds: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._done: dict[Hashable, float] = {}  # oldest first

    def is_due(self, key: Hashable) -> bool:
        """Tell whether it is to be done now for a key; whoever is told so does it."""
        now = self._clock()
        done = self._done.get(key)
        if done is not None and now - done < self._seconds:
            return False
        self._done.pop(key, None)
        if len(self._done) >= self._most:
            oldest = next(iter(self._done))
            if now - self._done[oldest] < self._seconds:
                return False
            del self._done[oldest]
        self._done[key] = now
        return True
