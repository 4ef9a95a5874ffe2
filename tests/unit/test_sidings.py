"""Taking over: nothing of a partition is handled before it is known what of it is parked, whoever has the retries."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, cast

import pytest

from broker_mesh.assignment import Assignment
from broker_mesh.endpoint import Endpoint
from broker_mesh.errors import Unavailable
from broker_mesh.headers import Place
from broker_mesh.kafka.groups import Bounds
from broker_mesh.kafka.positions import Partition, Position
from broker_mesh.layers.retry import Retry
from broker_mesh.layers.validate import Decoder
from broker_mesh.message import Message, Record, now_ms, received
from broker_mesh.outcome import Done, Outcome, Parked, RetryLater
from broker_mesh.parked import Found, Survey, Wanted
from broker_mesh.sidings import FAR_MS, Sidings

MAIN, RETRY = ("s.v1.x", 0), ("s.v1.x.retry", 0)
PATIENCE = 30.0


class Kafka:
    """What stands there, as a survey tells it."""

    def __init__(self) -> None:
        self.partitions = {MAIN[0]: 1, RETRY[0]: 1}
        self.found = Found({}, set(), 0)
        self.marker = 0  # behind the last record: the end of a replay's transaction
        self.reached: dict[Partition, int] = {}
        self.away = False
        self.wanted: list[Wanted] = []
        self.looks = 0
        self.on_committed: Callable[[], object] = lambda: None

    @property
    def survey(self) -> Survey:
        return Survey(self.counts, self.bounds, self.end, self.committed, self.read)

    async def counts(self, names: Collection[str]) -> Mapping[str, int]:
        self.looks += 1
        if self.away:
            raise Unavailable("no broker answers")
        return {name: count for name, count in self.partitions.items() if name in names}

    async def bounds(self, partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
        return {key: Bounds(0, self.found.end + self.marker) for key in partitions}

    async def end(self, partition: Partition) -> int:
        return self.found.end

    async def committed(self, _: Collection[Partition]) -> Mapping[Partition, int]:
        self.on_committed()
        return self.reached

    def read(
        self, wanted: Sequence[Wanted], bounds: Mapping[Partition, Bounds], stop: threading.Event
    ) -> dict[Partition, Found]:
        self.wanted += wanted
        return {each.partition: self.found for each in wanted}


class Scene:
    def __init__(self, ordering: Literal["key", "none"] = "key") -> None:
        self.kafka = Kafka()
        self.assignments: dict[Partition, Assignment] = {}
        self.begun: list[int] = []
        endpoint = Endpoint(MAIN[0], MAIN[0], cast(Decoder, None), ordering, Retry())
        self.sidings = Sidings(
            {MAIN[0]: endpoint, RETRY[0]: endpoint},
            self.assignments,
            self.kafka.survey,
            lambda records: self.begun.extend(each.offset for each in records),
            self._broken,
        )
        self._epochs = 0

    def _broken(self, doing: str, bug: Exception) -> None:
        raise bug

    def assign(self, partition: Partition) -> Assignment:
        self._epochs += 1
        assignment = self.assignments[partition] = Assignment(partition, Position(self._epochs, 0))
        self.sidings.assigned(assignment)
        return assignment

    def revoke(self, partition: Partition) -> None:
        self.sidings.forget(self.assignments.pop(partition))

    async def opened(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.sidings.held:
                await asyncio.sleep(0.01)

    async def looked(self) -> None:
        """Wait until it has looked once more, from the beginning."""
        seen = self.kafka.looks
        async with asyncio.timeout(PATIENCE):
            while self.kafka.looks < seen + 2:
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_mesh.sidings._LOOK_SECONDS", 0.02)


def record(offset: int, key: bytes | None = b"k", topic: str = MAIN[0]) -> Record:
    return Record(topic, 0, offset, 0, key, b"", [])


def message(assignment: Assignment, offset: int, key: bytes | None = b"k") -> Message:
    return received(record(offset, key, assignment.partition[0]), MAIN[0], assignment.epoch)


async def test_a_partition_waits_for_its_retries_to_come_and_knows_what_is_parked() -> None:
    scene = Scene()
    scene.kafka.found = Found({b"k": 7}, {(Place(*MAIN, 3), None, "")}, 8)
    main = scene.assign(MAIN)
    assert [scene.sidings.keep(main, record(offset)) for offset in (3, 4)] == [True, True]
    await scene.looked()
    assert scene.sidings.held
    scene.assign(RETRY)
    await scene.opened()
    assert scene.begun == [3, 4]
    assert scene.sidings.is_copied(record(3))
    assert not scene.sidings.is_copied(record(3)), "a second one of that place is none"
    assert not scene.sidings.is_copied(record(4))
    assert scene.sidings.is_parked(message(main, 4))
    assert not scene.sidings.is_parked(message(main, 4, b"other"))
    scene.sidings.settled(RETRY, b"k", 7)
    assert not scene.sidings.is_parked(message(main, 5))
    scene.sidings.close()


async def test_a_key_stays_parked_while_its_retries_are_elsewhere_and_is_looked_up_when_they_return() -> None:
    scene = Scene()
    scene.kafka.found = Found({b"k": 7}, set(), 8)
    scene.assign(RETRY)
    main = scene.assign(MAIN)
    await scene.opened()
    scene.revoke(RETRY)
    later = now_ms() + FAR_MS + 60_000
    assert scene.sidings.is_parked(message(main, 4))
    assert not scene.sidings.parks(message(main, 4, b"other"), later), "nobody here would hear of its end"
    scene.kafka.found = Found({}, set(), 8)
    scene.assign(RETRY)
    async with asyncio.timeout(PATIENCE):
        while scene.sidings.is_parked(message(main, 4)):
            await asyncio.sleep(0.01)
    assert scene.sidings.parks(message(main, 4), later)
    assert not scene.sidings.parks(message(main, 4), now_ms() + 100), "what is near keeps its place"
    scene.sidings.close()


async def test_what_goes_while_it_is_looked_up_is_not_let_go() -> None:
    scene = Scene()
    scene.assign(RETRY)
    main = scene.assign(MAIN)
    assert scene.sidings.keep(main, record(0))
    scene.revoke(MAIN)
    again = scene.assign(MAIN)
    await scene.opened()
    assert scene.begun == []
    assert not scene.sidings.keep(again, record(0))
    assert not scene.sidings.is_parked(message(main, 1))
    scene.sidings.close()


async def test_without_a_retry_partition_nothing_is_parked_and_nothing_waits() -> None:
    scene = Scene()
    scene.kafka.partitions = {MAIN[0]: 1}
    main = scene.assign(MAIN)
    await scene.opened()
    assert not scene.sidings.parks(message(main, 0), now_ms() + 3_600_000)
    scene.sidings.close()


async def test_beside_retries_in_other_numbers_a_partition_waits_until_they_are_handled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    scene.kafka.partitions = {MAIN[0]: 1, RETRY[0]: 2}
    scene.kafka.found = Found({}, set(), 5)
    scene.kafka.reached = {RETRY: 4}
    main = scene.assign(MAIN)
    scene.assign(RETRY)
    await scene.looked()
    assert scene.sidings.held
    assert "different numbers of partitions" in caplog.text
    scene.kafka.reached = {RETRY: 5}
    await scene.opened()
    assert not scene.sidings.parks(message(main, 0), now_ms() + 3_600_000)
    scene.sidings.close()


async def test_what_was_put_back_beside_retries_in_other_numbers_holds_nothing_for_ever() -> None:
    scene = Scene()
    scene.kafka.partitions = {MAIN[0]: 1, RETRY[0]: 2}
    scene.kafka.found = Found({}, set(), 5)
    scene.kafka.marker = 1  # no group ever commits it
    scene.kafka.reached = {RETRY: 5}
    scene.assign(MAIN)
    scene.assign(RETRY)
    await scene.opened()
    scene.sidings.close()


async def test_a_partition_that_goes_while_its_retries_are_asked_for_is_left_alone() -> None:
    scene = Scene()
    scene.kafka.partitions = {MAIN[0]: 1, RETRY[0]: 2}
    scene.kafka.found = Found({}, set(), 5)
    scene.kafka.reached = {RETRY: 5}
    scene.kafka.on_committed = lambda: scene.revoke(MAIN)
    scene.assign(RETRY)
    scene.assign(MAIN)
    await scene.opened()
    looking = scene.sidings._looking
    assert looking is not None
    await asyncio.wait_for(looking, PATIENCE)
    scene.sidings.close()


async def test_retries_that_came_anew_are_looked_up_though_another_question_fails() -> None:
    scene = Scene()
    scene.kafka.found = Found({b"k": 7}, set(), 8)
    scene.assign(RETRY)
    main = scene.assign(MAIN)
    await scene.opened()
    scene.revoke(RETRY)
    scene.kafka.found = Found({}, set(), 8)
    failures = [Unavailable("no broker answers")]

    def fail_once() -> None:
        if failures:
            raise failures.pop()

    scene.kafka.on_committed = fail_once
    scene.kafka.partitions = {MAIN[0]: 2, RETRY[0]: 3}
    scene.assign((MAIN[0], 1))
    scene.assign(RETRY)
    async with asyncio.timeout(PATIENCE):
        while failures or scene.sidings.is_parked(message(main, 4)):
            await asyncio.sleep(0.01)
    scene.sidings.close()


async def test_retries_that_never_come_are_told_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_mesh.sidings._PATIENCE_SECONDS", 0.0)
    scene = Scene()
    scene.assign(MAIN)
    await scene.looked()
    assert scene.sidings.held
    assert "s.v1.x/0 waits for s.v1.x.retry/0 to be assigned to this instance too" in caplog.text
    scene.sidings.close()


async def test_while_kafka_is_away_a_partition_waits() -> None:
    scene = Scene()
    scene.kafka.away = True
    scene.assign(RETRY)
    scene.assign(MAIN)
    await scene.looked()
    assert scene.sidings.held
    scene.kafka.away = False
    await scene.opened()
    scene.sidings.close()


async def test_without_an_order_copies_are_recognised_and_no_key_is_held() -> None:
    scene = Scene("none")
    scene.kafka.found = Found({b"k": 7}, {(Place(*MAIN, 3), None, "")}, 8)
    scene.assign(RETRY)
    main = scene.assign(MAIN)
    await scene.opened()
    assert scene.sidings.is_copied(record(3))
    assert not scene.sidings.is_parked(message(main, 4))
    assert scene.sidings.parks(message(main, 4), now_ms())
    scene.sidings.close()


async def test_a_key_is_held_from_before_its_record_is_written_until_that_is_settled() -> None:
    scene = Scene()
    scene.assign(RETRY)
    main = scene.assign(MAIN)
    await scene.opened()
    places: list[Place | None] = [Place(*RETRY, 10), Place(*RETRY, 11), None]
    held: list[bool] = []

    async def carry_out(asked: Message, outcome: Outcome) -> Outcome:
        held.append(scene.sidings.is_parked(asked))
        match outcome:
            case RetryLater() | Parked():
                return outcome._replace(place=places.pop(0))
        return outcome

    settle = scene.sidings.settling(carry_out)
    failed = Unavailable("away")
    await settle(message(main, 0), RetryLater(now_ms(), failed, parked=True))
    await settle(message(main, 1), Parked())
    scene.sidings.settled(RETRY, b"k", 10)
    assert scene.sidings.is_parked(message(main, 2))
    scene.sidings.settled(RETRY, b"k", 11)
    assert not scene.sidings.is_parked(message(main, 2))
    await settle(message(main, 2), RetryLater(now_ms(), failed, parked=True))  # it could not be written
    assert not scene.sidings.is_parked(message(main, 2))
    await settle(message(main, 3), Done())
    assert held == [True, True, True, False]
    assert scene.sidings.parked(MAIN) == 0
    scene.sidings.close()


async def test_so_many_keys_are_parked_that_no_more_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_mesh.sidings.MAX_KEYS", 3)
    scene = Scene()
    scene.kafka.found = Found({b"1": 1, b"2": 2, b"3": 3}, set(), 4)
    scene.assign(RETRY)
    main = scene.assign(MAIN)
    await scene.opened()
    later = now_ms() + 3_600_000
    assert not scene.sidings.parks(message(main, 0, b"4"), later)
    assert scene.sidings.parks(message(main, 0, b"3"), later), "what is parked already makes it no more"
    scene.sidings.settled(RETRY, b"1", 1)
    assert scene.sidings.parks(message(main, 0, b"4"), later)
    scene.sidings.close()


async def test_what_comes_from_the_retry_topic_is_no_successor_of_itself() -> None:
    scene = Scene()
    scene.kafka.found = Found({b"k": 1}, set(), 2)
    retry = scene.assign(RETRY)
    scene.assign(MAIN)
    await scene.opened()
    assert not scene.sidings.is_parked(message(retry, 1))
    assert not scene.sidings.parks(message(retry, 1), now_ms() + 3_600_000), "in line it stays where it is"
    assert scene.sidings.parks(message(retry, 1, None), now_ms()), (
        "it may be moved: its attempts go with its copy"
    )
    scene.sidings.close()


async def test_in_line_a_key_stays_parked_though_the_last_before_it_is_settled() -> None:
    scene = Scene()
    scene.kafka.found = Found({b"k": 1}, set(), 2)
    scene.assign(RETRY)
    main = scene.assign(MAIN)
    await scene.opened()
    with scene.sidings.in_line(record(5)) as in_line:
        assert in_line
        scene.sidings.settled(RETRY, b"k", 1)
        assert scene.sidings.is_parked(message(main, 5))
    assert not scene.sidings.is_parked(message(main, 5))
    for other in (record(6), record(6, None), record(6, b"other")):
        with scene.sidings.in_line(other) as in_line:
            assert not in_line
    scene.sidings.close()
