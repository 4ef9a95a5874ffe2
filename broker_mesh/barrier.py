"""Where a grown topic's new partitions begin: behind the barrier, which is where its old ones ended.

On the way of a message: before it, where a partition has just been assigned. More partitions move keys: what was sent
with a key before the growth stands in an old partition, what is sent after it in a new one. Order by key holds when a
group begins with a new partition only after it has handled what came before. Pure: `kafka/growth.py` keeps the records
of growths, `kafka/crossing.py` asks how far a group is, and `newcomers.py` holds partitions meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

Partition: TypeAlias = tuple[str, int]


class Growth(NamedTuple):
    """A topic's growth by the mesh, as it is recorded before the topic grows.

    Args:
        topic: an operation's or event's.
        topic_id: tells it from one that was deleted and made anew under the same name (KIP-516).
        before, after: how many partitions it had, and how many it gets.
        ends: of each old partition, the offset behind its last record once all producers knew of the new ones: the
            barrier. None until it is known; a growth that was broken off has none.
    """

    topic: str
    topic_id: str
    before: int
    after: int
    ends: Mapping[int, int] | None = None

    @property
    def command(self) -> str:
        """What finishes it, when it was broken off."""
        return f"mesh topics grow {self.topic} --partitions {self.after}"

    def barrier(self) -> dict[Partition, int]:
        """Give the offsets that a group has to reach in the old partitions; none of a growth without ends."""
        return {(self.topic, number): end for number, end in (self.ends or {}).items()}


def growth_of(partition: Partition, growths: Iterable[Growth]) -> Growth | None:
    """Find the growth that added a partition; None where none did: it has been there from the start, or was added
    by other means.

    A topic that grew twice has two, and each partition waits for those that were there before it.
    """
    topic, number = partition
    for growth in growths:
        if growth.topic == topic and growth.before <= number < growth.after:
            return growth
    return None


def remaining(barrier: Mapping[Partition, int], reached: Mapping[Partition, int]) -> int:
    """Count the offsets that a group has before it up to a barrier; 0: it is past it.

    Args:
        barrier: the offset that is to be reached in each partition.
        reached: below which offset of each partition nothing is left to handle; 0 where it is left out.
    """
    return sum(max(0, end - reached.get(partition, 0)) for partition, end in barrier.items())


def keeps_order(before: int, after: int) -> bool:
    """Tell whether a key stays where it is or moves to a new partition, when their number grows.

    Clients choose a key's partition by its hash modulo the number of partitions. From 2 to 3, a key of hash 3 moves
    from partition 1 to 0, among records that are in work there, where no barrier can be drawn. From n to a multiple
    of n, each key's old partition is its new one modulo n.
    """
    return after % before == 0
