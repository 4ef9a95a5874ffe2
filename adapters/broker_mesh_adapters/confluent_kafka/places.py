"""Partitions, as the mesh and as confluent_kafka name them.

On the way of a message: wherever a wrapped consumer talks with its client of partitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from confluent_kafka import TopicPartition

Partition: TypeAlias = tuple[str, int]


def key(place: TopicPartition) -> Partition:
    """Give the partition that a place is in."""
    return place.topic, place.partition


def keys(partitions: Iterable[TopicPartition]) -> set[Partition]:
    """Give the partitions that places are in."""
    return {(place.topic, place.partition) for place in partitions}


def places(partitions: Iterable[Partition]) -> list[TopicPartition]:
    """Give partitions as the client takes them."""
    return [TopicPartition(topic, number) for topic, number in sorted(partitions)]


def at(offsets: Mapping[Partition, int]) -> list[TopicPartition]:
    """Give offsets of partitions as the client takes them."""
    return [TopicPartition(topic, number, offset) for (topic, number), offset in sorted(offsets.items())]


def moved(place: TopicPartition, to: Partition, offset: int) -> TopicPartition:
    """Give a place of the same metadata elsewhere."""
    if place.metadata is None:
        return TopicPartition(*to, offset)
    return TopicPartition(*to, offset, place.metadata)
