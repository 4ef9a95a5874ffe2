"""Exclusion: of several messages that mean the same work, one goes on and the others wait for it.

On the way of a message: asked by `layers/dedupe.py` and `idempotency.py`, before a handler. A claim is held from a
message's first attempt to its settlement. It also ends with the task that works on the message, however that ends, and
once that task has gone on to another message: nobody waits for a claim that nobody will release. Not thread-safe: it
lives on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

from broker_mesh import turn


class _Claim:
    __slots__ = ("owner", "released", "task")

    def __init__(self, owner: Hashable, task: asyncio.Task[Any]) -> None:
        self.owner = owner
        self.task = task
        self.released: asyncio.Future[None] | None = None  # made by the first who waits


class Exclusion:
    """Which keys are claimed, and by whom."""

    def __init__(self) -> None:
        self._held: dict[Hashable, _Claim] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, key: Hashable, owner: Hashable) -> bool:
        """Claim a key for an owner, from within the task that works for it; True for one who holds it already.

        Returns:
            False while somebody else holds it.
        """
        task = asyncio.current_task()
        assert task is not None  # handlers are reached from a lane's task alone
        held = self._held.get(key)
        if held is not None and not (held.owner == owner or held.task is task or held.task.done()):
            return False
        if held is None or held.owner != owner or held.task is not task:
            self.release(key)
            self._held[key] = _Claim(owner, task)
        return True

    def holds(self, key: Hashable, owner: Hashable) -> bool:
        """Tell whether an owner holds a key."""
        held = self._held.get(key)
        return held is not None and held.owner == owner

    def release(self, key: Hashable) -> None:
        """Let a key go, and wake those who wait for it; one that nobody holds stays as it is."""
        held = self._held.pop(key, None)
        if held is not None and held.released is not None:
            held.released.set_result(None)

    async def over(self, key: Hashable) -> None:
        """Wait until the claim on a key is over, giving the handler's place to others meanwhile."""
        held = self._held.get(key)
        if held is not None:
            if held.released is None:
                held.released = asyncio.get_running_loop().create_future()
            async with turn.waiting():
                await asyncio.wait({held.released, held.task}, return_when=asyncio.FIRST_COMPLETED)
