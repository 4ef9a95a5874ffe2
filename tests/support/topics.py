"""Topics as they stand on Kafka: what tests count and change."""

from __future__ import annotations

import asyncio
import threading

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.reader import end_offset, open_consumer, scan
from broker_mesh.message import Message, received
from broker_mesh.settings import Settings


class Topics:
    def __init__(self, bootstrap_servers: str) -> None:
        self._servers = bootstrap_servers
        self._settings = Settings(bootstrap_servers=bootstrap_servers)

    async def read(self, topic: str, partitions: int = 6) -> list[Message]:
        """All records of a topic, partition by partition."""
        return await asyncio.to_thread(self._read, topic, partitions)

    def _read(self, topic: str, partitions: int) -> list[Message]:
        consumer = open_consumer(self._settings, "test", OutageLog("test"))
        try:
            ends = {(topic, number): end_offset(consumer, topic, number) for number in range(partitions)}
        finally:
            consumer.close()
        records = scan(self._settings, client_id="test", partitions=ends, since=None, stop=threading.Event())
        return [received(record, topic) for record in records]

    async def limit_message_bytes(self, topic: str, size: int) -> None:
        """Have the broker refuse what is larger: a topic that is full, to whoever writes."""
        admin = AdminClient({"bootstrap.servers": self._servers})
        entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        for future in admin.incremental_alter_configs([resource]).values():
            await asyncio.to_thread(future.result, 10)

    async def create(self, topic: str, partitions: int) -> None:
        """Make a topic by other means than the mesh's."""
        admin = AdminClient({"bootstrap.servers": self._servers})
        for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            await asyncio.to_thread(future.result, 10)

    async def committed(self, group: str, topic: str, partition: int) -> int:
        """The group's position; below 0 where it has none."""
        admin = AdminClient({"bootstrap.servers": self._servers})
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition)])
        (future,) = admin.list_consumer_group_offsets([asked]).values()
        answer = await asyncio.to_thread(future.result, 10)
        return int(answer.topic_partitions[0].offset)

    async def settled(self, group: str, topic: str, partitions: int = 6) -> int:
        """How many records of a topic, of which none was dropped yet, lie before the group's positions."""
        found = [await self.committed(group, topic, number) for number in range(partitions)]
        return sum(max(0, offset) for offset in found)


def delete_records(bootstrap_servers: str, topic: str, partition: int, before: int) -> None:
    """Drop the records before an offset, as retention does."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.delete_records([TopicPartition(topic, partition, before)]).values():
        future.result(10)
