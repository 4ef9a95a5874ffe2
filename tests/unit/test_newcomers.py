"""New partitions are held until it is known that nothing comes before them; and only those."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

import pytest

from broker_mesh import newcomers
from broker_mesh.assignment import Assignment
from broker_mesh.barrier import Growth
from broker_mesh.errors import Unavailable
from broker_mesh.kafka.positions import NOTHING_COMMITTED, Position
from broker_mesh.message import Record
from broker_mesh.newcomers import Newcomers, Survey

TOPIC = "fleet.v1.find-aircraft"
PATIENCE = 30.0
UNFINISHED = Growth(TOPIC, "id", 2, 6)
GROWTH = UNFINISHED._replace(ends={0: 5, 1: 5})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newcomers, "_LOOK_SECONDS", 0.01)


class Kafka:
    """What is asked about growths."""

    def __init__(self, *growths: Growth) -> None:
        self.recorded = list(growths)
        self.left: int | None = 1
        self.looks = 0
        self.away = False
        self.meanwhile: Callable[[], None] = lambda: None

    async def growths(self, topics: Collection[str]) -> Collection[Growth]:
        assert topics == {TOPIC}
        self.looks += 1
        if self.away:
            raise Unavailable("no Kafka broker answers")
        await asyncio.sleep(0)
        self.meanwhile()
        return list(self.recorded)

    def way(self, growth: Growth) -> newcomers.Way:
        return Way(self, growth)


class Way:
    def __init__(self, kafka: Kafka, growth: Growth) -> None:
        self.growth = growth
        self._kafka = kafka

    async def left(self) -> int | None:
        assert self.growth.ends is not None
        return self._kafka.left


class Held:
    """New partitions, and the records of those that were let go."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.begun: list[tuple[int, int]] = []
        self.broken: list[Exception] = []
        survey = Survey(kafka.growths, kafka.way)
        self.newcomers = Newcomers([TOPIC], survey, self._begin, lambda _, bug: self.broken.append(bug))

    def _begin(self, records: list[Record]) -> None:
        self.begun += [(record.partition, record.offset) for record in records]

    def assign(self, number: int, committed: int = NOTHING_COMMITTED, topic: str = TOPIC) -> Assignment:
        start = Position(1, committed)
        assignment = Assignment((topic, number), start)
        self.newcomers.assigned(assignment, start)
        return assignment

    async def looked(self, times: int = 1) -> None:
        """Wait until the growths were looked at so many times more, and what follows of it is done."""
        wanted = self.kafka.looks + times + 1
        async with asyncio.timeout(PATIENCE):
            while self.kafka.looks < wanted and self.newcomers.held:
                await asyncio.sleep(0.001)
        assert not self.broken


def record(number: int, offset: int) -> Record:
    return Record(TOPIC, number, offset, 1, b"key", b"value", [])


async def test_what_was_there_from_the_start_begins_at_the_first_look_with_what_has_come() -> None:
    held = Held(Kafka())
    assignment = held.assign(1)
    assert list(held.newcomers.held) == [(TOPIC, 1)]
    assert all(held.newcomers.keep(assignment, record(1, offset)) for offset in range(3))
    await held.looked()
    assert held.begun == [(1, 0), (1, 1), (1, 2)]
    assert not held.newcomers.held
    assert not held.newcomers.keep(assignment, record(1, 3))
    assert held.kafka.looks == 1


async def test_nothing_is_asked_where_nothing_can_come_before() -> None:
    held = Held(Kafka(GROWTH))
    held.assign(0)
    held.assign(2, committed=0)
    held.assign(2, topic=f"{TOPIC}.retry")
    assert not held.newcomers.held
    await asyncio.sleep(0)
    assert held.kafka.looks == 0


async def test_a_new_partition_waits_until_the_group_is_past_the_barrier() -> None:
    held = Held(Kafka(GROWTH))
    assignments = [held.assign(number) for number in (1, 2, 5, 6)]
    await held.looked()
    assert list(held.newcomers.held) == [(TOPIC, 2), (TOPIC, 5)], "others were not added by this growth"
    assert held.newcomers.keep(assignments[1], record(2, 0))
    held.kafka.left = None
    await held.looked(2)
    assert len(held.newcomers.held) == 2
    held.kafka.left = 0
    await held.looked()
    assert held.begun == [(2, 0)]
    assert not held.newcomers.held


async def test_a_growth_that_was_broken_off_holds_and_says_once_what_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = Held(Kafka(UNFINISHED))
    held.kafka.left = 0
    held.assign(2)
    await held.looked(3)
    assert held.newcomers.held
    warnings = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"'mesh topics grow {TOPIC} --partitions 6' goes on" in warnings[0]
    held.kafka.recorded = [GROWTH]
    await held.looked()
    assert not held.newcomers.held


async def test_what_cannot_be_found_out_stays_held(caplog: pytest.LogCaptureFixture) -> None:
    held = Held(Kafka())
    held.kafka.away = True
    held.assign(2)
    await held.looked(3)
    assert held.newcomers.held
    assert caplog.text.count("no Kafka broker answers") == 1
    held.kafka.away = False
    await held.looked()
    assert not held.newcomers.held


async def test_a_partition_that_went_and_came_back_during_a_look_waits_for_the_next() -> None:
    held = Held(Kafka())
    first = held.assign(2)
    held.newcomers.keep(first, record(2, 0))

    def come_back() -> None:
        held.kafka.meanwhile = lambda: None
        held.kafka.recorded = []
        held.newcomers.forget(first)
        again = held.assign(2)
        assert not held.newcomers.keep(first, record(2, 1)), "it is not that one any more"
        assert held.newcomers.keep(again, record(2, 7))

    held.kafka.meanwhile = come_back
    await held.looked()
    assert held.begun == [(2, 7)]
    assert held.kafka.looks == 2


async def test_a_bug_is_told() -> None:
    held = Held(Kafka())

    def fail() -> None:
        raise RuntimeError("a bug")

    held.kafka.meanwhile = fail
    held.assign(2)
    async with asyncio.timeout(PATIENCE):
        while not held.broken:
            await asyncio.sleep(0.001)
    assert held.newcomers.held, "what comes before it is not known"
