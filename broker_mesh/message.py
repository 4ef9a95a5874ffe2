"""The message: one value that both pipelines pass on, never changed in place.

On the way of a message: made by `client.py` with a body and no bytes (outbound), or by `service.py` and
`replies.py` with bytes and no body (inbound). Each layer hands a copy on, so that attempts share nothing.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Any, NamedTuple

import uuid_utils

from broker_mesh import headers, naming
from broker_mesh.errors import InvalidArgument
from broker_mesh.headers import Envelope, RawHeaders


class Record(NamedTuple):
    """A record as Kafka has it.

    Args:
        topic, partition, offset: where it stands.
        timestamp: epoch ms, by the topic's `message.timestamp.type`; -1 when there is none.
        key, value: bytes; None for none.
        headers: as they arrived, in order.
        unreadable: why the headers could not be read at all; None when they could.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: RawHeaders
    unreadable: str | None = None


class Receipt(NamedTuple):
    """Where Kafka has persisted a message: on all in-sync replicas."""

    topic: str
    partition: int
    offset: int


class Message(NamedTuple):
    """A message on its way through the layers.

    Args:
        topic: the topic it came from or goes to.
        operation: the operation or event it belongs to; differs from `topic` for replies and retries.
        envelope: what its headers say.
        body: the value as the application sees it (a model, a dict); None before it is decoded.
        key, value: bytes on the wire; `value` is None before it is encoded.
        partition: of an inbound record, or a partition that an outbound message must go to; -1 for by key.
        target: what the caller addressed, a declaration or a name; it finds the schemas on the way out.
        record: the record an inbound message was read from; None on the way out.
        epoch: the assignment of its partition that an inbound message was taken in.
        fault: what was malformed in the record's headers; the first check refuses the message with it.
        died: how many of its attempts ended with their process, while the message was the only one in work.
    """

    topic: str
    operation: str
    envelope: Envelope
    body: Any = None
    key: bytes | None = None
    value: bytes | None = None
    partition: int = -1
    target: Hashable = None
    record: Record | None = None
    epoch: int = 0
    fault: InvalidArgument | None = None
    died: int = 0

    @property
    def expects_reply(self) -> bool:
        """Whether a caller waits for an answer, on a topic that is its own: nobody is answered for another."""
        reply_to = self.envelope.reply_to
        return reply_to is not None and reply_to.topic == naming.reply_topic(self.envelope.source)

    def with_envelope(self, **changes: Any) -> Message:
        """Copy the message with some fields of its envelope changed."""
        return self._replace(envelope=self.envelope._replace(**changes))


def received(record: Record, operation: str, epoch: int = 0) -> Message:
    """Make the message of a record read from Kafka; malformed headers become its `fault`, never an exception.

    A record without `ce_id` (a plain Kafka client made it) is named by its place in the log, which is as
    unique and as lasting.
    """
    envelope, fault = headers.read(record.headers)
    if record.unreadable is not None:
        fault = InvalidArgument(record.unreadable)
    if not envelope.id:
        envelope = envelope._replace(id=f"{record.topic}/{record.partition}/{record.offset}")
    return Message(
        topic=record.topic,
        operation=operation,
        envelope=envelope,
        key=record.key,
        value=record.value,
        partition=record.partition,
        record=record,
        epoch=epoch,
        fault=fault,
    )


def was_put_back(record: Record) -> bool:
    """Tell whether a record was put back from a dead letter: then it may be for one consumer group alone."""
    return any(name == headers.REPLAY_ID for name, _ in record.headers)


def is_for(message: Message, group: str | None) -> bool:
    """Tell whether a message is for a consumer group.

    What stands in a topic is for all who read it, but for what was put back for one of them. A retry is for the group
    where it failed, and for nobody else.

    Args:
        message: as it was read.
        group: its name; None for the service's own.
    """
    named, is_retry = message.envelope.group, message.topic != message.operation
    if is_retry:
        return named == group
    return message.envelope.replay_id is None or named in (None, group)


def is_for_service(record: Record, operation: str) -> bool:
    """Tell whether a record is for the service's own group; wrapped consumers of others may share its topics."""
    if record.topic == operation and not was_put_back(record):
        return True
    return is_for(received(record, operation), None)


def new_id() -> str:
    """Make a message id: a UUIDv7 (RFC 9562, section 5.7), so that ids sort by time and tell it."""
    return str(uuid_utils.uuid7())


def id_time(message_id: str) -> int:
    """Tell when a message id was made, in epoch ms: the first 48 bits of a UUIDv7.

    Raises:
        InvalidArgument: it is not a UUIDv7.
    """
    try:
        parsed = uuid_utils.UUID(message_id)
    except ValueError as error:
        raise InvalidArgument(f"message id {message_id[:60]!r} is not a UUID") from error
    if parsed.version != 7:
        raise InvalidArgument(f"message id {message_id!r} is not a UUIDv7: it does not tell its time")
    return int(parsed.int >> 80)


def now_ms() -> int:
    """Tell the wall-clock time in epoch ms; deadlines travel between machines, so no monotonic clock serves."""
    return time.time_ns() // 1_000_000
