"""Requests that wait: copies of those that a caller has sent, written as fast as a plain producer can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from benchmarks.processes import BenchmarkFailed
from broker_mesh import headers
from broker_mesh.message import new_id

_PATIENCE_SECONDS = 60.0
_OWN_IDS = frozenset({headers.CE_ID, headers.CORRELATION_ID})


def newest(bootstrap_servers: str, topic: str, count: int) -> list[Message]:
    """Read about so many records from the ends of a topic's partitions, as many of each as it has.

    Raises:
        BenchmarkFailed: they can't be read.
    """
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "newest", "enable.auto.commit": False}
    )
    found: list[Message] = []
    try:
        partitions = consumer.list_topics(topic, timeout=_PATIENCE_SECONDS).topics[topic].partitions
        starts = []
        for number in partitions:
            place = TopicPartition(topic, number)
            low, high = consumer.get_watermark_offsets(place, timeout=_PATIENCE_SECONDS)
            place.offset = max(low, high - math.ceil(count / len(partitions)))
            starts.append((place, high - place.offset))
        consumer.assign([place for place, _ in starts])
        wanted = sum(records for _, records in starts)
        while len(found) < wanted:
            more = consumer.consume(wanted - len(found), _PATIENCE_SECONDS / 10)
            if not more:
                raise BenchmarkFailed(f"Of {topic}, {len(found)} of {wanted} requests could be read.")
            found += more
    finally:
        consumer.close()
    return found


def write_copies(bootstrap_servers: str, messages: Sequence[Message], count: int) -> None:
    """Write so many requests, each one of those given, with ids of its own where it has any.

    Raises:
        BenchmarkFailed: Kafka has not taken all of them.
    """
    refused: list[Any] = []

    def reported(error: Any, _: Message) -> None:
        if error is not None:
            refused.append(error)

    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 50,
            "batch.num.messages": 10_000,
            "on_delivery": reported,
        }
    )
    for number in range(count):
        original = messages[number % len(messages)]
        while True:
            try:
                producer.produce(
                    original.topic() or "",
                    original.value(),
                    original.key(),
                    partition=original.partition() or 0,
                    headers=renamed(headers_of(original)),
                )
            except BufferError:
                producer.poll(0.1)
            else:
                break
        producer.poll(0)
    if producer.flush(_PATIENCE_SECONDS) or refused:
        raise BenchmarkFailed(
            f"Kafka has not taken all copies: {refused[0] if refused else 'it is too slow'}."
        )


def headers_of(message: Message) -> list[tuple[str, Any]]:
    """Give a record's headers in order; those that are read are a list, whatever the type says of those to write."""
    given = message.headers() or []
    return list(given.items() if isinstance(given, dict) else given)


def renamed(given: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Give a request's headers with another id: what has an id that was seen before is dropped by the mesh."""
    identity = new_id().encode()
    return [(name, identity if name in _OWN_IDS else value) for name, value in given]


def length(admin: AdminClient, topic: str) -> int:
    """Tell how many records a topic has been given, all partitions together.

    Raises:
        BenchmarkFailed: Kafka does not tell.
    """
    try:
        partitions = admin.list_topics(topic, timeout=_PATIENCE_SECONDS).topics[topic].partitions
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked: dict[TopicPartition, Any] = dict.fromkeys(
            (TopicPartition(topic, number) for number in partitions), latest
        )
        return sum(found.result(_PATIENCE_SECONDS).offset for found in admin.list_offsets(asked).values())
    except KafkaException as error:
        raise BenchmarkFailed(f"The length of {topic} can't be read: {error}") from error
