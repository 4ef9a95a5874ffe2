"""The order in which a wrapped consumer's records go to the program: by arrival, less what has to wait.

On the way of a message: `intake.py` puts in what the client has delivered, and what is due for another attempt, and
takes out what may be checked and handed over next. No clock, no threads, no Kafka.

Every record has the number of its arrival, and keeps it over all attempts. What has to wait (its lane is blocked, the
program has paused its partition) is put aside, and comes back under its number: so no order of blocking, pausing,
freeing and resuming lets a record overtake an earlier one of its lane.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Hashable, Iterable
from typing import Any, NamedTuple

from broker_mesh.kafka.positions import Partition
from broker_mesh.message import Message, Record


class Taken(NamedTuple):
    """A record on its way to the program, for one attempt.

    Args:
        number: of its arrival.
        record: as Kafka has it.
        source: the client's own message.
        operation: the topic that the program subscribed to.
        lane: records of one lane go one after the other; None for none.
        epoch: the assignment of its partition that it was taken in.
        again: the message as it is for a further attempt in place; None for the first.
    """

    number: int
    record: Record
    source: Any
    operation: str
    lane: Hashable
    epoch: int
    again: Message | None = None

    @property
    def partition(self) -> Partition:
        """Where it was read from."""
        return self.record.topic, self.record.partition


class _Lane:
    """A blocked lane: the record that blocks it, and what waits behind that."""

    __slots__ = ("behind", "holder")

    def __init__(self, holder: Taken) -> None:
        self.holder = holder
        self.behind: list[Taken] = []


class Queue:
    """What one consumer has taken and the program has not got."""

    def __init__(self) -> None:
        self._ready: list[tuple[int, Taken]] = []  # a heap by number
        self._lanes: dict[Hashable, _Lane] = {}
        self._paused: dict[Partition, list[Taken]] = {}

    def __bool__(self) -> bool:
        return bool(self._ready)

    def put(self, taken: Taken) -> None:
        """Put a record in."""
        heapq.heappush(self._ready, (taken.number, taken))

    def next(self, exclude: Collection[Hashable] = ()) -> Taken | None:
        """Take out the first record that need not wait; None where all do.

        Args:
            exclude: lanes of which nothing may go now.
        """
        excluded: list[Taken] = []
        found: Taken | None = None
        while self._ready and found is None:
            taken = heapq.heappop(self._ready)[1]
            lane = self._lanes.get(taken.lane)
            if lane is not None and lane.holder.record is not taken.record:
                lane.behind.append(taken)
            elif (paused := self._paused.get(taken.partition)) is not None:
                paused.append(taken)
            elif taken.lane is not None and taken.lane in exclude:
                excluded.append(taken)
            else:
                found = taken
        for taken in excluded:
            self.put(taken)
        return found

    def block(self, taken: Taken) -> None:
        """Have all later records of a record's lane wait for it, unless they wait for an earlier one already."""
        if taken.lane is not None and taken.lane not in self._lanes:
            self._lanes[taken.lane] = _Lane(taken)

    def free(self, taken: Taken) -> bool:
        """Let what waits behind a record go, where it blocks its lane; tell whether anything did."""
        lane = self._lanes.get(taken.lane)
        return lane is not None and lane.holder.record is taken.record and self._free(taken.lane)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Let nothing more of partitions go, until they are resumed."""
        for partition in partitions:
            self._paused.setdefault(partition, [])

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Let records of partitions go again."""
        for partition in partitions:
            for taken in self._paused.pop(partition, ()):
                self.put(taken)

    def is_paused(self, partition: Partition) -> bool:
        """Tell whether a partition is paused."""
        return partition in self._paused

    def drop(self, partitions: Collection[Partition]) -> None:
        """Forget everything of partitions; they are not paused any more."""
        for partition in partitions:
            self._paused.pop(partition, None)
        self._ready = [each for each in self._ready if each[1].partition not in partitions]
        heapq.heapify(self._ready)
        for key, lane in list(self._lanes.items()):
            lane.behind = [taken for taken in lane.behind if taken.partition not in partitions]
            if lane.holder.partition in partitions:
                self._free(key)

    def _free(self, lane: Hashable) -> bool:
        behind = self._lanes.pop(lane).behind
        for taken in behind:
            self.put(taken)
        return bool(behind)
