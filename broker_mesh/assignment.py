"""Assignments: one partition, from the moment it is this instance's to the moment it is not any more.

On the way of a message: made by `service.py` when the group gives a partition; `lanes.py` and `waiting.py` note in it
what becomes of its records.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Any, NamedTuple

from broker_mesh.kafka.consumer import NOTHING_COMMITTED, Partition, Position
from broker_mesh.kafka.offsets import OffsetTracker
from broker_mesh.message import Record
from broker_mesh.turn import Turn


class Waiting(NamedTuple):
    """A record of a retry topic that is not due yet.

    Args:
        due: epoch ms.
        record: as it came.
        size: of its key, value and headers, bytes.
        source: what it came with; None where nothing did.
    """

    due: int
    record: Record
    size: int
    source: Any = None


class Assignment:
    """One partition in one assignment; the epoch tells it from earlier ones.

    Args:
        partition: which.
        start: with the epoch, and where reading starts.
    """

    def __init__(self, partition: Partition, start: Position) -> None:
        self.partition = partition
        self.epoch = start.epoch
        self.tracker = OffsetTracker(max(start.offset, 0))
        self.lanes: dict[Hashable, deque[Record]] = {}
        self.waiting: dict[int, Waiting] = {}  # by offset, ascending but for what was given back
        self.tasks: set[asyncio.Task[None]] = set()
        self.turns: set[Turn] = set()
        self.draining = asyncio.Event()  # start nothing more
        self.relieving = False  # what waits at the front is being written again
        self.in_flight = 0  # what the consumer counts as taken and not finished
        self.moved = False  # the position has grown since it was last committed
        # Where nothing is committed there is nothing to say before the position has grown.
        self.committable = start.offset != NOTHING_COMMITTED

    @property
    def in_work(self) -> int:
        """How many records are taken, not settled, and due."""
        return self.tracker.pending - len(self.waiting)

    def take(self, record: Record) -> bool:
        """Note that a record is taken; tell whether it is new."""
        try:
            self.tracker.take(record.offset, record.timestamp)
        except ValueError:
            return False  # delivered twice within one assignment: it is in work, or done
        return True

    def done(self, offset: int) -> None:
        """Note that a record is settled."""
        if self.tracker.done(offset):
            self.moved = self.committable = True

    def end(self) -> int:
        """Fence everything that is still in work; tell how many records that is."""
        self.draining.set()
        for turn in self.turns:
            turn.fenced = True
        for task in self.tasks:
            task.cancel()
        given_back, self.in_flight = self.in_flight, 0
        return given_back
