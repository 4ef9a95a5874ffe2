"""What waits for a service: once a second, what it has taken and what its consumer knows become figures.

Beside the way of a message, on the event loop. Of a partition that rests librdkafka learns nothing new, so that Kafka
is asked where it ends: else the lag would stand still just where a handler that hangs makes it grow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from broker_mesh.errors import MeshError
from broker_mesh.telemetry.metrics import Backlog, Metrics, PartitionState

logger = logging.getLogger(__name__)

Partition: TypeAlias = tuple[str, int]

_LOOK_SECONDS = 1.0
_ASK_SECONDS = 5.0


class Taken(NamedTuple):
    """What a service says of a partition that it has.

    Args:
        position: the offset of the first record that is not settled.
        in_work: how many records are taken, not settled, and due.
        oldest: timestamp of the oldest that is taken and not settled, epoch ms; None where there is none.
        held: whether it takes no more, since one record keeps back what is done behind it.
        parked: how many of its keys are parked in the retry topic.
    """

    position: int
    in_work: int
    oldest: int | None
    held: bool
    parked: int = 0


class Seen(NamedTuple):
    """What a consumer says of its partitions.

    Args:
        ends: the offset that the next record gets, of each partition of which that is known.
        paused: those that rest.
        delivered: how many records of each topic have come.
        firsts: the offset of the first record that is kept, of each partition of which that is known.
        windows: how many records of each topic may be in flight.
    """

    ends: Mapping[Partition, int]
    paused: Collection[Partition]
    delivered: Mapping[str, int]
    firsts: Mapping[Partition, int] = MappingProxyType({})
    windows: Mapping[str, int] = MappingProxyType({})


def backlog_of(taken: Mapping[Partition, Taken], seen: Seen, asked: Mapping[Partition, int]) -> list[Backlog]:
    """Put together what waits.

    Args:
        taken: what the service says.
        seen: what its consumer says.
        asked: ends that Kafka was asked for, which count where they are further on.
    """
    backlog = []
    for key, each in taken.items():
        ends = [end for end in (seen.ends.get(key), asked.get(key)) if end is not None]
        state = (
            PartitionState.HELD
            if each.held
            else PartitionState.PAUSED
            if key in seen.paused
            else PartitionState.RUNNING
        )
        # What retention has dropped waits no more, unless it is taken already.
        begins = max(each.position, seen.firsts.get(key, 0))
        lag = max(0, each.in_work, max(ends) - begins) if ends else None
        window = seen.windows.get(key[0])
        backlog.append(Backlog(*key, lag, each.in_work, each.oldest, state, each.parked, window))
    return backlog


class BacklogWatch:
    """Looks again and again.

    Args:
        metrics: told of what is seen.
        taken: tells what the service has taken.
        see: tells what its consumer knows.
        ask_ends: asks Kafka where partitions end.
    """

    def __init__(
        self,
        metrics: Metrics,
        taken: Callable[[], Mapping[Partition, Taken]],
        see: Callable[[], Seen],
        ask_ends: Callable[[Collection[Partition]], Awaitable[Mapping[Partition, int]]],
    ) -> None:
        self._metrics = metrics
        self._taken = taken
        self._see = see
        self._ask_ends = ask_ends
        self._asked: Mapping[Partition, int] = {}
        self._counted: dict[str, int] = {}

    async def run(self) -> None:
        """Look once a second, until it is cancelled; nothing waits for this process from then on."""
        # Beside it: while Kafka is away an answer takes long.
        asking = asyncio.create_task(self._ask_regularly())
        try:
            while True:
                self._look()
                await asyncio.sleep(_LOOK_SECONDS)
        except Exception:
            logger.exception("what waits can't be watched any more; messages are not affected")
        finally:
            asking.cancel()
            self._count(self._see().delivered)
            self._metrics.observe([])

    def _look(self) -> None:
        seen = self._see()
        self._count(seen.delivered)
        self._metrics.observe(backlog_of(self._taken(), seen, self._asked))

    def _count(self, delivered: Mapping[str, int]) -> None:
        for topic, number in delivered.items():
            if number > self._counted.get(topic, 0):
                self._metrics.consumed(topic, number - self._counted.get(topic, 0))
                self._counted[topic] = number

    async def _ask_regularly(self) -> None:
        while True:
            await asyncio.sleep(_ASK_SECONDS)
            await self._ask(self._see().paused)

    async def _ask(self, paused: Collection[Partition]) -> None:
        if not paused:
            self._asked = {}
            return
        try:
            self._asked = await self._ask_ends(paused)
        except MeshError as error:
            logger.debug("Kafka can't be asked where partitions end: %s", error)
