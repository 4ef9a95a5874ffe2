"""What Kafka holds at the end of a run, read with a plain consumer: nothing of the mesh is asked.

Of a request only its id is read, the first field of its Avro value: after magic byte and schema id comes the
length of the string as a zigzag varint, then the string (Avro 1.11 specification, "Binary encoding").
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

Partition: TypeAlias = tuple[str, int]

_BATCH = 5000
_PATIENCE_SECONDS = 60.0


class Record(NamedTuple):
    """A request, or a copy of one in a retry or dead-letter topic.

    Args:
        topic, partition, offset: where it stands.
        at: when it was written, in the history's time, ns.
        id: of the request, see `history.py`.
        message: the mesh's id, `ce_id`.
        expects_reply: whether its caller waits for one.
    """

    topic: str
    partition: int
    offset: int
    at: int
    id: str
    message: str
    expects_reply: bool


class Reply(NamedTuple):
    """A reply: when it was written, the mesh's id of its request, and its status by name."""

    at: int
    message: str
    status: str


class Stored(NamedTuple):
    """All that is in the topics of one service and its callers.

    Args:
        requests: in the operations' own topics, by partition in order.
        retries: in the retry topics.
        dead: in the dead-letter topics.
        replies: to the callers.
        committed: the group's positions on operations' and retry topics; where there is none, -1.
        ends: the ends of the same partitions.
    """

    requests: list[Record]
    retries: list[Record]
    dead: list[Record]
    replies: list[Reply]
    committed: Mapping[Partition, int]
    ends: Mapping[Partition, int]

    @property
    def lag(self) -> dict[Partition, int]:
        """How many records of which partitions are not committed."""
        return _lag(self.committed, self.ends)


def read_stored(bootstrap_servers: str, service: str, operations: list[str]) -> Stored:
    """Read everything of a service and its callers.

    Raises:
        TimeoutError: Kafka gives nothing for a minute, though there is more.
    """
    consumer = _open(bootstrap_servers, service)
    try:
        topics = _existing(consumer)
        handled = [name for topic in operations for name in (topic, f"{topic}.retry") if name in topics]
        wanted = [*handled, *(f"{topic}.dead" for topic in operations), f"{service}-callers.replies"]
        stored = Stored([], [], [], [], *_positions(consumer, topics, handled))
        ends = _ends(
            consumer, [(topic, n) for topic in wanted if topic in topics for n in range(topics[topic])]
        )
        skew = time.time_ns() - time.monotonic_ns()
        for message in _all(consumer, ends):
            _sort_in(stored, message, skew)
    finally:
        consumer.close()
    return stored


def wait_until_settled(
    bootstrap_servers: str, service: str, operations: list[str], patience: float
) -> dict[Partition, int]:
    """Wait until the group has committed everything, so many seconds at most; give what is left, by partition."""
    consumer = _open(bootstrap_servers, service)
    try:
        until = time.monotonic() + patience
        while True:
            topics = _existing(consumer)
            handled = [name for topic in operations for name in (topic, f"{topic}.retry") if name in topics]
            left = _lag(*_positions(consumer, topics, handled))
            if not left or time.monotonic() >= until:
                return left
            time.sleep(0.25)
    finally:
        consumer.close()


def _open(bootstrap_servers: str, group: str) -> Consumer:
    """Open a consumer that reads a group's offsets and never joins it."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )


def _existing(consumer: Consumer) -> dict[str, int]:
    """Tell which topics there are, with how many partitions."""
    topics = consumer.list_topics(timeout=_PATIENCE_SECONDS).topics
    return {name: len(topic.partitions) for name, topic in topics.items()}


def _positions(
    consumer: Consumer, topics: Mapping[str, int], handled: list[str]
) -> tuple[dict[Partition, int], dict[Partition, int]]:
    partitions = [(topic, number) for topic in handled for number in range(topics[topic])]
    if not partitions:
        return {}, {}
    committed = consumer.committed([TopicPartition(*key) for key in partitions], timeout=_PATIENCE_SECONDS)
    return (
        {(place.topic, place.partition): max(place.offset, -1) for place in committed},
        _ends(consumer, partitions),
    )


def _ends(consumer: Consumer, partitions: list[Partition]) -> dict[Partition, int]:
    return {
        key: consumer.get_watermark_offsets(TopicPartition(*key), timeout=_PATIENCE_SECONDS)[1]
        for key in partitions
    }


def _lag(committed: Mapping[Partition, int], ends: Mapping[Partition, int]) -> dict[Partition, int]:
    return {key: end - max(committed[key], 0) for key, end in ends.items() if end > max(committed[key], 0)}


def _all(consumer: Consumer, ends: Mapping[Partition, int]) -> Iterator[Message]:
    """Read partitions from their beginning to the given ends."""
    left = {key for key, end in ends.items() if end > 0}
    if not left:
        return
    consumer.assign([TopicPartition(*key, OFFSET_BEGINNING) for key in left])
    heard = time.monotonic()
    while left:
        for message in consumer.consume(_BATCH, 0.2):
            if message.error() is None:
                heard = time.monotonic()
                yield message
        # By position: behind the last record there may be the marker of a transaction.
        for place in consumer.position([TopicPartition(*key) for key in left]):
            if place.offset >= ends[place.topic, place.partition]:
                left.discard((place.topic, place.partition))
        if time.monotonic() - heard > _PATIENCE_SECONDS:
            raise TimeoutError(f"Kafka gave nothing more of {sorted(left)} for {_PATIENCE_SECONDS:g} s")


def _sort_in(stored: Stored, message: Message, skew: int) -> None:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    raw = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    headers = {name: value.decode() for name, value in raw if value is not None}
    at = message.timestamp()[1] * 1_000_000 - skew
    if topic.endswith("-callers.replies"):
        stored.replies.append(Reply(at, headers["mesh-correlation-id"], headers.get("mesh-status", "OK")))
        return
    value = message.value()
    assert value is not None
    record = Record(
        topic, partition, offset, at, first_text(value), headers["ce_id"], "mesh-reply-to" in headers
    )
    kind = topic.rpartition(".")[2]
    {"retry": stored.retries, "dead": stored.dead}.get(kind, stored.requests).append(record)


def first_text(value: bytes) -> str:
    """Read the first field of a record in Confluent's wire format, which must be a string."""
    length, shift, at = 0, 0, 5
    while True:
        byte = value[at]
        length |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            break
    return value[at : at + (length >> 1)].decode()
