"""One partition of a wrapped consumer, from its assignment until it is revoked, lost or sought anew.

On the way of a message: kept by `intake.py`, as `assignment.py` is for native services. What belongs to an earlier
assignment of the same partition is told by its epoch.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from broker_mesh.assignment import Waiting
from broker_mesh.kafka.offsets import OffsetTracker
from broker_mesh.kafka.positions import Partition
from broker_mesh.message import Record

OpenT = TypeVar("OpenT")


class Holding(Generic[OpenT]):
    """One partition in one assignment.

    Args:
        partition: which.
        epoch: tells this assignment from earlier ones.

    Attributes:
        tracker: which of its records are settled.
        open: what was handed over, or is about to be, and is not settled; by offset.
        waiting: records of a retry topic that are not due yet, by offset.
        settling: how many outcomes are being made durable.
        moving: how many records that are not due are being written again, to the end of their topic.
        given: one above the last offset that the program was given; None before it was given any.
        is_over: whether the assignment has ended.
    """

    __slots__ = (
        "_committed",
        "epoch",
        "given",
        "is_over",
        "moving",
        "open",
        "partition",
        "settling",
        "tracker",
        "waiting",
    )

    def __init__(self, partition: Partition, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.tracker = OffsetTracker(0)  # begins with the first record that is taken
        self.open: dict[int, OpenT] = {}
        self.waiting: dict[int, Waiting] = {}
        self.settling = 0
        self.moving = 0
        self.given: int | None = None
        self.is_over = False
        self._committed: int | None = None  # the last offset that `committable` told

    def take(self, record: Record) -> bool:
        """Note that a record is taken; tell whether it is new."""
        try:
            self.tracker.take(record.offset, record.timestamp)
        except ValueError:
            return False  # delivered twice within one assignment: it is in work, or done
        if self._committed is None:
            self._committed = record.offset  # there is nothing to say before something is settled
        return True

    def give(self, offset: int) -> None:
        """Note that the program was given a record."""
        self.given = max(offset + 1, self.given or 0)

    @property
    def is_settling(self) -> bool:
        """Whether something is being made durable."""
        return bool(self.settling or self.moving)

    def unfinished(self, in_hand: int) -> int:
        """Tell how many records are taken and not settled, or run again after a crash now.

        Args:
            in_hand: so many of them are the program's until it polls on, and don't count.
        """
        tracker = self.tracker
        return tracker.pending - len(self.waiting) - in_hand + tracker.beyond

    def committable(self) -> int | None:
        """Give the end of the settled prefix, where it has moved since this was asked before."""
        if self._committed is None or self.tracker.position == self._committed:
            return None
        self._committed = self.tracker.position
        return self._committed

    def allowed(self, wanted: int) -> int:
        """Give the offset that may be committed where the program wants one: never past what is not settled."""
        return min(wanted, self.tracker.position) if self.tracker.pending else wanted
