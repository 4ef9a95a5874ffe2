"""The commits of a group's consumer: queued by the loop, sent by its thread, tried again where Kafka refuses them.

On the way of a message: the last step; once Kafka has the offset, the record does not come again. Only what belongs to
an assignment that still holds is sent: the broker would take an older position too, and go back.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Collection, Mapping

from confluent_kafka import Consumer, KafkaError, TopicPartition

from broker_mesh.kafka.positions import Partition, Position, Positions, names, partition_of

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0


class Commits:
    """The commits of one consumer; all but `put` is called on its thread.

    Args:
        group: the consumer group.
        assigned: the partitions that are assigned now, each with its epoch; the consumer keeps it up to date.
        taken: called whenever Kafka has taken a whole commit.
        first_taken: told of partitions on which Kafka has taken a commit, once for each.
    """

    def __init__(
        self,
        group: str,
        assigned: Mapping[Partition, int],
        taken: Callable[[], None],
        first_taken: Callable[[Collection[Partition]], None],
    ) -> None:
        self._group = group
        self._assigned = assigned
        self._taken = taken
        self._first_taken = first_taken
        self._queue: queue.SimpleQueue[Positions] = queue.SimpleQueue()
        self._ever_taken: set[Partition] = set()
        self._sent: dict[Partition, Position] = {}  # the last commit of each partition that is assigned
        self._failed: set[Partition] = set()
        self._again_at = 0.0
        self.open = 0  # sent, and not answered yet

    def put(self, positions: Positions) -> None:
        """Have positions sent soon; from any thread."""
        self._queue.put(positions)

    def send(self, consumer: Consumer, *, all_failed: bool = False) -> None:
        """Send the newest of the positions that are queued, and once a second those whose last commit failed.

        Args:
            consumer: of the group.
            all_failed: whether what failed is sent again at once.
        """
        newest: dict[Partition, Position] = {}
        if self._failed and (all_failed or time.monotonic() >= self._again_at):
            failed, self._failed = self._failed, set()
            newest = {key: self._sent[key] for key in failed if key in self._sent}
        while not self._queue.empty():
            for key, position in self._queue.get_nowait().items():
                newest[key] = max(position, newest.get(key, position))
        self.send_now(consumer, newest)

    def send_now(self, consumer: Consumer, positions: Positions) -> None:
        """Send positions, past what is queued."""
        owned = {
            key: position for key, position in positions.items() if self._assigned.get(key) == position.epoch
        }
        if owned:
            self._sent.update(owned)
            self._send_without_waiting(
                consumer, [TopicPartition(*key, position.offset) for key, position in owned.items()]
            )

    def forget(self, partitions: Collection[Partition]) -> None:
        """Send nothing more of partitions that were given up."""
        for key in partitions:
            self._failed.discard(key)
            self._sent.pop(key, None)

    def answered(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Take Kafka's answer to a commit."""
        self.open -= 1
        if error is not None and error.code() == KafkaError._NO_OFFSET:
            return
        problems = {partition_of(place): place.error or error for place in partitions}
        failed = {key for key, problem in problems.items() if problem is not None}
        if failed:
            logger.warning(
                "a commit of group %s on %s failed: %s; it is tried again",
                self._group,
                names(failed),
                next(problem.str() for problem in problems.values() if problem is not None),
            )
            self._again_at = time.monotonic() + _AGAIN_SECONDS
            # What was sent last is what is tried again; where it was given up meanwhile, the new owner goes on.
            self._failed |= failed & self._sent.keys()
        else:
            self._taken()
        first = problems.keys() - failed - self._ever_taken
        if first:
            self._ever_taken |= first
            self._first_taken(first)

    def _send_without_waiting(self, consumer: Consumer, offsets: list[TopicPartition]) -> None:
        self.open += 1
        consumer.commit(offsets=offsets, asynchronous=True)
