"""The entry to the handlers: what Kafka has to have acknowledged before a record is let in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest

from broker_mesh.assignment import Assignment
from broker_mesh.entry import Entry
from broker_mesh.kafka.positions import NOTHING_COMMITTED, Partition, Position
from broker_mesh.message import Record, received
from broker_mesh.progress import Alone, Progress
from broker_mesh.turn import HandedBack, Places, Turn

TOPIC = "fleet.v1.retire"


def record(offset: int) -> Record:
    return Record(TOPIC, 0, offset, 1_000, b"k", b"v", [])


class Desk:
    """An entry with one partition, and a Kafka that acknowledges when it is told to."""

    def __init__(
        self, start: int = NOTHING_COMMITTED, found: Progress | None = None, beside: Desk | None = None
    ) -> None:
        text = "" if found is None else found.write(start)
        self.partition = (TOPIC, 0 if beside is None else 1)
        self.assignment = Assignment(self.partition, Position(1, start, text), window=2)
        self.asked: list[dict[Partition, Position]] = [] if beside is None else beside.asked
        self.let_in: list[int] = []
        self.entry = (
            beside.entry
            if beside is not None
            else Entry(
                lambda positions: self.asked.append(dict(positions)),
                lambda _, record: self.let_in.append(record.offset),
                self._broken,
            )
        )

    def put(self, *offsets: int) -> None:
        for offset in offsets:
            assert self.assignment.take(record(offset))
            self.entry.put(self.assignment, record(offset))

    @property
    def said(self) -> list[tuple[int, Progress]]:
        positions = [asked[self.partition] for asked in self.asked if self.partition in asked]
        return [(each.offset, Progress.read(each.metadata, each.offset)) for each in positions]

    def acknowledge(self) -> None:
        acknowledged = [asked[self.partition] for asked in self.asked if self.partition in asked]
        if acknowledged:
            self.assignment.acknowledged(acknowledged[-1])

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


@asynccontextmanager
async def attempt(desk: Desk, offset: int, places: Places | None = None) -> AsyncIterator[Turn]:
    """An attempt as lanes make it."""
    assignment = desk.assignment
    places = places or asyncio.Semaphore()
    with desk.entry.singly(assignment, received(record(offset), TOPIC), places) as single:
        async with Turn(single or places, assignment.draining) as turn:
            turn.begin()
            yield turn


Acknowledging: TypeAlias = Callable[..., None]


@pytest.fixture
async def acknowledging() -> AsyncIterator[Acknowledging]:
    """Has a Kafka acknowledge all that it is asked."""
    tasks: list[asyncio.Task[None]] = []

    async def acknowledge(desks: tuple[Desk, ...]) -> None:
        while True:
            await asyncio.sleep(0)
            for desk in desks:
                desk.acknowledge()

    yield lambda *desks: tasks.append(asyncio.create_task(acknowledge(desks)))
    for task in tasks:
        task.cancel()


async def test_without_suspicion_a_record_waits_for_no_commit() -> None:
    desk = Desk(5, Progress(running=True))
    async with attempt(desk, 5):
        pass
    assert desk.asked == []


async def test_under_suspicion_each_waits_for_a_commit_that_names_it_and_is_acquitted_at_once() -> None:
    desk = Desk(5, Progress(deaths=1, running=True))
    desk.put(5)
    begun = asyncio.Event()

    async def run() -> None:
        async with attempt(desk, 5):
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


async def test_one_runs_at_a_time_also_of_several_partitions(acknowledging: Acknowledging) -> None:
    one = Desk(5, Progress(deaths=1, running=True))
    other = Desk(5, Progress(deaths=1, running=True), beside=one)
    acknowledging(one, other)

    async def run() -> None:
        async with attempt(other, 5):
            pass

    async with attempt(one, 5):
        waiting = asyncio.create_task(run())
        await settle_down()
        assert other.said == []
    await waiting
    assert [progress.alone for _, progress in other.said] == [Alone(5, 1), None]


async def test_what_runs_alone_is_named_again_after_what_it_waited_for(acknowledging: Acknowledging) -> None:
    """A handler that asks its own service: two are under way, and the one that goes on may end the process."""
    desk = Desk(5, Progress(deaths=1, running=True))
    desk.put(5, 6)
    acknowledging(desk)
    async with attempt(desk, 5) as outer:
        async with outer.waiting(), attempt(desk, 6):
            assert desk.said[-1][1].alone == Alone(6, 1)
        assert desk.said[-1][1].alone == Alone(5, 1)
    assert desk.said[-1][1].alone is None


async def test_what_waits_for_somebody_else_is_not_blamed_for_what_runs_meanwhile(
    acknowledging: Acknowledging,
) -> None:
    """Also of another partition: what calls other services would be found guilty with each that ends the process."""
    one = Desk(5, Progress(deaths=1, running=True))
    other = Desk(5, Progress(deaths=1, running=True), beside=one)
    one.put(5)
    other.put(5)
    acknowledging(one, other)
    async with attempt(one, 5) as turn:
        async with turn.waiting():
            await settle_down()
            assert one.said[-1][1].alone == Alone(5, 1), "nothing else runs: an end is its own"
            async with attempt(other, 5):
                assert one.said[-1][1].alone is None
                assert other.said[-1][1].alone == Alone(5, 1)
        assert other.said[-1][1].alone is None
        assert one.said[-1][1].alone == Alone(5, 1), "it goes on, and may end the process"


async def test_kafka_knows_what_became_of_a_record_before_another_partitions_begins(
    acknowledging: Acknowledging,
) -> None:
    """Its dead letter is written: an end of the process with the other one must not have it written again."""
    one = Desk(5, Progress(deaths=1, running=True))
    other = Desk(5, Progress(deaths=1, running=True), beside=one)
    one.put(5)
    other.put(5)
    acknowledging(one, other)
    await settle_down()
    async with attempt(one, 5):
        pass
    one.assignment.done(5)
    async with attempt(other, 5):
        assert one.asked[-1].keys() == {one.partition, other.partition}, "both in one commit"
        assert one.said[-1][0] == 6
        assert other.said[-1][1].alone == Alone(5, 1)


async def test_a_record_under_suspicion_whose_partition_is_given_up_is_handed_back() -> None:
    desk = Desk(5, Progress(deaths=1, running=True))
    desk.assignment.draining.set()
    with pytest.raises(HandedBack):
        async with attempt(desk, 5):
            raise AssertionError("it has begun")
    assert desk.asked == []
    assert not desk.entry.single.locked()


async def test_what_is_given_up_while_it_waits_for_its_commit_leaves_the_place_to_others() -> None:
    desk = Desk(5, Progress(deaths=1, running=True))
    desk.put(5)

    async def run() -> None:
        with pytest.raises(HandedBack):
            async with attempt(desk, 5):
                raise AssertionError("it has begun")

    running = asyncio.create_task(run())
    await settle_down()
    desk.assignment.draining.set()
    await running
    assert not desk.entry.single.locked()


async def test_what_is_given_up_while_it_stands_in_line_waits_for_no_other_place(
    acknowledging: Acknowledging,
) -> None:
    """A drain is bounded: it is not to wait for handlers of other partitions only to hand records back."""
    one = Desk(5, Progress(deaths=1, running=True))
    other = Desk(5, Progress(deaths=1, running=True), beside=one)
    acknowledging(one, other)
    none_free = asyncio.Semaphore(0)

    async def run() -> None:
        with pytest.raises(HandedBack):
            async with attempt(other, 5, none_free):
                raise AssertionError("it has begun")

    async with attempt(one, 5):
        waiting = asyncio.create_task(run())
        await settle_down()
        other.assignment.draining.set()
    async with asyncio.timeout(5):
        await waiting
    assert not one.entry.single.locked()


async def test_what_has_begun_goes_on_in_another_place_while_its_partition_is_given_up(
    acknowledging: Acknowledging,
) -> None:
    desk = Desk(5, Progress(deaths=1, running=True))
    desk.put(5)
    acknowledging(desk)
    places = asyncio.Semaphore()
    async with attempt(desk, 5, places) as turn:
        async with turn.waiting():
            desk.assignment.draining.set()
        assert places.locked()
        assert not desk.entry.single.locked()
    assert not places.locked()
