"""What came already, on a log in memory: which records are dropped, and which only look like repeats."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker_mesh import repeats
from broker_mesh.errors import NotFound, Unavailable
from broker_mesh.headers import Envelope, RawHeaders
from broker_mesh.kafka.backward import Stretch
from broker_mesh.message import Message, Record, now_ms
from broker_mesh.outcome import DeadLetter, Done, Outcome, RetryLater
from broker_mesh.repeats import Repeats
from broker_mesh.settings import Settings

OPERATION = "seats.v1.book"
NOT_YET = Unavailable("not yet")


def record(offset: int, ce_id: str = "1", *more: tuple[str, bytes]) -> Record:
    raw: RawHeaders = [("ce_id", ce_id.encode()), ("ce_source", b"dispatch"), *more]
    return Record(OPERATION, 0, offset, now_ms(), None, b"", raw)


def message(offset: int, ce_id: str = "1", *, epoch: int = 1, **envelope: Any) -> Message:
    return Message(
        OPERATION,
        OPERATION,
        Envelope(id=ce_id, source="dispatch", **envelope),
        partition=0,
        record=record(offset, ce_id),
        epoch=epoch,
    )


class Past:
    """What the topic holds before the position of the assignment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records: list[Record] = []
        self.below = 0
        self.failure: Exception | None = None
        self.reads = 0
        self.is_lost = False
        monkeypatch.setattr(repeats, "newest", self.newest)

    def newest(self, settings: Any, *, end: int, pick: Any, **_: Any) -> Stretch[Any]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return Stretch([pick(record) for record in self.records if record.offset < end], end)

    def repeats(self, **settings: Any) -> Repeats:
        return Repeats(
            Settings(bootstrap_servers="localhost:1", **settings),
            client_id="test",
            settled_below=lambda _: self.below,
            is_current=lambda _: not self.is_lost,
        )


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> Past:
    return Past(monkeypatch)


async def nothing(message: Message, outcome: Outcome) -> Outcome:
    return outcome


async def settle(known: Repeats, message: Message, outcome: Outcome) -> None:
    await known.settling(nothing)(message, outcome)


@pytest.mark.parametrize(
    "outcome", [Done(), DeadLetter(NotFound("no handler")), RetryLater(0, NOT_YET, parked=True)]
)
async def test_a_repeat_of_what_is_settled_or_parked_is_one(past: Past, outcome: Outcome) -> None:
    known = past.repeats()
    assert not await known.is_repeat(message(0))
    await settle(known, message(0), outcome)
    assert await known.is_repeat(message(1))
    assert not await known.is_repeat(message(2, "other"))
    assert not await known.is_repeat(message(3, replay_id="r"))


async def test_the_record_itself_is_no_repeat_of_itself(past: Past) -> None:
    known = past.repeats()
    assert not await known.is_repeat(message(0))
    await settle(known, message(0), RetryLater(0, NOT_YET, counts=False))
    assert not await known.is_repeat(message(0))
    await settle(known, message(0), Done())
    assert not await known.is_repeat(message(0))


async def test_a_repeat_waits_for_the_first_and_runs_where_that_ends_unsettled(past: Past) -> None:
    known, begun, goes_on = past.repeats(), asyncio.Event(), asyncio.Event()

    async def fenced() -> None:
        assert not await known.is_repeat(message(0))
        begun.set()
        await goes_on.wait()

    first = asyncio.create_task(fenced())
    await begun.wait()
    second = asyncio.create_task(known.is_repeat(message(1)))
    await asyncio.sleep(0.01)
    assert not second.done()
    goes_on.set()
    await first
    assert not await asyncio.wait_for(second, 10)


async def test_of_repeats_that_wait_all_are_dropped_once_the_first_is_settled(past: Past) -> None:
    known = past.repeats()
    assert not await known.is_repeat(message(0))
    waiting = [asyncio.create_task(known.is_repeat(message(offset))) for offset in range(1, 5)]
    await asyncio.sleep(0.01)
    await settle(known, message(0), Done())
    assert await asyncio.wait_for(asyncio.gather(*waiting), 10) == [True] * 4


async def test_an_assignment_begins_with_what_was_settled_before_it(past: Past) -> None:
    past.records = [record(7), record(8, "2", ("mesh-attempt", b"2")), record(9, "3")]
    past.below = 9
    known = past.repeats()
    asked = await asyncio.gather(*(known.is_repeat(message(10 + n, f"{n}")) for n in range(1, 4)))
    assert asked == [True, False, False]  # the third is not below the position: not settled, perhaps in work
    assert past.reads == 1


async def test_what_was_refused_before_dedupe_makes_no_repeat_of_what_comes_in_order(past: Past) -> None:
    past.records = [
        record(7, "1", ("mesh-deadline", b"tomorrow")),
        record(8, "2", ("mesh-reply-to", b"another.replies/0")),
        record(9, "3"),
    ]
    past.below = 10
    known = past.repeats()
    asked = await asyncio.gather(*(known.is_repeat(message(10 + n, f"{n}")) for n in range(1, 4)))
    assert asked == [False, False, True]


async def test_a_sender_whose_clock_is_ahead_makes_nothing_forgotten(past: Past) -> None:
    past.records = [record(7, "1"), record(8, "2")._replace(timestamp=now_ms() + 3_600_000)]
    past.below = 9
    known = past.repeats()
    assert await known.is_repeat(message(9, "1"))


async def test_each_assignment_begins_anew(past: Past) -> None:
    known = past.repeats()
    await known.is_repeat(message(0))
    await settle(known, message(0), Done())  # and its offset was not committed
    assert not await known.is_repeat(message(0, epoch=2))
    await settle(known, message(0), Done())  # late, of the earlier assignment: it says nothing
    assert not await asyncio.create_task(known.is_repeat(message(0, epoch=2)))


async def test_without_the_past_it_begins_with_nothing(past: Past, caplog: pytest.LogCaptureFixture) -> None:
    past.below, past.failure = 9, Unavailable("Kafka is away")
    known = past.repeats()
    assert not await known.is_repeat(message(10))
    assert "repeats are not recognised: Kafka is away" in caplog.text


async def test_zero_minutes_turn_it_off(past: Past) -> None:
    known = past.repeats(dedupe_minutes=0)
    for _ in range(2):
        assert not await known.is_repeat(message(0))
        await settle(known, message(0), Done())
    assert known._partitions == {}


async def test_memory_is_bounded_and_given_back(past: Past) -> None:
    known = past.repeats(dedupe_ids=20)
    for offset in range(200):
        await known.is_repeat(message(offset, f"id-{offset}"))
        await settle(known, message(offset, f"id-{offset}"), Done())
    partition = known._partitions[OPERATION, 0]
    assert (len(partition.settled), len(partition.in_work)) == (20, 0)
    past.is_lost = True
    await known.is_repeat(message(0)._replace(partition=1))
    assert list(known._partitions) == [(OPERATION, 1)]
