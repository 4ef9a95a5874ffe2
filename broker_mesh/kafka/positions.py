"""Where a group's consumer stands: partitions, and offsets that hold for one assignment of them.

On the way of a message: what the consumer's thread and the service tell each other of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from confluent_kafka import TopicPartition

Partition: TypeAlias = tuple[str, int]

NOTHING_COMMITTED = -1


class Position(NamedTuple):
    """An offset within one assignment of a partition.

    Args:
        epoch: counts assignments; what belongs to an earlier one is never committed.
        offset: where reading starts (`NOTHING_COMMITTED` for the first record that is kept), or what is to be
            committed.
        metadata: what is kept beside the committed offset (`progress.py`), at most 4,095 UTF-16 units.
    """

    epoch: int
    offset: int
    metadata: str = ""


Positions: TypeAlias = Mapping[Partition, Position]


def partition_of(place: TopicPartition) -> Partition:
    """Give the partition that librdkafka means."""
    return place.topic, place.partition


def places(partitions: Iterable[Partition]) -> list[TopicPartition]:
    """Give partitions as librdkafka takes them."""
    return [TopicPartition(topic, partition) for topic, partition in sorted(partitions)]


def names(partitions: Iterable[Partition]) -> str:
    """Name partitions for people."""
    return ", ".join(f"{topic}/{partition}" for topic, partition in sorted(partitions))
