"""A handler's turn: its place among the handlers that run at once, and what it leaves behind.

On the way of a message: taken by `service.py` around each attempt. While a handler waits for somebody else's
reply its place is free for others, so that services may call themselves and each other without running out of
places; a plain function that goes on after its message was given up holds its key, not its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Protocol


class HandedBack(BaseException):
    """The partition is being given up before the handler has begun: its record comes again elsewhere.

    No `Exception`: to all layers it is like a cancellation, and must not be taken for a failure of the message.
    """


class Places(Protocol):
    """How many handlers may run at once; a semaphore is one."""

    async def acquire(self) -> object:
        """Wait for a place, and take it."""

    def release(self) -> None:
        """Give it back."""


class Turn:
    """One attempt at one message.

    Args:
        places: how many handlers may run at once.
        leaving: set once the message's partition is being given up; None where it never is.

    Attributes:
        left_behind: what still runs of this attempt though its outcome is known.
        fenced: whether the message has gone to another member: nothing may be sent on its behalf any more.
    """

    def __init__(self, places: Places, leaving: asyncio.Event | None = None) -> None:
        self._places = places
        self._leaving = leaving
        self._has_place = False
        self._taking_back = asyncio.Lock()
        self._waits = 0
        self._over = False
        self.left_behind: list[asyncio.Future[None]] = []
        self.fenced = False

    async def __aenter__(self) -> Turn:
        await self._places.acquire()
        self._has_place = True
        self._loop = asyncio.get_running_loop()
        self._token = _current.set(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        _current.reset(self._token)
        self._over = True
        self._give_place()

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Give the place to others while a block waits; several waits of one handler give it once."""
        self._waits += 1
        self._give_place()
        try:
            yield
        finally:
            self._waits -= 1
            if self._lacks_place():
                await self._take_back()

    def begin(self) -> None:
        """Begin something that a partition which is being given up need not wait for.

        Raises:
            HandedBack: it is being given up.
        """
        if self._leaving is not None and self._leaving.is_set():
            raise HandedBack

    def belongs_here(self) -> bool:
        """Whether this is the loop that gives its places; a blocking call from a plain handler may run on another."""
        return self._loop is asyncio.get_running_loop()

    async def _take_back(self) -> None:
        # One at a time: of two that queue for the last place, one would wait for what its own handler holds.
        async with self._taking_back:
            if self._lacks_place():
                await self._places.acquire()
                # Another wait may have begun, or the whole turn have ended, while this one queued for the place.
                if self._lacks_place():
                    self._has_place = True
                else:
                    self._places.release()

    def _lacks_place(self) -> bool:
        return not (self._waits or self._has_place or self._over)

    def _give_place(self) -> None:
        if self._has_place:
            self._has_place = False
            self._places.release()


_current: ContextVar[Turn | None] = ContextVar("broker_mesh_current_turn", default=None)


def current() -> Turn | None:
    """Give the turn of the handler that runs here; None outside of handlers."""
    return _current.get()


@asynccontextmanager
async def waiting() -> AsyncIterator[None]:
    """Wait for somebody else, giving the handler's place to others where there is one."""
    turn = current()
    if turn is None or not turn.belongs_here():
        yield
        return
    async with turn.waiting():
        yield
