"""What is paused and why: by the program, or by the mesh because it has taken enough of a partition.

On the way of a message: before a wrapped consumer takes more records. The client knows one kind of pause; the two are
kept apart here, so that neither ends the other's.
"""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Consumer as PlainConsumer
from confluent_kafka import TopicPartition

from broker_mesh.adapter import Intake
from broker_mesh_adapters.confluent_kafka.places import Partition, keys, places
from broker_mesh_adapters.confluent_kafka.subscription import Subscription


class Pausing:
    """The paused partitions of one wrapped consumer.

    Args:
        raw: the client.
        intake: what has been taken.
        subscription: what belongs to the program's topics.
    """

    def __init__(self, raw: PlainConsumer, intake: Intake, subscription: Subscription) -> None:
        self._raw = raw
        self._intake = intake
        self._subscription = subscription
        self._assigned: set[Partition] = set()
        self._by_program: set[Partition] = set()
        self._by_mesh: set[Partition] = set()

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Pause on the program's word; the retries of a partition with it."""
        self._raw.pause(partitions)
        paused = self._with_retries(partitions)
        self._raw.pause(places(paused - keys(partitions)))
        self._by_program |= paused
        self._intake.pause(paused)

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Resume on the program's word; what the mesh has paused stays so until that has its own end."""
        resumed = self._with_retries(partitions)
        full = resumed & self._by_mesh
        self._raw.resume([place for place in partitions if (place.topic, place.partition) not in full])
        self._raw.resume(places(resumed - full - keys(partitions)))
        self._by_program -= resumed
        self._intake.resume(resumed)

    def balance(self) -> None:
        """Pause where enough is taken, and resume where that is over."""
        full = self._intake.full
        if full == self._by_mesh:
            return
        self._raw.pause(places(full - self._by_mesh))
        self._raw.resume(places(self._by_mesh - full - self._by_program))
        self._by_mesh = full

    def begin(self, partitions: Iterable[Partition]) -> None:
        """Take note of partitions that are assigned, or sought anew. The client keeps pauses over a rebalance."""
        begun = set(partitions)
        self._assigned |= begun
        self._raw.resume(places((begun & self._by_mesh) - self._by_program))
        self._by_mesh -= begun
        self._intake.pause(begun & self._by_program)

    def end(self, partitions: Iterable[Partition]) -> None:
        """Take note of partitions that have gone."""
        self._assigned -= set(partitions)

    def _with_retries(self, partitions: Iterable[TopicPartition]) -> set[Partition]:
        retries = {(self._subscription.retry_topic(each.topic), each.partition) for each in partitions}
        return keys(partitions) | (retries & self._assigned)
