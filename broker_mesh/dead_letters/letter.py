"""One dead letter, and what the name of its topic tells.

On the way of a message: behind its end. Pure: a record of a dead-letter topic becomes what people look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from broker_mesh import naming
from broker_mesh.errors import InvalidArgument
from broker_mesh.headers import Envelope, Place
from broker_mesh.message import Record, received

_SUFFIX = naming.dead_topic("")


class Source(NamedTuple):
    """Where the records of a dead-letter topic failed.

    Args:
        topic: of the dead letters.
        stem: what the topic is named after: an operation, or a subscription.
        operation: the operation, the event, or the other programs' topic that is subscribed to.
        subscriber: the service whose subscription it is; None for an operation.
    """

    topic: str
    stem: str
    operation: str
    subscriber: str | None

    @property
    def service(self) -> str:
        """The service that failed."""
        return naming.owner(self.topic)

    @property
    def target(self) -> str:
        """Where a replay puts its records back: for a subscription the topic that it alone consumes."""
        return self.operation if self.subscriber is None else naming.retry_topic(self.stem)


def source_of(topic: str) -> Source | None:
    """Take apart the name of a dead-letter topic; None for any other topic."""
    stem = topic.removesuffix(_SUFFIX)
    if stem == topic:
        return None
    if naming.is_target(stem):
        return None if naming.is_event(stem) else Source(topic, stem, stem, None)
    subscription = naming.parse_subscription(stem)
    if subscription is None:
        return None
    return Source(topic, stem, subscription.source, subscription.service)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that failed for good.

    Args:
        place: where it stands: topic, partition and offset of the dead letter itself.
        record: as Kafka has it: the original's key, bytes and headers, and the facts of the failure behind them.
        envelope: what its headers say; its `id` is the original's.
        source: where it failed.
        body: its value as plain JSON; None where it can't be decoded or was not asked for.
        problem: why it can't be decoded.
        fault: what is malformed in its headers.
    """

    place: Place
    record: Record
    envelope: Envelope
    source: Source
    body: Any = None
    problem: str | None = None
    fault: InvalidArgument | None = None

    @property
    def operation(self) -> str:
        """The operation, or the event."""
        return self.source.operation

    @property
    def subscriber(self) -> str | None:
        """The service of the subscription that failed; None for an operation."""
        return self.source.subscriber

    @property
    def partition(self) -> tuple[str, int]:
        """Topic and number of the partition where it stands."""
        return self.place.topic, self.place.partition

    @property
    def first_failure(self) -> int:
        """When the first attempt failed, epoch ms; when it was kept, where its headers don't say."""
        first = self.envelope.first_failure
        return self.last_failure if first is None else first

    @property
    def last_failure(self) -> int:
        """When the last attempt failed, epoch ms; when it was kept, where its headers don't say."""
        last = self.envelope.last_failure
        return self.record.timestamp if last is None else last


def letter_of(record: Record, source: Source) -> DeadLetter:
    """Make the dead letter of a record of a dead-letter topic, its body not decoded yet.

    A record without `ce_id` was known by its place in the log, and still is.
    """
    place = Place(record.topic, record.partition, record.offset)
    message = received(record, source.operation)
    envelope = message.envelope
    if envelope.id == str(place) and envelope.origin is not None:
        envelope = envelope._replace(id=str(envelope.origin))
    return DeadLetter(place, record, envelope, source, fault=message.fault)
