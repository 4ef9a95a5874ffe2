"""SIGKILL of a broker loses no record that was acknowledged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from broker_mesh.dev.cluster import EmbeddedKafka

TOPIC = "durable"


def client(kafka: EmbeddedKafka, **more: Any) -> dict[str, Any]:
    return {"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0, **more}


def create_topic(kafka: EmbeddedKafka) -> int:
    """Make the topic with as many copies as there are brokers; the broker that leads it."""
    admin = AdminClient(client(kafka))
    copies = len(kafka.state.brokers)
    admin.create_topics([NewTopic(TOPIC, 1, copies)])[TOPIC].result(15)
    return leader(kafka)


def leader(kafka: EmbeddedKafka) -> int:
    admin = AdminClient(client(kafka))
    while True:
        partition = admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions.get(0)
        if partition is not None and partition.leader > 0:
            return int(partition.leader)


def produce_and_kill(kafka: EmbeddedKafka, victim: int, first: int, *, goes_on: bool) -> set[bytes]:
    """Produce with acks=all, kill a broker midway, and give what was acknowledged.

    Args:
        kafka: the Kafka.
        victim: the broker to kill.
        first: the number of the first record.
        goes_on: whether the other brokers are to take the rest.
    """
    acknowledged: set[bytes] = set()

    def delivered(error: KafkaError | None, message: Any) -> None:
        if error is None:
            acknowledged.add(message.value())

    patience = 60_000 if goes_on else 1_000
    more = {"acks": "all", "linger.ms": 1, "batch.num.messages": 20, "message.timeout.ms": patience}
    producer = Producer(client(kafka, **more))
    number = first
    while len(acknowledged) < 400:
        producer.produce(TOPIC, str(number), on_delivery=delivered)
        number += 1
        producer.poll(0.001)
    for _ in range(200):  # in flight when the broker dies: some of them reach its log, some don't
        producer.produce(TOPIC, str(number), on_delivery=delivered)
        number += 1
    kafka.kill(victim)
    producer.flush(patience / 1000 + 5)
    if goes_on:
        assert len(acknowledged) == number - first, "the other brokers did not take the rest"
    return acknowledged


def stored(kafka: EmbeddedKafka) -> set[bytes]:
    """All values in the topic."""
    consumer = Consumer(client(kafka, **{"group.id": "reader", "enable.partition.eof": True}))
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    values: set[bytes] = set()
    try:
        while (message := consumer.poll(30)) is not None:
            error = message.error()
            if error is None:
                values.add(message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                return values
    finally:
        consumer.close()
    raise AssertionError("the end of the topic was not reached in 30 s")


def test_kill_and_start_again(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "kafka", attached=True) as kafka:
        create_topic(kafka)
        acknowledged = produce_and_kill(kafka, 1, 0, goes_on=False)
        assert kafka.state.running == []
        before = kafka.bootstrap_servers
        kafka.start()
        assert kafka.bootstrap_servers == before
        assert acknowledged - stored(kafka) == set()


def test_one_of_three_brokers_is_killed(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "kafka", brokers=3, ephemeral=True, attached=True) as kafka:
        first = create_topic(kafka)
        acknowledged = produce_and_kill(kafka, first, 0, goes_on=True)
        assert leader(kafka) != first
        assert acknowledged - stored(kafka) == set()
        kafka.restart_broker(first)
        assert len(kafka.state.running) == 3
        second = leader(kafka)
        acknowledged |= produce_and_kill(kafka, second, 100_000, goes_on=True)
        assert acknowledged - stored(kafka) == set()
    assert not kafka.directory.exists()
