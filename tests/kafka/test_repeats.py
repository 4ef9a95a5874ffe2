"""Records that come twice, on a real Kafka: the second is dropped, and what only looks like one is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from confluent_kafka import Producer
from pydantic import BaseModel

from broker_mesh import Context, Mesh, Operation, Receipt
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.headers import Place, RawHeaders
from broker_mesh.kafka.backward import newest
from broker_mesh.kafka.reader import record_at
from broker_mesh.kafka.table import make_table_topic
from broker_mesh.message import Record
from broker_mesh.settings import Settings
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import make_mesh
from tests.support.names import fresh

PATIENCE = 40.0


class Note(BaseModel):
    key: str
    text: str


@pytest.fixture
async def caller(kafka: EmbeddedKafka) -> AsyncIterator[Mesh]:
    async with make_mesh("dispatch", kafka.bootstrap_servers) as mesh:
        yield mesh


class Notes:
    """A one-way operation that remembers what it was given, and a producer that repeats records."""

    def __init__(self, kafka: EmbeddedKafka) -> None:
        self.operation: Operation[Note, None] = Operation(
            f"{fresh('notes')}.v1.note", request=Note, key="key"
        )
        self.handled: asyncio.Queue[str] = asyncio.Queue()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self._kafka = kafka
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})

    def serve(self) -> Mesh:
        mesh = make_mesh(self.operation.name.split(".")[0], self._kafka.bootstrap_servers)

        @mesh.operation(self.operation)
        async def handle(request: Note, context: Context) -> None:
            self.handled.put_nowait(request.text)
            if request.text != "last":
                await self.goes_on.wait()

        return mesh

    async def next(self) -> str:
        async with asyncio.timeout(PATIENCE):
            return await self.handled.get()

    def repeat(
        self, receipt: Receipt, more: RawHeaders | None = None, key: bytes | None = None, value: bytes = b""
    ) -> Record:
        """Write a record once more, as a producer that sends twice or a mirror would."""
        settings = Settings(bootstrap_servers=self._kafka.bootstrap_servers)
        record = record_at(settings, client_id="test", place=Place(*receipt))
        assert record is not None
        self._producer.produce(
            record.topic,
            key=key or record.key,
            value=value or record.value,
            headers=[*record.headers, *(more or [])],
            partition=record.partition,
        )
        assert self._producer.flush(20) == 0
        return record


@pytest.fixture
def notes(kafka: EmbeddedKafka) -> Notes:
    return Notes(kafka)


async def test_a_repeat_is_dropped_and_its_replay_runs(notes: Notes, caller: Mesh) -> None:
    async with notes.serve().serving():
        receipt = await caller.send(notes.operation, Note(key="k", text="first"))
        assert await notes.next() == "first"
        notes.repeat(receipt)
        notes.repeat(receipt, [("mesh-replay-id", b"replay-1")])
        notes.repeat(receipt, [("mesh-replay-id", b"replay-1")])
        await caller.send(notes.operation, Note(key="k", text="last"))
        assert [await notes.next() for _ in range(2)] == ["first", "last"]


async def test_a_repeat_waits_for_the_first_that_is_in_work(notes: Notes, caller: Mesh) -> None:
    async with notes.serve().serving():
        notes.goes_on.clear()
        receipt = await caller.send(notes.operation, Note(key="k", text="first"))
        assert await notes.next() == "first"
        notes.repeat(receipt, key=b"other")  # another lane: its key is not the first's
        notes.repeat(receipt, [("mesh-replay-id", b"replay-1")], key=b"third")
        assert await notes.next() == "first"  # the replay, taken after the repeat
        notes.goes_on.set()
        await caller.send(notes.operation, Note(key="k", text="last"))
        assert await notes.next() == "last"
    assert notes.handled.empty()  # stopped in order: nothing is in work any more


async def test_a_repeat_is_known_after_a_restart(notes: Notes, caller: Mesh) -> None:
    async with notes.serve().serving():
        receipt = await caller.send(notes.operation, Note(key="k", text="first"))
        assert await notes.next() == "first"
    notes.repeat(receipt)
    await caller.send(notes.operation, Note(key="k", text="last"))
    async with notes.serve().serving():
        assert await notes.next() == "last"


async def test_what_is_read_after_an_assignment_is_bounded_in_bytes_too(kafka: EmbeddedKafka) -> None:
    settings, topic = Settings(bootstrap_servers=kafka.bootstrap_servers), fresh("large")
    await asyncio.to_thread(make_table_topic, settings, topic, client_id="test")
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number in range(200):
        producer.produce(topic, key=b"%d" % number, value=bytes(10_000), partition=0)
    assert producer.flush(20) == 0

    def read(max_bytes: int) -> list[int]:
        stretch = newest(
            settings,
            client_id="test",
            partition=(topic, 0),
            since=0,
            at_most=150,
            max_bytes=max_bytes,
            pick=lambda record: record.offset,
        )
        assert stretch.end == 200
        return stretch.picked

    assert await asyncio.to_thread(read, 10_000_000) == list(range(50, 200))
    few = await asyncio.to_thread(read, 300_000)
    assert few == list(range(few[0], 200))  # the newest
    assert 30 <= len(few) < 40


async def test_the_same_record_comes_again_where_it_was_not_settled(notes: Notes, caller: Mesh) -> None:
    notes.goes_on.clear()
    unsettled = make_mesh(notes.operation.name.split(".")[0], notes._kafka.bootstrap_servers, grace_seconds=0)

    @unsettled.operation(notes.operation)
    async def handle(request: Note, context: Context) -> None:
        notes.handled.put_nowait(request.text)
        await notes.goes_on.wait()

    async with unsettled.serving():
        await caller.send(notes.operation, Note(key="k", text="first"))
        assert await notes.next() == "first"
    notes.goes_on.set()
    async with notes.serve().serving():
        assert await notes.next() == "first"


async def test_what_ended_as_a_dead_letter_is_not_kept_twice(
    notes: Notes, caller: Mesh, dead_letters: DeadLetters
) -> None:
    async with notes.serve().serving():
        receipt = await caller.send(notes.operation, Note(key="k", text="first"))
        assert await notes.next() == "first"
        poison: RawHeaders = [("ce_id", b"poison-1")]  # of a repeated name the last counts
        notes.repeat(receipt, poison, value=b"no Avro")
        await dead_letters.next(notes.operation.name)
        notes.repeat(receipt, poison, value=b"no Avro")
        await caller.send(notes.operation, Note(key="k", text="last"))
        assert await notes.next() == "last"
    assert len(await asyncio.to_thread(dead_letters.all, notes.operation.name)) == 1
