"""What a group's consumer knows of its partitions: where they end, whether they are paused, how far they are read.

Beside the way of a message. The consumer's thread looks once a second at what librdkafka has learned with its fetches,
so that nothing is asked of Kafka, and replaces what others read as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TypeAlias

from confluent_kafka import Consumer, KafkaException, TopicPartition

Partition: TypeAlias = tuple[str, int]

_LOOK_SECONDS = 1.0


class Watch:
    """Looked with by the consumer's thread, read by any.

    Attributes:
        ends: the offset that the next record of a partition gets; of a paused one, what it was when it was paused.
            Partitions that nothing has been fetched of are left out.
        firsts: of the same partitions, the offset of the first record that is kept, as far as is known.
        paused: the partitions that rest.
        reached: the offset that each partition is read to, as of the last look: past the last record that was
            delivered, and past the markers of transactions behind it.
    """

    def __init__(self) -> None:
        self.reached: Mapping[Partition, int] = {}
        self.ends: Mapping[Partition, int] = {}
        self.firsts: Mapping[Partition, int] = {}
        self.paused: frozenset[Partition] = frozenset()
        self._looked_at = float("-inf")

    def look(
        self, consumer: Consumer, assigned: Collection[Partition], paused: Collection[Partition]
    ) -> bool:
        """Look, unless it was less than a second ago, and tell so; on the consumer's thread."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return False
        self._looked_at = now
        bounds = {key: found for key in assigned if (found := _bounds(consumer, key)) is not None}
        self.ends = {key: end for key, (_, end) in bounds.items()}
        self.firsts = {key: first for key, (first, _) in bounds.items()}
        self.paused = frozenset(paused)
        self.reached = reached(consumer, assigned)
        return True


def _bounds(consumer: Consumer, partition: Partition) -> tuple[int, int] | None:
    try:
        bounds: tuple[int, int] | None = consumer.get_watermark_offsets(
            TopicPartition(*partition), cached=True
        )
    except KafkaException:
        return None  # it was given up just now
    return None if bounds is None or bounds[1] < 0 else bounds


def reached(consumer: Consumer, partitions: Collection[Partition]) -> dict[Partition, int]:
    """Tell librdkafka's positions, of those partitions that have one; on the consumer's thread."""
    try:
        places = consumer.position([TopicPartition(*key) for key in partitions])
    except KafkaException:
        return {}  # one was given up just now
    return {(place.topic, place.partition): place.offset for place in places if place.offset >= 0}
