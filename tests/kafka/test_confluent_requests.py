"""A wrapped consumer in the mesh's own world: requests of native callers, models, values that don't fit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import confluent_kafka
import pytest

from broker_mesh import Operation, Retry
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import FailedPrecondition, NotFound
from broker_mesh_adapters.confluent_kafka import Consumer
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import Aircraft, FindAircraft, Retire, make_mesh
from tests.support.names import fresh


class Desk:
    """A service that handles its requests with a wrapped consumer, in a thread."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.service = fresh("desk")
        self.find = Operation(
            f"{self.service}.v1.find-aircraft", request=FindAircraft, reply=Aircraft, key="tailnum"
        )
        self.retire = Operation(f"{self.service}.v1.retire", request=Retire, key="tailnum")
        self.handled: list[tuple[str, int]] = []
        conf = {
            "bootstrap.servers": bootstrap_servers,
            "group.id": self.service,
            "auto.offset.reset": "earliest",
        }
        self._consumer = Consumer(
            conf,
            mesh=make_mesh(self.service, bootstrap_servers),
            declared=[self.find, self.retire],
            retry=Retry(attempts=3, backoff=0.05),
        )
        self._consumer.subscribe([self.find.name, self.retire.name])
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._stopped.is_set():
            message: Any = self._consumer.poll(0.2)
            if message is None:
                continue
            assert message.error() is None
            with message.settling():
                self._handle(message)

    def _handle(self, message: Any) -> None:
        self.handled.append((message.data.tailnum, message.attempt))
        match message.data:
            case FindAircraft(tailnum="unknown"):
                raise NotFound("no such aircraft")
            case FindAircraft(tailnum="later") if message.attempt == 1:
                raise ConnectionError("the database is away")
            case FindAircraft(tailnum=tailnum):
                message.reply(Aircraft(tailnum=tailnum, seats=message.attempt))

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._consumer.close()


@pytest.fixture
def desk(kafka: EmbeddedKafka) -> Iterator[Desk]:
    started = Desk(kafka.bootstrap_servers)
    yield started
    started.close()


async def test_requests_are_answered(kafka: EmbeddedKafka, desk: Desk) -> None:
    async with make_mesh(fresh("caller"), kafka.bootstrap_servers) as caller:
        found, later = await asyncio.gather(
            caller.request(desk.find, FindAircraft(tailnum="N1"), timeout=30),
            caller.request(desk.find, FindAircraft(tailnum="later"), timeout=30),
        )
        assert (found, later) == (Aircraft(tailnum="N1", seats=1), Aircraft(tailnum="later", seats=2))
        with pytest.raises(NotFound, match="no such aircraft"):
            await caller.request(desk.find, FindAircraft(tailnum="unknown"), timeout=30)


async def test_what_does_not_fit_is_kept_and_polling_goes_on(
    kafka: EmbeddedKafka, desk: Desk, dead_letters: DeadLetters
) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(desk.retire.name, b"no magic byte", b"N1")
    producer.produce(desk.retire.name, b"\x00\x7f\xff\xff\xff rest", b"N1")
    producer.flush()
    async with make_mesh(fresh("caller"), kafka.bootstrap_servers) as caller:
        await caller.send(desk.retire, Retire(tailnum="N1"))
        letters = [await dead_letters.next(desk.retire.name) for _ in range(2)]
        assert {letter.value for letter in letters} == {b"no magic byte", b"\x00\x7f\xff\xff\xff rest"}
        async with asyncio.timeout(30):
            while ("N1", 1) not in desk.handled:
                await asyncio.sleep(0.02)


async def test_a_request_waits_for_its_reply_and_is_not_committed_over(kafka: EmbeddedKafka) -> None:
    service = fresh("desk")
    find = Operation(f"{service}.v1.find-aircraft", request=FindAircraft, reply=Aircraft, key="tailnum")
    conf = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "group.id": service,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }

    def open_consumer() -> Consumer:
        consumer = Consumer(conf, mesh=make_mesh(service, kafka.bootstrap_servers), declared=[find])
        consumer.subscribe([find.name])
        return consumer

    with await asyncio.to_thread(open_consumer) as consumer:
        async with make_mesh(fresh("caller"), kafka.bootstrap_servers) as caller:
            handle = await caller.call(find, FindAircraft(tailnum="N1"))
            message = None
            while message is None:
                message = await asyncio.to_thread(consumer.poll, 1.0)
            assert await asyncio.to_thread(consumer.poll, 0.2) is None
            with pytest.raises(FailedPrecondition, match="waits for a reply"):
                consumer.commit()
            await asyncio.to_thread(message.reply, {"tailnum": "N1", "seats": 3, "handled_by": 0})
            assert await handle.reply(30) == Aircraft(tailnum="N1", seats=3)
            await asyncio.to_thread(consumer.commit, message, asynchronous=False)
