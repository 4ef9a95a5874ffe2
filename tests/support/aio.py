"""aiokafka's clients, plain and wrapped, made alike, so that one test can be run over both."""

from __future__ import annotations

import asyncio
from typing import Any

import aiokafka
from confluent_kafka.admin import AdminClient, NewTopic

import broker_mesh_adapters.aiokafka as wrapped
from broker_mesh import Mesh
from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.fleet import make_mesh
from tests.support.names import fresh


class Plain:
    """aiokafka's own."""

    def __init__(self, kafka: EmbeddedKafka) -> None:
        self._servers = kafka.bootstrap_servers

    def producer(self, **options: Any) -> Any:
        return aiokafka.AIOKafkaProducer(bootstrap_servers=self._servers, **options)

    def consumer(self, *topics: str, **options: Any) -> Any:
        return aiokafka.AIOKafkaConsumer(*topics, bootstrap_servers=self._servers, **_quick(options))


class Wrapped:
    """Ours, of one service."""

    def __init__(self, kafka: EmbeddedKafka, **settings: Any) -> None:
        self.mesh: Mesh = make_mesh(fresh("svc"), kafka.bootstrap_servers, **settings)

    def producer(self, **options: Any) -> wrapped.AIOKafkaProducer:
        return wrapped.AIOKafkaProducer(mesh=self.mesh, **options)

    def consumer(self, *topics: str, **options: Any) -> wrapped.AIOKafkaConsumer:
        return wrapped.AIOKafkaConsumer(*topics, mesh=self.mesh, **_quick(options))


def _quick(options: dict[str, Any]) -> dict[str, Any]:
    """Read from the beginning, and have rebalances not take a heartbeat of 3 s."""
    return {
        "auto_offset_reset": "earliest",
        "heartbeat_interval_ms": 200,
        "fetch_max_wait_ms": 100,
        **options,
    }


async def make_topic(kafka: EmbeddedKafka, partitions: int = 1) -> str:
    """A topic of no service's, as there are before the mesh."""
    name = fresh("legacy")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    future = admin.create_topics([NewTopic(name, partitions, 1)])[name]
    await asyncio.to_thread(future.result, 10)
    return name


async def fill(kafka: EmbeddedKafka, topic: str, count: int, partitions: int = 1) -> None:
    """Messages 0, 1, 2 … of a plain producer, dealt to the partitions in turn."""
    async with Plain(kafka).producer() as producer:
        sent = [
            await producer.send(topic, b"%d" % n, b"k%d" % n, n % partitions, headers=[("n", b"%d" % n)])
            for n in range(count)
        ]
        await asyncio.gather(*sent)


async def take(consumer: Any, count: int) -> list[Any]:
    return [await asyncio.wait_for(consumer.getone(), 30) for _ in range(count)]
