"""Plain and wrapped clients on one topic and in one group: upgrades roll either way, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

from broker_mesh import Mesh
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Unavailable
from broker_mesh_adapters.aiokafka import AIOKafkaConsumer
from broker_mesh_adapters.confluent_kafka import Consumer, Producer
from tests.support.fleet import make_mesh
from tests.support.names import fresh
from tests.support.wrapped_program import WrappedProgram

PATIENCE = 60.0


async def until(holds: Any) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.02)


class Member:
    """One consumer of a group, plain or wrapped, in a thread of its own; notes which numbers it was given."""

    def __init__(self, make: Callable[[dict[str, Any]], Any], servers: str, group: str, topic: str) -> None:
        self.handled: list[int] = []
        self._consumer = make(
            {
                "bootstrap.servers": servers,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "auto.commit.interval.ms": 200,
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 200,
            }
        )
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="member")
        self._thread.start()

    def _run(self) -> None:
        self._consumer.subscribe([self._topic])
        while not self._stop.is_set():
            message = self._consumer.poll(0.05)
            if message is not None and message.error() is None:
                self.handled.append(int(message.value()))
        self._consumer.close()

    async def leave(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, PATIENCE)
        assert not self._thread.is_alive()


class Stream:
    """Numbers that a plain and a wrapped producer write in turn, keyed, until it is ended."""

    def __init__(self, servers: str, mesh: Mesh, topic: str) -> None:
        self.sent = 0
        self._topic = topic
        self._stop = threading.Event()
        conf = {"bootstrap.servers": servers, "linger.ms": 0}
        self._producers = (confluent_kafka.Producer(conf), Producer(conf, mesh=mesh))
        self._thread = threading.Thread(target=self._run, name="stream")
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            producer = self._producers[self.sent % 2]
            producer.produce(self._topic, str(self.sent).encode(), f"k{self.sent % 17}".encode())
            producer.poll(0)
            self.sent += 1

    async def end(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, PATIENCE)
        for producer in self._producers:
            assert await asyncio.to_thread(producer.flush, 30) == 0
        self._producers[1].close()


async def make_topic(servers: str, topic: str, partitions: int = 4) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    made = admin.create_topics([NewTopic(topic, partitions)])[topic]
    await asyncio.to_thread(made.result, 30)


async def test_a_group_goes_from_plain_to_wrapped_members_and_back_and_loses_nothing(
    kafka: EmbeddedKafka,
) -> None:
    servers, topic, group = kafka.bootstrap_servers, fresh("legacy_orders"), fresh("orders-group")
    await make_topic(servers, topic)
    stream = Stream(servers, make_mesh(fresh("shop"), servers), topic)
    wrapping = make_mesh(fresh("orders"), servers)

    def wrapped(conf: dict[str, Any]) -> Consumer:
        return Consumer(conf, mesh=wrapping)

    everybody: list[Member] = []
    staying: list[Member] = []
    for make in (
        confluent_kafka.Consumer,
        confluent_kafka.Consumer,
        wrapped,
        wrapped,
        confluent_kafka.Consumer,
    ):
        joined = await asyncio.to_thread(Member, make, servers, group, topic)
        everybody.append(joined)
        await until(lambda joined=joined: len(joined.handled) >= 10)
        if len(staying) == 2:
            await staying.pop(0).leave()
        staying.append(joined)
    await stream.end()
    await until(lambda: {number for each in everybody for number in each.handled} == set(range(stream.sent)))
    for member in staying:
        await member.leave()


async def test_wrapped_members_of_both_clients_share_one_group(kafka: EmbeddedKafka) -> None:
    servers, topic, service = kafka.bootstrap_servers, fresh("legacy_orders"), fresh("orders")
    await make_topic(servers, topic)
    mesh = make_mesh(service, servers)
    confluent: list[tuple[int, int]] = []
    aio: list[tuple[int, int]] = []
    attempts: list[int] = []

    def handle(message: Any) -> None:
        attempts.append(message.attempt)
        if message.attempt == 1 and int(message.value()) % 10 == 0:
            raise Unavailable("once")
        confluent.append((message.partition(), int(message.value())))

    consumer = AIOKafkaConsumer(topic, mesh=mesh, group_id=service, auto_offset_reset="earliest")
    stream = Stream(servers, mesh, topic)
    async with WrappedProgram(mesh, [topic], handle, service):
        await consumer.start()
        try:
            await until_shared(consumer, aio, confluent)
            await stream.end()
            async with asyncio.timeout(PATIENCE):
                while {number for _, number in confluent + aio} != set(range(stream.sent)):
                    await take(consumer, aio)
        finally:
            await consumer.stop()
    assert set(attempts) == {1, 2}


async def until_shared(consumer: Any, aio: list[tuple[int, int]], confluent: list[tuple[int, int]]) -> None:
    """Until both have handled something that came after the other had joined."""
    async with asyncio.timeout(PATIENCE):
        while not aio:
            await take(consumer, aio)
        before = len(confluent)
        while len(confluent) < before + 10 or len(aio) < 10:
            await take(consumer, aio)


async def take(consumer: Any, handled: list[tuple[int, int]]) -> None:
    for messages in (await consumer.getmany(timeout_ms=100)).values():
        handled += [(message.partition, int(message.value)) for message in messages]
