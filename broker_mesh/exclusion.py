"""Exclusion: of several messages that mean the same work, one goes on and the others wait for it.

On the way of a message: asked by `layers/dedupe.py` and `idempotency.py`, before a handler.

A claim is held from a message's first attempt to its settlement, or until what then still runs of it has ended. It
also ends with the task that works on the message, however that ends, and once that task has gone on to another
message: nobody waits for a claim that nobody will release. Not thread-safe: it lives on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from broker_mesh import turn


class _Claim:
    __slots__ = ("owner", "released", "task")

    def __init__(self, owner: Hashable, task: asyncio.Future[Any]) -> None:
        self.owner = owner
        self.task = task
        self.released: asyncio.Future[None] | None = None  # made by the first who waits


_claimant: ContextVar[asyncio.Future[Any] | None] = ContextVar("claimant", default=None)


@contextmanager
def claiming_for(claimant: asyncio.Future[Any]) -> Iterator[None]:
    """Have what is claimed within a block belong to work that no task does as a whole, until that future is done."""
    token = _claimant.set(claimant)
    try:
        yield
    finally:
        _claimant.reset(token)


def _worker() -> asyncio.Future[Any] | None:
    claimant = _claimant.get()
    return asyncio.current_task() if claimant is None else claimant


class Exclusion:
    """Which keys are claimed, and by whom."""

    def __init__(self) -> None:
        self._held: dict[Hashable, _Claim] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, key: Hashable, owner: Hashable) -> bool:
        """Claim a key for an owner, from within what works for it; True for one who holds it already.

        Returns:
            False while somebody else holds it.
        """
        task = _worker()
        assert task is not None  # a native service's handlers are reached from a lane's task alone
        held = self._held.get(key)
        if held is not None and not (held.owner == owner or held.task is task or held.task.done()):
            return False
        if held is None or held.owner != owner or held.task is not task:
            if held is not None:
                self._end(key, held)
            self._held[key] = _Claim(owner, task)
        return True

    def holds(self, key: Hashable, owner: Hashable) -> bool:
        """Tell whether an owner holds a key, by a claim that was made by what works here."""
        return self._own(key, owner) is not None

    def release(self, key: Hashable, owner: Hashable, after: Sequence[asyncio.Future[None]] = ()) -> None:
        """Let an owner's key go, and wake those who wait for it; a claim that this task did not make stays as it is.

        Args:
            key: what was claimed.
            owner: who claimed it.
            after: what still runs of the work; the key goes once all of that has ended.
        """
        held = self._own(key, owner)
        if held is None:
            return

        def end(_: asyncio.Future[None] | None = None) -> None:
            if all(each.done() for each in after):
                self._end(key, held)

        for each in after:
            each.add_done_callback(end)
        end()

    def _own(self, key: Hashable, owner: Hashable) -> _Claim | None:
        # A message that came again, after its partition went and came back, is the same owner in another task: what
        # is left of its earlier handling must not let the claim of the later one go.
        held = self._held.get(key)
        is_own = held is not None and held.owner == owner and held.task is _worker()
        return held if is_own else None

    def _end(self, key: Hashable, claim: _Claim) -> None:
        if self._held.get(key) is claim:
            del self._held[key]
        if claim.released is not None and not claim.released.done():
            claim.released.set_result(None)

    async def over(self, key: Hashable) -> None:
        """Wait until the claim on a key is over, giving the handler's place to others meanwhile."""
        held = self._held.get(key)
        if held is not None:
            if held.released is None:
                held.released = asyncio.get_running_loop().create_future()
            async with turn.waiting():
                await asyncio.wait({held.released, held.task}, return_when=asyncio.FIRST_COMPLETED)
