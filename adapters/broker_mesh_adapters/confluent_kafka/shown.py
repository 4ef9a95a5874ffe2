"""Retried messages, which a program sees under their original topic: what its offsets mean for where they really are.

On the way of a message: noted when a wrapped consumer gives a retried message out, asked when the program commits or
seeks. A program that commits knows two facts alone: offsets of a partition rise, and committing one covers all that it
was shown of that partition before.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from broker_mesh.adapter import Delivery, State
from broker_mesh_adapters.confluent_kafka.places import Partition

# More than that many retries that were shown and never committed: older ones are covered when later ones are.
_KEPT = 1000


class _Retried(NamedTuple):
    delivery: Delivery
    after: int  # one above the last offset of the original topic's partition that was shown before it

    @property
    def topic(self) -> str:
        return self.delivery.record.topic

    @property
    def offset(self) -> int:
        return self.delivery.record.offset


class Shown:
    """The retried messages that a program was shown and has not committed."""

    def __init__(self) -> None:
        self._retried: dict[Partition, deque[_Retried]] = {}

    def note(self, delivery: Delivery, after: int) -> None:
        """Note a retried message that is given out.

        Args:
            delivery: of the message.
            after: one above the last offset that was shown of the partition under which the program sees it.
        """
        partition = delivery.topic, delivery.record.partition
        self._retried.setdefault(partition, deque(maxlen=_KEPT)).append(_Retried(delivery, after))

    def place_of(self, partition: Partition, offset: int, *, in_hand: bool = False) -> Partition | None:
        """Tell where a message really is that the program names by what it saw; None where that is its own place.

        Args:
            partition: as the program saw it.
            offset: as the program saw it.
            in_hand: whether only what the program has and has not settled can be meant.
        """
        for retried in reversed(self._retried.get(partition, ())):
            if retried.offset == offset and (
                not in_hand or retried.delivery.state in (State.HANDED, State.HELD)
            ):
                return retried.topic, partition[1]
        return None

    def covered(self, partition: Partition, offset: int) -> dict[Partition, int]:
        """Tell what committing an offset of the original topic's partition covers of its retries, as positions."""
        covered: dict[Partition, int] = {}
        for retried in self._retried.get(partition, ()):
            if retried.after < offset:
                place = retried.topic, partition[1]
                covered[place] = max(covered.get(place, 0), retried.offset + 1)
        return covered

    def all(self) -> dict[Partition, int]:
        """Give the positions that cover everything shown."""
        covered: dict[Partition, int] = {}
        for (_, number), shown in self._retried.items():
            for retried in shown:
                place = retried.topic, number
                covered[place] = max(covered.get(place, 0), retried.offset + 1)
        return covered

    def since(self, partition: Partition, offset: int) -> dict[Partition, int]:
        """Tell where retries begin that were shown once the original topic's partition had come to an offset."""
        begin: dict[Partition, int] = {}
        for retried in self._retried.get(partition, ()):
            if retried.after >= offset:
                place = retried.topic, partition[1]
                begin[place] = min(begin.get(place, retried.offset), retried.offset)
        return begin

    def forget(self, place: Partition, below: int | None = None) -> None:
        """Forget retries that are committed, or whose partition has gone.

        Args:
            place: where they really are.
            below: the committed position; None for all of them.
        """
        for partition, shown in list(self._retried.items()):
            if partition[1] != place[1]:
                continue
            kept = [
                each
                for each in shown
                if each.topic != place[0] or (below is not None and each.offset >= below)
            ]
            if kept:
                self._retried[partition] = deque(kept, maxlen=_KEPT)
            else:
                del self._retried[partition]
