"""Rebalances and crashes under a wrapped aiokafka consumer: nothing is lost, and keys keep their order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRebalanceListener, TopicPartition

from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Aborted
from tests.support.aio import Plain, Wrapped, fill, make_topic, take
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line


@pytest.fixture
async def clients(kafka: EmbeddedKafka) -> AsyncIterator[Wrapped]:
    """Of one service, whose connection lasts for the whole test."""
    made = Wrapped(kafka)
    async with made.producer():
        yield made


async def test_an_unsettled_message_of_a_revoked_partition_comes_again(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 3)
    revoked = asyncio.Event()

    class Telling(ConsumerRebalanceListener):  # type: ignore[misc]
        async def on_partitions_revoked(self, partitions: set[TopicPartition]) -> None:
            if partitions:
                revoked.set()

        def on_partitions_assigned(self, partitions: set[TopicPartition]) -> None: ...

    first = clients.consumer(group_id=group, enable_auto_commit=False)
    first.subscribe([topic], listener=Telling())
    async with first:
        await take(first, 1)
        await first.commit()
        (held,) = await take(first, 1)
        held.hold()
        async with clients.consumer(topic, group_id=group, enable_auto_commit=False) as second:
            await asyncio.wait_for(revoked.wait(), 30)
            with pytest.raises(Aborted, match="comes again"):
                held.done()
            assert [each.offset for each in await take_from_either(first, second, 2)] == [1, 2]


async def take_from_either(first: Any, second: Any, count: int) -> list[Any]:
    """Take messages from whichever of two consumers has the partition, or gets it."""
    waiting = {asyncio.create_task(each.getone()): each for each in (first, second)}
    taken: list[Any] = []
    try:
        while len(taken) < count:
            done, _ = await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            assert done, "neither has got a message"
            for task in done:
                consumer = waiting.pop(task)
                taken.append(task.result())
                waiting[asyncio.create_task(consumer.getone())] = consumer
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return taken


async def test_a_rebalance_waits_for_work_that_ends_soon(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    topic, group = await make_topic(kafka, 2), fresh("group")
    await fill(kafka, topic, 2, partitions=2)
    seen: list[bytes] = []
    done: set[bytes] = set()

    async def work(consumer: Any) -> None:
        async for message in consumer:
            async with message.settling():
                seen.append(message.value)
                await asyncio.sleep(0.3)
            done.add(message.value)

    async with clients.consumer(topic, group_id=group) as first:
        working = asyncio.create_task(work(first))
        while not seen:
            await asyncio.sleep(0.01)
        async with clients.consumer(topic, group_id=group) as second:  # joins while a message is worked on
            also = asyncio.create_task(work(second))
            await asyncio.sleep(0)  # it begins, also where the first has done everything
            while len(done) < 2:  # `stop` does not wait for what another task works on
                await asyncio.sleep(0.01)
            await second.stop()
            await also
        await first.stop()
        await working
    assert sorted(seen) == [b"0", b"1"]


async def test_a_rebalance_waits_for_what_is_held_while_more_is_asked_for(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 2)
    revoked = asyncio.Event()

    class Telling(ConsumerRebalanceListener):  # type: ignore[misc]
        def on_partitions_revoked(self, partitions: set[TopicPartition]) -> None:
            if partitions:
                revoked.set()

        def on_partitions_assigned(self, partitions: set[TopicPartition]) -> None: ...

    first = clients.consumer(group_id=group)
    first.subscribe([topic], listener=Telling())
    async with first:
        (held,) = await take(first, 1)
        held.hold()
        await take(first, 1)
        assert await first.getmany() == {}

        async def finish() -> None:
            await revoked.wait()
            await asyncio.sleep(0.2)
            held.done()

        finishing = asyncio.create_task(finish())
        async with clients.consumer(topic, group_id=group) as second:
            await asyncio.wait_for(finishing, 30)
            while not (first.assignment() or second.assignment()):
                await asyncio.sleep(0.01)
            assert await second.committed(TopicPartition(topic, 0)) == 2


@pytest.mark.parametrize("ordering", ["key", "none"])
async def test_killed_programs_lose_nothing(
    kafka: EmbeddedKafka, processes: Processes, tmp_path: Path, ordering: str
) -> None:
    topic, group, count = await make_topic(kafka, 3), fresh("group"), 300
    effects = tmp_path / "effects"
    effects.touch()
    async with Plain(kafka).producer() as producer:
        for n in range(count):
            await producer.send(topic, b"%d" % n, b"k%d" % (n % 10))
        await producer.flush()
    arguments = (kafka.bootstrap_servers, fresh("svc"), topic, group, str(effects), ordering)

    def lines() -> list[list[str]]:
        return [line.split() for line in effects.read_text().splitlines()]

    def done() -> int:
        return len({value for _, value, _ in lines()})

    for enough in (count // 4, count // 2, count):
        process = processes.start("tests.support.aio_worker", *arguments)
        await asyncio.to_thread(wait_for_line, process, "ready")
        while done() < enough:
            assert process.poll() is None
            await asyncio.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)
    worked = lines()
    assert {int(value) for _, value, _ in worked} == set(range(count))
    assert all(attempt != "1" for _, value, attempt in worked if value.endswith("7"))
    if ordering == "key":
        for key in {key for key, _, _ in worked}:
            first_times = list(dict.fromkeys(int(value) for each, value, _ in worked if each == key))
            assert first_times == sorted(first_times), key


async def test_a_program_that_never_waits_keeps_its_membership(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic = await make_topic(kafka)
    await fill(kafka, topic, 60)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with clients.consumer(topic, group_id=fresh("group")) as consumer:
        await take(consumer, 1)
        running = asyncio.create_task(other())
        await asyncio.sleep(0)
        before = turns
        for _ in range(59):
            await consumer.getone()
            time.sleep(0.005)  # work that does not give the loop away
        assert turns > before
        running.cancel()
