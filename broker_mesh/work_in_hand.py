"""Messages with an idempotency key that a wrapped consumer's program has in hand, standing for themselves as claimants.

On the way of a message: around the idempotency layer of wrapped consumers and around its settlement. A native service
works on a message in one task, which holds its claims. Here each step on the mesh's event loop is a task of its own, so
that a future holds them: from the first attempt to the settlement, or until the partition has gone. On the mesh's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from broker_mesh.exclusion import claiming_for
from broker_mesh.message import Message
from broker_mesh.outcome import Done, Outcome, RetryLater
from broker_mesh.settle import CarryOut


class _Place(NamedTuple):
    """A message within one assignment of its partition."""

    topic: str
    partition: int
    offset: int
    epoch: int


class WorkInHand:
    """What holds the claims of messages in work.

    Args:
        is_current: whether a message's partition is still assigned as it was when the message was taken.
    """

    def __init__(self, is_current: Callable[[Message], bool]) -> None:
        self._is_current = is_current
        self._held: dict[_Place, tuple[Message, asyncio.Future[None]]] = {}

    async def begin(
        self, message: Message, begin: Callable[[Message], Awaitable[Done | None]]
    ) -> Done | None:
        """Claim a message's key by `begin`, and hold it.

        Returns:
            The earlier result, for which no claim is held; None where the message is to be run.

        Raises:
            MeshError: what `begin` raises.
        """
        await self.let_go()
        place, runs = _place(message), False
        _, claimant = self._held.setdefault(place, (message, asyncio.get_running_loop().create_future()))
        try:
            with claiming_for(claimant):
                answer = await begin(message)
            runs = answer is None and self._is_current(message)
        finally:
            if not runs:
                self._end(place)
        return answer

    async def let_go(self) -> None:
        """Let the claims go of messages whose partition has gone: others may wait for their keys."""
        for place in [place for place, (held, _) in self._held.items() if not self._is_current(held)]:
            self._end(place)

    def settling(self, carry_out: CarryOut) -> CarryOut:
        """Have a message settled by who holds its claims; they are let go, unless it is tried again in its place."""

        async def settle(message: Message, outcome: Outcome) -> Outcome:
            held = self._held.get(_place(message))
            if held is None:
                return await carry_out(message, outcome)
            try:
                with claiming_for(held[1]):
                    return await carry_out(message, outcome)
            finally:
                if not isinstance(outcome, RetryLater) or outcome.parked:
                    self._end(_place(message))

        return settle

    def _end(self, place: _Place) -> None:
        held = self._held.pop(place, None)
        if held is not None:
            held[1].set_result(None)


def _place(message: Message) -> _Place:
    assert message.record is not None  # only received messages are handled
    return _Place(message.topic, message.partition, message.record.offset, message.epoch)
