"""How far each partition has been read, and what is read once more after a rebalance that came in the midst of a batch.

On the way of a message: beside its delivery by `consumer.py`, on that thread. While librdkafka collects a batch it may
serve a rebalance, which throws away what it has collected of partitions that stay; what it takes for consumed it sets
back to the position. Only that position may stand behind the marker of a transaction by then, which follows the records
that were thrown away: nothing would ever deliver them. So the position is compared with what has been delivered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from broker_mesh.kafka.positions import Partition, names
from broker_mesh.message import Record

logger = logging.getLogger(__name__)

_OVERTAKEN: Final = (KafkaError._OUTDATED, KafkaError._PREV_IN_PROGRESS)
"""librdkafka begins with the next rebalance at the same moment, on its own thread; that is over at once."""

_TRIES: Final = 10
_PAUSE_SECONDS: Final = 0.01


class Reading:
    """The reading of one consumer; of its thread alone."""

    def __init__(self) -> None:
        self._next: dict[Partition, int] = {}  # behind the last record that was delivered
        self._stale: dict[Partition, int] = {}  # what librdkafka says of an earlier assignment

    def begin(self, starts: Mapping[Partition, int], found: Mapping[Partition, int]) -> None:
        """Note where partitions that were just assigned begin.

        Args:
            starts: their offsets, below 0 for their first record.
            found: librdkafka's positions, where it has any before anything is read: a rebalance that came while it
                collected a batch can leave one behind from an earlier assignment, and its records were dropped.
        """
        self._stale.update(found)
        self._next.update({key: start if start >= 0 else OFFSET_BEGINNING for key, start in starts.items()})

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions that were given up."""
        for key in partitions:
            self._next.pop(key, None)
            self._stale.pop(key, None)

    def certain(self, reached: Mapping[Partition, int]) -> dict[Partition, int]:
        """Give those of librdkafka's positions that are of this assignment."""
        return {key: offset for key, offset in reached.items() if self._stale.get(key) != offset}

    def delivered(self, batch: Sequence[Record]) -> None:
        """Note records that are delivered; of a partition in order."""
        self._next.update({(record.topic, record.partition): record.offset + 1 for record in batch})
        if self._stale:
            for record in batch:
                self._stale.pop((record.topic, record.partition), None)

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
            _seek(consumer, TopicPartition(*key, self._next[key]))
        if ahead:
            logger.info("%s: read again from where a rebalance came into a batch", names(ahead))


def _seek(consumer: Consumer, place: TopicPartition) -> None:
    """Go back; waits, and takes the position back: from here on that tells again what is read."""
    for remaining in reversed(range(_TRIES)):
        try:
            consumer.seek(place)
            break
        except KafkaException as error:
            if not remaining or error.args[0].code() not in _OVERTAKEN:
                raise
        time.sleep(_PAUSE_SECONDS)
