"""The entry to the handlers: what Kafka has to have acknowledged before a record is let in."""

from __future__ import annotations

import asyncio

import pytest

from broker_mesh.assignment import Assignment
from broker_mesh.entry import Entry
from broker_mesh.kafka.positions import NOTHING_COMMITTED, Partition, Position, Positions
from broker_mesh.message import Record, received
from broker_mesh.progress import Alone, Progress
from broker_mesh.turn import HandedBack

TOPIC = "fleet.v1.retire"


def record(offset: int) -> Record:
    return Record(TOPIC, 0, offset, 1_000, b"k", b"v", [])


class Desk:
    """An entry with one partition, and a Kafka that acknowledges when it is told to."""

    def __init__(self, start: int = NOTHING_COMMITTED, found: Progress | None = None) -> None:
        text = "" if found is None else found.write(start)
        self.assignment = Assignment((TOPIC, 0), Position(1, start, text), window=2)
        self.asked: list[dict[Partition, Position]] = []
        self.let_in: list[int] = []
        self.entry = Entry(
            lambda positions: self.asked.append(dict(positions)),
            lambda _, record: self.let_in.append(record.offset),
            self._broken,
        )

    def put(self, *offsets: int) -> None:
        for offset in offsets:
            assert self.assignment.take(record(offset))
            self.entry.put(self.assignment, record(offset))

    @property
    def said(self) -> list[tuple[int, Progress]]:
        positions = [position for asked in self.asked for position in asked.values()]
        return [(each.offset, Progress.read(each.metadata, each.offset)) for each in positions]

    def acknowledge(self) -> None:
        acknowledged: Positions = self.asked[-1]
        self.assignment.acknowledged(acknowledged[TOPIC, 0])

    def _broken(self, doing: str, bug: Exception) -> None:
        raise AssertionError(doing) from bug


async def settle_down() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_first_records_wait_for_one_commit_at_the_first_of_them() -> None:
    desk = Desk()
    desk.put(7, 8)
    await settle_down()
    desk.put(9)
    await settle_down()
    assert [(offset, progress.running) for offset, progress in desk.said] == [(7, True)]
    assert desk.let_in == []
    desk.acknowledge()
    await settle_down()
    assert desk.let_in == [7, 8, 9]
    desk.put(10)
    assert desk.let_in == [7, 8, 9, 10]
    assert len(desk.asked) == 1


async def test_what_is_given_up_before_the_acknowledgement_is_never_let_in() -> None:
    desk = Desk(5)
    desk.put(7)
    await settle_down()
    desk.assignment.draining.set()
    await settle_down()
    assert not desk.assignment.tasks
    desk.acknowledge()
    await settle_down()
    assert desk.let_in == []
    last = desk.assignment.commit_last()
    assert last is not None
    assert last.offset == 7
    assert not Progress.read(last.metadata, 7).running


async def test_without_suspicion_a_record_waits_for_no_commit() -> None:
    desk = Desk(5, Progress(running=True))
    async with desk.entry.marked(desk.assignment, received(record(5), TOPIC)):
        pass
    assert desk.asked == []


async def test_under_suspicion_each_waits_for_a_commit_that_names_it_and_is_acquitted_at_once() -> None:
    desk = Desk(5, Progress(deaths=1, running=True))
    desk.put(5)
    begun = asyncio.Event()

    async def run() -> None:
        async with desk.entry.marked(desk.assignment, received(record(5), TOPIC)):
            begun.set()

    running = asyncio.create_task(run())
    await settle_down()
    assert not begun.is_set()
    assert desk.said[-1][1].alone == Alone(5, 1)
    desk.acknowledge()
    await running
    assert begun.is_set()
    assert desk.said[-1][1].alone is None
    assert desk.said[-1][1].deaths == 2


async def test_what_runs_alone_is_named_again_after_what_it_waited_for() -> None:
    """A handler that asks its own service: two are under way, and the one that goes on may end the process."""
    desk = Desk(5, Progress(deaths=1, running=True))
    desk.put(5, 6)

    async def acknowledge() -> None:
        while True:
            await asyncio.sleep(0)
            if desk.asked:
                desk.acknowledge()

    acknowledging = asyncio.create_task(acknowledge())
    async with desk.entry.marked(desk.assignment, received(record(5), TOPIC)):
        async with desk.entry.marked(desk.assignment, received(record(6), TOPIC)):
            assert desk.said[-1][1].alone == Alone(6, 1)
        assert desk.said[-1][1].alone == Alone(5, 1)
    acknowledging.cancel()


async def test_a_record_under_suspicion_whose_partition_is_given_up_is_handed_back() -> None:
    desk = Desk(5, Progress(deaths=1, running=True))
    desk.assignment.draining.set()
    with pytest.raises(HandedBack):
        async with desk.entry.marked(desk.assignment, received(record(5), TOPIC)):
            raise AssertionError("it has begun")
