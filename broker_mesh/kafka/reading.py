"""How far each partition has been read, and what is read once more after a rebalance that came in the midst of a batch.

On the way of a message: beside its delivery by `consumer.py`, on that thread. While librdkafka collects a batch it may
serve a rebalance, which throws away what it has collected of partitions that stay; what it takes for consumed it sets
back to the position. Only that position may stand behind the marker of a transaction by then, which follows the records
that were thrown away: nothing would ever deliver them. So the position is compared with what has been delivered.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from confluent_kafka import Consumer, TopicPartition

from broker_mesh.kafka.positions import Partition, names
from broker_mesh.message import Record

logger = logging.getLogger(__name__)


class Reading:
    """The reading of one consumer; of its thread alone."""

    def __init__(self) -> None:
        self._next: dict[Partition, int] = {}  # behind the last record that was delivered
        self._unsure: set[Partition] = set()  # librdkafka's position says nothing until a record is delivered

    def begin(self, starts: Mapping[Partition, int]) -> None:
        """Note where partitions that were just assigned begin; below 0 for their first record."""
        self._next.update({key: start for key, start in starts.items() if start >= 0})

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions that were given up."""
        for key in partitions:
            self._next.pop(key, None)
            self._unsure.discard(key)

    def delivered(self, batch: Sequence[Record]) -> None:
        """Note records that are delivered; of a partition in order."""
        self._next.update({(record.topic, record.partition): record.offset + 1 for record in batch})
        if self._unsure:
            self._unsure.difference_update((record.topic, record.partition) for record in batch)

    def read_again(self, consumer: Consumer, partitions: Collection[Partition]) -> None:
        """Have partitions be read from behind their last delivered record, where the position is elsewhere.

        Args:
            consumer: has just served a rebalance within a batch, all of which is delivered.
            partitions: all that it has.

        Raises:
            KafkaException: librdkafka can't go back.
        """
        asked = [TopicPartition(*key) for key in partitions if key in self._next]
        ahead = [
            (place.topic, place.partition)
            for place in (consumer.position(asked) if asked else [])
            if place.offset > self._next[place.topic, place.partition]
        ]
        for key in ahead:
            consumer.seek(TopicPartition(*key, self._next[key]))
            self._unsure.add(key)
        if ahead:
            logger.info("%s: read again from where a rebalance came into a batch", names(ahead))

    def certain(self, reached: Mapping[Partition, int]) -> dict[Partition, int]:
        """Leave out positions that librdkafka may have told too early."""
        return {key: offset for key, offset in reached.items() if key not in self._unsure}
