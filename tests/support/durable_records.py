"""Records whose acknowledgements are counted, for tests that kill brokers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

TOPIC = "durable"


def client(servers: str, **more: Any) -> dict[str, Any]:
    return {"bootstrap.servers": servers, "log_level": 0, **more}


def create_topic(servers: str, copies: int) -> None:
    admin = AdminClient(client(servers))
    admin.create_topics([NewTopic(TOPIC, 1, copies)])[TOPIC].result(15)


def leader(servers: str) -> int:
    """The broker that leads the topic, once there is one."""
    admin = AdminClient(client(servers))
    while True:
        partition = admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions.get(0)
        if partition is not None and partition.leader > 0:
            return int(partition.leader)


def produce_and_kill(servers: str, kill: Callable[[], None], *, goes_on: bool) -> set[bytes]:
    """Produce with acks=all, kill a broker midway, and give what was acknowledged.

    Args:
        servers: the bootstrap servers.
        kill: kills the broker.
        goes_on: whether other brokers are to take the rest.
    """
    acknowledged: set[bytes] = set()

    def delivered(error: KafkaError | None, message: Any) -> None:
        if error is None:
            acknowledged.add(message.value())

    patience = 60_000 if goes_on else 1_000
    more = {"acks": "all", "linger.ms": 1, "batch.num.messages": 20, "message.timeout.ms": patience}
    producer = Producer(client(servers, **more))
    number = 0
    while len(acknowledged) < 400:
        producer.produce(TOPIC, str(number), on_delivery=delivered)
        number += 1
        producer.poll(0.001)
    for _ in range(200):  # in flight when the broker dies: some of them reach its log, some don't
        producer.produce(TOPIC, str(number), on_delivery=delivered)
        number += 1
    kill()
    producer.flush(patience / 1000 + 5)
    if goes_on:
        assert len(acknowledged) == number, "the other brokers did not take the rest"
    return acknowledged


def stored(servers: str) -> set[bytes]:
    """All values in the topic."""
    consumer = Consumer(client(servers, **{"group.id": "reader", "enable.partition.eof": True}))
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    values: set[bytes] = set()
    try:
        while (message := consumer.poll(30)) is not None:
            error = message.error()
            if error is None:
                values.add(message.value() or b"")
            elif error.code() == KafkaError._PARTITION_EOF:
                return values
    finally:
        consumer.close()
    raise AssertionError("the end of the topic was not reached in 30 s")
