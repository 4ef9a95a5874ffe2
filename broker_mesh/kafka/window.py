"""The window: how many records of a topic a process may have in flight, by how fast its handlers are.

On the way of a message: before it is taken; `flow.py` pauses a topic that has as many in flight as its window holds.

Little's law (Little, "A Proof for the Queuing Formula: L = λW", 1961): as many records are in flight as are finished in
the time that one of them stays. So that a record stays about a second, the window holds as many as were finished within
the last second. What is taken and not settled runs again after a crash, has to be waited for in a rebalance, and takes
memory: slow handlers should have no more of it than keeps them busy. It never holds fewer than twice the handlers that
run at once, so that none waits for the next fetch, and never more than `max_in_flight`.

It grows at once and shrinks slowly, and shrinks only while it is what kept records out: a topic with little to do
finishes little, which says nothing of its handlers. And it doubles while it keeps records out though handlers are idle:
then what is in flight waits for its key, or for another attempt, and only further records bring further keys.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

TARGET_SECONDS = 1.0
"""How long a record should stay in the process, from its delivery until it is settled."""

SHRINKING_SECONDS = 10.0
"""In this time a window goes two thirds of the way (1 - 1/e) down to what its handlers need."""

HANDLERS_EACH = 2
"""How many records the window holds at least for each handler that may run at once."""


class _Sample(NamedTuple):
    at: float
    finished: int


class Window:
    """The window of one topic in one process.

    Args:
        concurrency: how many handlers may run at once.
        max_in_flight: how many records it may ever hold.
    """

    def __init__(self, concurrency: int, max_in_flight: int) -> None:
        self._largest = max_in_flight
        self._smallest = min(HANDLERS_EACH * concurrency, max_in_flight)
        self._limit = float(self._smallest)
        self._samples: deque[_Sample] = deque()  # of the last second, and one that is older

    @property
    def limit(self) -> int:
        """How many records may be in flight."""
        return round(self._limit)

    def look(self, now: float, finished: int, *, kept_out: bool, idle: bool) -> int:
        """Adapt; some times a second.

        Args:
            now: seconds of a clock that only grows.
            finished: how many records were finished since the process began.
            kept_out: whether the window has kept records out since the last look.
            idle: whether a handler could run and has nothing to do.

        Returns:
            The new limit.
        """
        passed = now - self._samples[-1].at if self._samples else 0.0
        self._samples.append(_Sample(now, finished))
        while len(self._samples) > 2 and self._samples[1].at <= now - TARGET_SECONDS:
            self._samples.popleft()
        needed = min(max(self._finished_in_time(), self._smallest), self._largest)
        if kept_out and idle:
            self._limit = min(max(2 * self._limit, needed), self._largest)
        elif needed >= self._limit:
            self._limit = needed
        elif kept_out:
            self._limit -= (self._limit - needed) * min(1.0, passed / SHRINKING_SECONDS)
        return self.limit

    def _finished_in_time(self) -> float:
        """Tell how many records are finished within the time that one of them should stay."""
        first, last = self._samples[0], self._samples[-1]
        # Of less than that time not the rate counts: handlers that happen to end together are not fast.
        return (
            max(0, last.finished - first.finished) * TARGET_SECONDS / max(TARGET_SECONDS, last.at - first.at)
        )
