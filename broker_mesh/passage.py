"""Passages: what the outage guard keeps of one record on its way through its attempts.

On the way of a message: made by `lanes.py` when it begins with a record; `guard.py` notes in it what becomes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker_mesh.circuit import Streak, Ticket
from broker_mesh.message import Message


class Passage:
    """One record on its way through its attempts.

    Args:
        leaving: set once the record's partition is being given up.
        waits: told of the message as it waits for its next attempt, where an outage has given some back.
    """

    def __init__(self, leaving: asyncio.Event, waits: Callable[[Message], None]) -> None:
        self.leaving = leaving
        self._waits = waits
        self.ticket: Ticket | None = None  # of the attempt that is made now
        self.handled = False  # whether that has come to the handler
        self.has_failed = False
        self._streak: Streak | None = None
        self._spent = 0  # attempts, in that streak

    def spend(self, streak: Streak) -> None:
        """Note that an attempt failed in a streak, and that the record waits for the next one in its place."""
        if self._streak is not streak:
            self._streak, self._spent = streak, 0
        self._spent += 1

    def refund(self, message: Message) -> Message:
        """Give back what was used up in a streak that came to an outage."""
        if self._streak is None or not self._streak.opened:
            return message
        attempt = message.envelope.attempt - self._spent
        self._streak, self._spent = None, 0
        message = message.with_envelope(attempt=max(1, attempt))
        if attempt <= 1:
            message = message.with_envelope(first_failure=None)  # `elapsed` begins anew too
        self._waits(message)
        return message
