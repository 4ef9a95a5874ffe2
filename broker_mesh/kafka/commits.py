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

from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.positions import Partition, Position, Positions, names, partition_of

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0

# This instance is no member of the group, or not as it was when it sent: the partitions may be another's by now. They
# are lost in a moment, and nothing more is committed for them, or it is a member again by the next try.
_NO_MEMBER = frozenset(
    (
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.FENCED_INSTANCE_ID,
    )
)


class Commits:
    """The commits of one consumer; all but `put` is called on its thread.

    Args:
        group: the consumer group.
        assigned: the partitions that are assigned now, each with its epoch; the consumer keeps it up to date.
        healed: called whenever Kafka has taken a commit, at least of some partitions: it takes none of a stranger.
        taken: told of the positions that Kafka has taken, but for those that a newer one has followed meanwhile.
        first_taken: told of partitions on which Kafka has taken a commit, once for each.
    """

    def __init__(
        self,
        group: str,
        assigned: Mapping[Partition, int],
        healed: Callable[[], None],
        taken: Callable[[Positions], None],
        first_taken: Callable[[Collection[Partition]], None],
    ) -> None:
        self._group = group
        self._assigned = assigned
        self._healed = healed
        self._taken = taken
        self._first_taken = first_taken
        self._queue: queue.SimpleQueue[Positions] = queue.SimpleQueue()
        self._ever_taken: set[Partition] = set()
        self._sent: dict[Partition, Position] = {}  # the last commit of each partition that is assigned
        self._failed: set[Partition] = set()
        self._longest_metadata: int | None = (
            None  # that brokers take, where they take less than Kafka's default
        )
        self._again_at = 0.0
        self.open = 0  # sent, and not answered yet
        self.unheard = False  # the last one failed since the coordinator was away, or knew us as no member

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
                # What is said beside an offset may change while the offset stays: of two such, the later one.
                if key not in newest or position[:2] >= newest[key][:2]:
                    newest[key] = position
        self.send_now(consumer, newest)

    def send_now(self, consumer: Consumer, positions: Positions) -> None:
        """Send positions, past what is queued."""
        owned = {
            key: position for key, position in positions.items() if self._assigned.get(key) == position.epoch
        }
        if owned:
            self._sent.update(owned)
            self._send_without_waiting(
                consumer,
                [
                    TopicPartition(*key, position.offset, metadata=self._metadata(position))
                    for key, position in owned.items()
                ],
            )

    def repeat(self, consumer: Consumer) -> None:
        """Send the last commit of each partition once more: Kafka takes it of a member alone."""
        self.send_now(consumer, self._sent.copy())

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
            self._shorten({key: problem for key, problem in problems.items() if problem is not None})
            problem = next(problem for problem in problems.values() if problem is not None)
            logger.warning(
                "a commit of group %s on %s failed: %s; it is tried again%s",
                self._group,
                names(failed),
                problem.str(),
                ", unless they are another instance's by then" if problem.code() in _NO_MEMBER else "",
            )
            away = problem.code() in _NO_MEMBER or translate(problem, "committing").retriable
            self.unheard = away and len(failed) == len(problems)
            self._again_at = time.monotonic() + _AGAIN_SECONDS
            # What was sent last is what is tried again; where it was given up meanwhile, the new owner goes on.
            self._failed |= failed & self._sent.keys()
        else:
            self.unheard = False
        if len(failed) < len(problems):
            self._healed()
        taken = {
            partition_of(place): self._sent[partition_of(place)]
            for place in partitions
            if partition_of(place) not in failed and self._is_last(place)
        }
        if taken:
            self._taken(taken)
        first = problems.keys() - failed - self._ever_taken
        if first:
            self._ever_taken |= first
            self._first_taken(first)

    def _is_last(self, place: TopicPartition) -> bool:
        """Tell whether an answer is to the last commit of a partition that is still assigned."""
        last = self._sent.get(partition_of(place))
        if last is None:
            return False
        # Also as it was sent before brokers said that it was too long for them.
        return place.offset == last.offset and (place.metadata or "") in (last.metadata, self._metadata(last))

    def _metadata(self, position: Position) -> str:
        """Give what goes beside an offset: nothing where brokers would refuse the whole commit for it."""
        longest = self._longest_metadata
        return position.metadata if longest is None or len(position.metadata) <= longest else ""

    def _shorten(self, problems: Mapping[Partition, KafkaError]) -> None:
        """Learn from brokers that take less metadata than Kafka does by default: offsets come first."""
        too_long = [
            len(self._metadata(self._sent[key]))
            for key, problem in problems.items()
            if problem.code() == KafkaError.OFFSET_METADATA_TOO_LARGE and key in self._sent
        ]
        if any(too_long):
            self._longest_metadata = max(too_long) // 2
            logger.warning(
                "the brokers take less than %d characters beside a committed offset: set offset.metadata.max.bytes to "
                "4096 there; until then group %s may handle more records again after a crash",
                max(too_long),
                self._group,
            )

    def _send_without_waiting(self, consumer: Consumer, offsets: list[TopicPartition]) -> None:
        self.open += 1
        consumer.commit(offsets=offsets, asynchronous=True)
