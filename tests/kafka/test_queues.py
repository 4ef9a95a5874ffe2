"""What `mesh check` sees of a service from elsewhere: out of its group's commits, and of what stands in its topics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from pydantic import BaseModel

from broker_mesh import Context, Mesh, Operation, Retry
from broker_mesh.cli.connection import connect
from broker_mesh.cli.inventory import details
from broker_mesh.cli.queues import read_groups, read_queues
from broker_mesh.control.queues import Queue
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Unavailable
from broker_mesh.settings import Settings
from tests.support.fleet import make_mesh
from tests.support.names import fresh

PATIENCE = 60.0


class Ask(BaseModel):
    key: str


class Answer(BaseModel):
    key: str


class Watched:
    """A service whose handler does as it is told, and what is seen of it from elsewhere."""

    def __init__(self, servers: str) -> None:
        self.name = fresh("watched")
        self.ask = Operation(f"{self.name}.v1.ask", request=Ask, reply=Answer, key="key")
        self.released = asyncio.Event()
        self.fails = False
        self._servers = servers
        self.connection = connect(make_mesh("looker", servers).settings)

    def mesh(self, **settings: Any) -> Mesh:
        mesh = make_mesh(self.name, self._servers, partitions=2, **settings)

        @mesh.operation(self.ask, retry=Retry(attempts=20, backoff=0.2, max_backoff=0.5))
        async def handle(request: Ask, context: Context) -> Answer:
            if self.fails:
                raise Unavailable("the registry is away")
            await self.released.wait()
            return Answer(key=request.key)

        return mesh

    async def queue(self) -> Queue | None:
        groups = [found for found in await read_groups(self.connection) if found.group.name == self.name]
        queues = await read_queues(self.connection, groups)
        assert len(queues) <= 1
        return queues[0] if queues else None

    async def until(self, holds: Callable[[Queue], bool]) -> Queue:
        seen = None
        try:
            async with asyncio.timeout(PATIENCE):
                while (seen := await self.queue()) is None or not holds(seen):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pytest.fail(f"last seen: {seen}")
        return seen


async def test_what_waits_and_what_is_in_flight_is_seen_whether_the_service_runs_or_not(
    kafka: EmbeddedKafka,
) -> None:
    watched = Watched(kafka.bootstrap_servers)
    async with make_mesh(fresh("caller"), kafka.bootstrap_servers) as caller:
        async with watched.mesh(grace_seconds=0.1).serving() as service:
            await service.joined()
            handles = [await caller.call(watched.ask, Ask(key=f"k{number}")) for number in range(6)]
            seen = await watched.until(lambda queue: queue.in_flight == 6)
            assert (seen.members, seen.waiting, seen.circuit, seen.parked) == (1, 6, "closed", 0)
            assert seen.oldest is not None
        handles += [await caller.call(watched.ask, Ask(key=f"k{number}")) for number in range(3)]
        stopped = await watched.until(lambda queue: queue.members == 0)
        assert (stopped.waiting, stopped.in_flight, stopped.oldest) == (9, 0, seen.oldest)
        watched.released.set()
        async with watched.mesh().serving():
            await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
            done = await watched.until(lambda queue: queue.waiting == 0 and queue.in_flight == 0)
    assert done.oldest is None


async def test_the_marker_of_a_transaction_is_committed_past_and_looks_like_no_lag(
    kafka: EmbeddedKafka,
) -> None:
    """Retention takes a marker as it takes records: a commit that stays before one would look like records lost."""
    watched = Watched(kafka.bootstrap_servers)
    async with watched.mesh().serving() as service:
        await service.joined()
        producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": watched.name})
        producer.init_transactions(30)
        for _ in range(2):
            producer.begin_transaction()
            producer.produce(watched.ask.name, b"not Avro: it becomes a dead letter", partition=0)
            producer.commit_transaction(30)
        await watched.until(lambda queue: queue.waiting == 0)
    group = await asyncio.to_thread(committed, watched.connection.settings, watched.name, watched.ask.name)
    assert group == {0: 4}


def committed(settings: Settings, group: str, topic: str) -> dict[int, int]:
    """Read what a group has committed on a topic of two partitions, where it has."""
    consumer = Consumer({"bootstrap.servers": settings.bootstrap_servers, "group.id": group})
    try:
        places = consumer.committed([TopicPartition(topic, number) for number in range(2)], timeout=30)
        return {place.partition: place.offset for place in places if place.offset >= 0}
    finally:
        consumer.close()


async def test_an_open_circuit_is_seen_from_elsewhere(kafka: EmbeddedKafka) -> None:
    watched = Watched(kafka.bootstrap_servers)
    watched.released.set()
    watched.fails = True
    async with (
        watched.mesh(outage_keys=5).serving() as service,
        make_mesh(fresh("caller"), kafka.bootstrap_servers) as caller,
    ):
        await service.joined()
        handles = [await caller.call(watched.ask, Ask(key=f"k{number}")) for number in range(12)]
        seen = await watched.until(lambda queue: queue.circuit == "open")
        assert seen.waiting == 12
        (group,) = (await details(watched.connection, watched.ask.name))["groups"]
        assert (group["queue"]["circuit"], group["queue"]["waiting"]) == ("open", 12)
        watched.fails = False
        await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
        await watched.until(lambda queue: queue.circuit != "open" and queue.waiting == 0)
