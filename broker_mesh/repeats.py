"""Which records came already: by source and id, for a time, in each partition.

On the way of a message: around its handling. `layers/dedupe.py` asks here whether it is a repeat, and each message is
noted here once it is settled. After an assignment the newest records before its position are read: they are settled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from broker_mesh import turn
from broker_mesh.errors import MeshError
from broker_mesh.exclusion import Exclusion
from broker_mesh.kafka.backward import newest
from broker_mesh.layers.dedupe import Window, identity, may_repeat
from broker_mesh.layers.headers import refuse_malformed
from broker_mesh.layers.identity import refuse_foreign_reply_address
from broker_mesh.message import Message, Record, now_ms, received
from broker_mesh.outcome import Outcome, RetryLater
from broker_mesh.settings import Settings
from broker_mesh.settle import CarryOut

logger = logging.getLogger(__name__)

_MINUTE_MS = 60_000

# What is read after an assignment must not be felt: some tens of milliseconds, and little memory.
_MOST_READ = 1000
_MOST_READ_BYTES = 16 * 1024 * 1024


class _Partition:
    """What came on one partition, within one assignment."""

    def __init__(self, taken: Message, window: Window[str, int]) -> None:
        self.taken = taken  # the first message of the assignment: it tells whether that still holds
        self.settled = window  # with the offset of each
        self.in_work = Exclusion()
        self.filling: asyncio.Task[None] | None = None


class Repeats:
    """What came to one service.

    Args:
        settings: with how long and how many ids are remembered.
        client_id: how brokers name this client.
        settled_below: tells below which offset of a message's partition everything is settled.
        is_current: whether a message's partition is still assigned as it was when the message was taken.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client_id: str,
        settled_below: Callable[[Message], int],
        is_current: Callable[[Message], bool],
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        self._settled_below = settled_below
        self._is_current = is_current
        self._age_ms = round(settings.dedupe_minutes * _MINUTE_MS)
        self._partitions: dict[tuple[str, int], _Partition] = {}

    async def is_repeat(self, message: Message) -> bool:
        """Tell whether another record with a message's identity is settled; waits while one is in work."""
        if self._age_ms == 0:
            return False
        partition = await self._filled(message)
        key, offset = identity(message.envelope), _offset(message)
        while True:
            first = partition.settled.get(key, now_ms())
            if first is not None and first != offset:
                logger.info(
                    "%s %s from %s came already, as offset %d of %s/%d: its repeat at %d is dropped",
                    *(message.operation, message.envelope.id, message.envelope.source or "a plain client"),
                    *(first, message.topic, message.partition, offset),
                )
                return True
            if partition.in_work.take(key, offset):
                return False
            await partition.in_work.over(key)

    def settling(self, carry_out: CarryOut) -> CarryOut:
        """Note a message once its outcome is carried out, or it waits in its retry topic: its repeats are dropped.

        One that waits for its next attempt in place is still in work.
        """

        async def settle(message: Message, outcome: Outcome) -> Outcome:
            became = await carry_out(message, outcome)
            partition = self._partitions.get((message.topic, message.partition))
            waits = isinstance(outcome, RetryLater) and not outcome.parked
            if waits or partition is None or partition.taken.epoch != message.epoch:
                return became
            key, offset = identity(message.envelope), _offset(message)
            if partition.in_work.holds(key, offset):
                partition.settled.add(key, now_ms(), offset)
                partition.in_work.release(key, offset)
            return became

        return settle

    async def _filled(self, message: Message) -> _Partition:
        place = message.topic, message.partition
        partition = self._partitions.get(place)
        if partition is None or partition.taken.epoch < message.epoch:
            for gone in [at for at, other in self._partitions.items() if not self._is_current(other.taken)]:
                del self._partitions[gone]
            partition = _Partition(message, Window(self._age_ms, self._settings.dedupe_ids))
            self._partitions[place] = partition
            partition.filling = asyncio.create_task(self._fill(partition, self._settled_below(message)))
        if partition.filling is not None:
            if not partition.filling.done():
                async with turn.waiting():
                    await asyncio.shield(partition.filling)
            partition.filling = None
        return partition

    async def _fill(self, partition: _Partition, below: int) -> None:
        if below == 0:
            return
        topic, number = partition.taken.topic, partition.taken.partition
        try:
            stretch = await asyncio.to_thread(
                newest,
                self._settings,
                client_id=self._client_id,
                partition=(topic, number),
                end=below,
                since=now_ms() - self._age_ms,
                at_most=min(self._settings.dedupe_ids, _MOST_READ),
                max_bytes=_MOST_READ_BYTES,
                pick=lambda record: _entry(record, partition.taken.operation),
            )
        except MeshError as error:
            # The window is a help, no promise: what waits here must not wait for it.
            logger.warning(
                "what came before on %s/%d can't be read, its repeats are not recognised: %s",
                *(topic, number, error.message),
            )
            return
        for entry in stretch.picked:
            if entry is not None:
                partition.settled.add(*entry)


def _entry(record: Record, operation: str) -> tuple[str, int, int] | None:
    message = received(record, operation)
    try:  # what these refuse never gets as far as dedupe: under its id another may come that is in order
        refuse_foreign_reply_address(refuse_malformed(message))
    except MeshError:
        return None
    # The sender's clock, not ours: one that is ahead would make the window forget all others.
    came_at = min(record.timestamp, now_ms())
    return (identity(message.envelope), came_at, record.offset) if may_repeat(message) else None


def _offset(message: Message) -> int:
    assert message.record is not None  # only received messages have repeats
    return message.record.offset
