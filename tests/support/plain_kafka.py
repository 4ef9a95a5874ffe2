"""Kafka as programs without the mesh see it: topics made and read with confluent_kafka alone."""

from __future__ import annotations

from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.names import fresh

_OF_THE_MESH = ("mesh-", "ce_", "traceparent", "tracestate", "baggage")
_PATIENCE = 30.0


class PlainRecord(NamedTuple):
    """A record as it stands, its headers apart: the program's, and those that the mesh has added."""

    partition: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: list[tuple[str, bytes | None]]
    added: dict[str, bytes | None]


class PlainKafka:
    """A client of the session's Kafka.

    Args:
        bootstrap_servers: its addresses.
    """

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})

    def make_topic(self, stem: str = "legacy", partitions: int = 2, **config: str) -> str:
        """Make a topic that no other test uses, of a name that is none of the mesh's."""
        topic = fresh(stem).replace("-", "_")
        made = self._admin.create_topics([NewTopic(topic, partitions, 1, config=config)])
        made[topic].result(_PATIENCE)
        return topic

    def exists(self, topic: str) -> bool:
        return topic in self._admin.list_topics(timeout=_PATIENCE).topics

    def read(self, topic: str) -> list[PlainRecord]:
        """All committed records of a topic, partition by partition."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": fresh("plain-reader"),
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
            }
        )
        try:
            partitions = consumer.list_topics(topic, timeout=_PATIENCE).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
            left, records = set(partitions), []
            while left:
                message = consumer.poll(_PATIENCE)
                assert message is not None, f"no end of {topic} within {_PATIENCE} s"
                error = message.error()
                if error is None:
                    records.append(_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise AssertionError(error)
        finally:
            consumer.close()
        return sorted(records, key=lambda record: record.partition)


def _record(message: Any) -> PlainRecord:
    headers = message.headers() or []
    return PlainRecord(
        message.partition(),
        message.key(),
        message.value(),
        message.timestamp()[1],
        [(name, value) for name, value in headers if not name.startswith(_OF_THE_MESH)],
        {name: value for name, value in headers if name.startswith(_OF_THE_MESH)},
    )
