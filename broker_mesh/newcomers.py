"""Newcomers: partitions on which the group has never committed, held until it is known that nothing comes before them.

On the way of a message: between the consumer and the lanes, once in the life of a partition. Where a topic was grown
(`barrier.py`), the new partition is handled when the group has handled what stands before the barrier in the old ones;
each group finds that out by itself, also one that begins years later. What was there from the start is let go at the
first look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

from broker_mesh.assignment import Assignment
from broker_mesh.barrier import Growth, growth_of
from broker_mesh.errors import MeshError
from broker_mesh.kafka.admin import Admin
from broker_mesh.kafka.crossing import Crossing, Ways
from broker_mesh.kafka.groups import Groups
from broker_mesh.kafka.positions import NOTHING_COMMITTED, Partition, Position
from broker_mesh.message import Record
from broker_mesh.seldom import Seldom
from broker_mesh.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_TELL_AGAIN_SECONDS = 600.0


class Way(Protocol):
    """A group's way past one growth; `kafka/crossing.py` has the real one."""

    @property
    def growth(self) -> Growth:
        """Which."""

    async def left(self) -> int | None:
        """Count what is left before the barrier; 0: the group is past it, None: that can't be known yet."""


class Survey(NamedTuple):
    """Where a service learns of growths.

    Args:
        growths: reads those of some topics.
        way: gives the service's group's way past one.
    """

    growths: Callable[[Collection[str]], Awaitable[Collection[Growth]]]
    way: Callable[[Growth], Way]


def survey(
    settings: Settings,
    *,
    client_id: str,
    group: str,
    admin: Admin,
    groups: Groups,
    retry_topics: Mapping[str, str],
) -> Survey:
    """Make what asks Kafka on behalf of a service.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        group: the service's.
        admin: describes topics.
        groups: asks about partitions and groups.
        retry_topics: by operation or event, where its records wait for another attempt.
    """
    ways = Ways(settings, client_id, admin, groups)
    return Survey(ways.growths, lambda growth: Crossing(growth, group, retry_topics[growth.topic], ways))


class Newcomers:
    """The new partitions of one service; on its event loop.

    Args:
        ordered: the topics whose partitions are held: operations and events of which records wait for each other.
        survey: learns of growths.
        begin: takes the records of partitions that are let go, which came before the consumer stopped taking more, in
            order; and has the consumer take more.
        broken: told of a bug of the mesh: what was being done, and the bug.
    """

    def __init__(
        self,
        ordered: Collection[str],
        survey: Survey,
        begin: Callable[[list[Record]], None],
        broken: Callable[[str, Exception], None],
    ) -> None:
        self._ordered = frozenset(ordered)
        self._survey = survey
        self._begin = begin
        self._broken = broken
        self._held: dict[Partition, Assignment] = {}
        self._kept: dict[Partition, list[Record]] = {}
        self._ways: dict[tuple[str, int], Way] = {}
        self._telling = Seldom(_TELL_AGAIN_SECONDS, most=100)
        self._arrived = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    @property
    def held(self) -> Collection[Partition]:
        """The partitions that are not handled yet."""
        return self._held.keys()

    def assigned(self, assignment: Assignment, start: Position) -> None:
        """Hold a partition that has just been assigned, where it may be new."""
        topic, number = assignment.partition
        # Number 0 was there from the start. Where the group has committed, it has passed the barrier before.
        if topic not in self._ordered or number == 0 or start.offset != NOTHING_COMMITTED:
            return
        self._held[assignment.partition] = assignment
        self._kept[assignment.partition] = []
        self._arrived.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_regularly(), name="mesh-newcomers")

    def keep(self, assignment: Assignment, record: Record) -> bool:
        """Keep a record of a partition that is held; False where it is not."""
        if self._held.get(assignment.partition) is not assignment:
            return False
        self._kept[assignment.partition].append(record)
        return True

    def forget(self, assignment: Assignment) -> None:
        """Forget a partition that is given up, with what was kept of it."""
        if self._held.get(assignment.partition) is assignment:
            del self._held[assignment.partition], self._kept[assignment.partition]

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look_regularly(self) -> None:
        try:
            while self._held:
                self._arrived.clear()
                await self._look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS if self._held else 0):
                        await self._arrived.wait()
        except Exception as bug:  # noqa: BLE001 - it is told; what is held would be held for ever
            self._broken("looking for what comes before new partitions", bug)

    async def _look(self) -> None:
        """Let go of what nothing comes before. What can't be found out stays held."""
        looked_at = dict(self._held)
        try:
            growths = await self._survey.growths({topic for topic, _ in looked_at})
            behind = {partition: growth_of(partition, growths) for partition in looked_at}
            added = {
                (growth.topic, growth.before): growth for growth in behind.values() if growth is not None
            }
            waits = {place for place, growth in added.items() if await self._waits(growth)}
        except MeshError as error:
            self._tell(
                "unknown",
                logging.WARNING,
                "new partitions wait until it is known what comes before them: %s",
                error,
            )
            return
        # A way remembers what it has found out; what nothing waits for any more is looked at anew the next time.
        self._ways = {place: way for place, way in self._ways.items() if place in waits}
        records: list[Record] = []
        for partition, growth in behind.items():
            assignment = looked_at[partition]
            # It may have been given up meanwhile, and have come back.
            if self._held.get(partition) is assignment and (
                growth is None or (growth.topic, growth.before) not in waits
            ):
                if growth is not None:
                    logger.info("%s/%d begins: what came before it is handled", *partition)
                del self._held[partition]
                records += self._kept.pop(partition)
        self._begin(records)

    async def _waits(self, growth: Growth) -> bool:
        """Tell whether the group has something left to handle before what a growth has added."""
        if growth.ends is None:
            self._tell(
                f"unfinished: {growth.command}",
                logging.WARNING,
                "the new partitions of %s wait, since its growth is not finished; if it was broken off, '%s' goes on",
                *(growth.topic, growth.command),
            )
            return True
        place = growth.topic, growth.before
        way = self._ways.get(place)
        if way is None or way.growth != growth:
            way = self._ways[place] = self._survey.way(growth)
        left = await way.left()
        if left != 0:
            self._tell(
                f"behind: {growth.command}",
                logging.INFO,
                "the new partitions of %s wait until what came before them is handled",
                growth.topic,
            )
        return left != 0

    def _tell(self, what: str, level: int, sentence: str, *facts: object) -> None:
        """Log something, but not with each look."""
        if self._telling.is_due(what):
            logger.log(level, sentence, *facts)
