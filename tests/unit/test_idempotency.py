"""Results by idempotency key, on a log in memory: what is kept, for how long, and who may keep it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from broker_mesh import idempotency
from broker_mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    MessageTooLarge,
    NotFound,
    Unavailable,
)
from broker_mesh.headers import Envelope, Place
from broker_mesh.idempotency import Results
from broker_mesh.kafka import topics
from broker_mesh.kafka.backward import Stretch
from broker_mesh.message import Message, Receipt, Record, now_ms
from broker_mesh.outcome import DeadLetter, Done, Drop, Outcome, RetryLater
from broker_mesh.settings import Settings
from broker_mesh.settle import CarryOut, FencedError
from broker_mesh.turn import Turn

OPERATION = "seats.v1.book"
NOT_YET = Unavailable("not yet")


class Log:
    """The topic of results, the producer and the settler in one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records: list[Record] = []
        self.reads: list[int] = []
        self.lookups = 0
        self.is_lost = False
        self.is_deleted = False
        self.refusal: Exception | None = None
        monkeypatch.setattr(idempotency, "newest", self.newest)
        monkeypatch.setattr(idempotency, "record_at", self.record_at)

    def results(self, **settings: Any) -> Results:
        return Results(
            "seats",
            Settings(bootstrap_servers="localhost:1", **settings),
            client_id="test",
            producer=self,  # type: ignore[arg-type]
            ensure_topic=self.ensure_topic,
            settler=self,  # type: ignore[arg-type]
            is_current=lambda message: not self.is_lost,
        )

    async def ensure_topic(self, operation: str) -> None:
        self.is_deleted = False
        if self.refusal is not None:
            raise self.refusal

    async def persist(
        self, message: Message, produce: Callable[[], Awaitable[Receipt]], what: str, gives_up: Any
    ) -> Receipt:
        if self.is_lost:
            raise FencedError
        while True:
            with suppress(NotFound):
                return await produce()

    async def send(self, topic: str, *, key: Any, value: Any, headers: Any, partition: int) -> Receipt:
        if self.is_deleted:
            await asyncio.sleep(0)
            raise NotFound("no such topic")
        if len(value) > 1000:
            raise MessageTooLarge("too large")
        record = Record(topic, partition, len(self.records), now_ms(), key, value, headers)
        self.records.append(record)
        return Receipt(topic, partition, record.offset)

    def newest(self, settings: Any, *, start: int, at_most: int, pick: Any, **_: Any) -> Stretch[Any]:
        self.reads.append(start)
        return Stretch([pick(record) for record in self.records[start:][-at_most:]], len(self.records))

    def record_at(self, settings: Any, *, client_id: str, place: Place) -> Record | None:
        self.lookups += 1
        return self.records[place.offset] if place.offset < len(self.records) else None


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(monkeypatch)


def message(
    key: str = "k",
    *,
    offset: int = 0,
    value: bytes = b"1A",
    epoch: int = 1,
    retry: bool = False,
    **envelope: Any,
) -> Message:
    topic = f"{OPERATION}.retry" if retry else OPERATION
    return Message(
        topic,
        OPERATION,
        Envelope(id=f"id-{offset}", source="dispatch", idempotency_key=key, **envelope),
        value=value,
        partition=0,
        record=Record(topic, 0, offset, 0, None, value, []),
        epoch=epoch,
    )


async def nothing(message: Message, outcome: Outcome) -> Outcome:
    return outcome


async def handled(
    results: Results, asked: Message, outcome: Outcome, then: CarryOut = nothing
) -> Done | None:
    """Handle a message as the service does; gives the earlier result it got, or None where it ran."""
    answer = await results.begin(asked)
    await results.settling(then)(asked, answer or outcome)
    return answer


@pytest.mark.parametrize(("hours", "segment_ms"), [(24, 21_600_000), (2000, 86_400_000), (0.01, 60_000)])
def test_the_topic_keeps_results_for_their_time_and_little_longer(hours: float, segment_ms: int) -> None:
    spec = topics.idempotency_topic(
        OPERATION, Settings(idempotency_hours=hours), topics.Replication(3, 2), partitions=12
    )
    assert (spec.name, spec.partitions) == (f"{OPERATION}.idempotency", 12)
    assert spec.config["cleanup.policy"] == "compact,delete"
    assert spec.config["retention.ms"] == str(round(hours * 3_600_000))
    assert spec.config["segment.ms"] == str(segment_ms)


async def test_a_result_is_written_down_before_it_is_answered(log: Log) -> None:
    written_when_answered = []

    async def answer(message: Message, outcome: Outcome) -> Outcome:
        written_when_answered.append(len(log.records))
        return outcome

    assert await handled(log.results(), message(), Done(b"booked"), answer) is None
    assert written_when_answered == [1]
    assert (log.records[0].topic, log.records[0].key) == (f"{OPERATION}.idempotency", b"dispatch k")


@pytest.mark.parametrize(
    "outcome", [Done(b"booked"), Done(), Done(error=NotFound("no such seat", details={"rows": 30}))]
)
async def test_another_process_reads_the_result_as_it_was(log: Log, outcome: Done) -> None:
    await handled(log.results(), message(), outcome)
    answer = await handled(log.results(), message(offset=1), Done(b"ran"))
    assert answer is not None
    assert answer.reply == outcome.reply
    assert repr(answer.error) == repr(outcome.error)
    assert outcome.error is None or (answer.error and answer.error.details == outcome.error.details)
    assert log.lookups == 1


async def test_a_repeat_in_the_same_process_needs_no_reading(log: Log) -> None:
    results = log.results()
    await handled(results, message(), Done(b"booked"))
    assert await handled(results, message(offset=1), Done(b"ran")) == Done(b"booked")
    assert (log.lookups, log.reads) == (0, [0])


async def test_each_assignment_reads_on_what_others_wrote(log: Log) -> None:
    results, other = log.results(), log.results()
    await handled(results, message("mine"), Done(b"mine"))
    await handled(other, message("theirs"), Done(b"theirs"))
    assert await handled(results, message("theirs", offset=1, epoch=2), Done(b"ran")) == Done(b"theirs")
    await handled(results, message("third", offset=2, epoch=2), Done(b"third"))
    await handled(results, message("third", offset=3, epoch=3, retry=True), Done(b"ran"))
    assert await handled(results, message("mine", offset=4, epoch=2), Done(b"ran")) == Done(b"mine")
    assert log.reads == [0, 0, 0, 2]  # once for each assignment, from where the last reading ended


async def test_a_topic_made_anew_is_read_from_its_beginning(log: Log) -> None:
    results = log.results()
    await handled(results, message("a"), Done(b"a"))
    await handled(results, message("b", offset=1), Done(b"b"))
    await handled(results, message("c", offset=2, epoch=2), Done(b"c"))
    log.records.clear()
    assert await handled(results, message("a", offset=3, epoch=3), Done(b"a")) is None


async def test_a_late_write_of_an_earlier_owner_is_found_where_the_topic_was_compacted_since(
    log: Log,
) -> None:
    results, earlier_owner = log.results(), log.results()
    await handled(results, message("mine", offset=8), Done(b"mine"))
    late, again = message(), message(epoch=2)
    assert await asyncio.create_task(earlier_owner.begin(late)) is None
    await handled(results, again, Done(b"of the later owner"))
    await asyncio.create_task(handled(earlier_owner, late, Done(b"late")))
    compacted = log.records[1]._replace(key=b"another", headers=[])
    log.records[1] = compacted
    for number in range(200):  # none of which is remembered without reading
        await handled(results, message(f"k{number}", offset=9 + number, epoch=2), Done(b"x"))
    assert await handled(results, message(offset=300, epoch=2), Done(b"ran")) == Done(b"late")


async def test_no_repeat_runs_beside_a_plain_function_that_was_given_up(log: Log) -> None:
    results, given_up, places = (
        log.results(),
        asyncio.get_running_loop().create_future(),
        asyncio.Semaphore(9),
    )

    async def expires() -> None:
        async with Turn(places) as turn:
            await results.begin(message())
            turn.left_behind.append(given_up)
            await results.settling(nothing)(message(), Drop(DeadlineExceeded("too late")))
        await given_up
        await asyncio.Event().wait()  # the lane goes on with other records

    lane = asyncio.create_task(expires())
    await asyncio.sleep(0.01)
    repeat = asyncio.create_task(handled(results, message(offset=1), Done(b"second")))
    await asyncio.sleep(0.01)
    assert not repeat.done()
    given_up.set_result(None)
    assert await asyncio.wait_for(repeat, 10) is None
    lane.cancel()


async def test_another_body_is_refused_and_lets_the_key_go(log: Log) -> None:
    results = log.results()
    await handled(results, message(), Done(b"booked"))
    with pytest.raises(InvalidArgument):
        await results.begin(message(offset=1, value=b"2B"))
    assert await results.begin(message(offset=2)) == Done(b"booked")


@pytest.mark.parametrize("failure", [DeadLetter(InternalError("a bug")), RetryLater(0, NOT_YET, parked=True)])
async def test_after_a_failure_a_waiting_repeat_runs(log: Log, failure: Outcome) -> None:
    results = log.results()
    first = message()
    assert await results.begin(first) is None
    repeat = asyncio.create_task(handled(results, message(offset=1), Done(b"second")))
    await asyncio.sleep(0.01)
    assert not repeat.done()
    await results.settling(nothing)(first, failure)
    assert await asyncio.wait_for(repeat, 10) is None
    assert [record.value for record in log.records] == [b"second"]


async def test_a_request_that_is_tried_again_in_place_keeps_its_key(log: Log) -> None:
    results = log.results()
    first = message()
    await results.begin(first)
    await results.settling(nothing)(first, RetryLater(0, NOT_YET))
    repeat = asyncio.create_task(handled(results, message(offset=1), Done(b"second")))
    await asyncio.sleep(0.01)
    assert not repeat.done()
    assert await handled(results, message(attempt=2), Done(b"first")) is None
    assert await asyncio.wait_for(repeat, 10) == Done(b"first")


async def test_a_repeat_does_not_wait_past_its_deadline(log: Log) -> None:
    results = log.results()
    await results.begin(message())

    async def repeat() -> None:
        await results.begin(message(offset=1, deadline=now_ms() + 20))

    with pytest.raises(DeadlineExceeded, match="while an earlier request with the same idempotency key"):
        await asyncio.create_task(repeat())


async def test_a_late_completion_keeps_nothing_and_is_not_answered(log: Log) -> None:
    async def answer(message: Message, outcome: Outcome) -> Outcome:
        pytest.fail("answered")

    results, late = log.results(), message()
    await results.begin(late)
    log.is_lost = True
    with pytest.raises(FencedError):
        await results.settling(answer)(late, Done(b"late"))
    assert log.records == []


async def test_a_result_that_is_too_large_is_answered_and_not_kept(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    results = log.results()
    await handled(results, message(), Done(b"x" * 2000))
    assert "can't be kept for repeats" in caplog.text
    assert await handled(results, message(offset=1), Done(b"ran")) is None


@pytest.mark.parametrize("hours", [1e-6, 1e-9])
async def test_results_go_after_their_time(log: Log, hours: float) -> None:
    results = log.results(idempotency_hours=hours)
    await handled(results, message(), Done(b"booked"))
    await asyncio.sleep(0.01)
    assert await handled(results, message(offset=1), Done(b"ran")) is None


async def test_many_keys_stay_within_the_bound_and_the_oldest_go_first(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    results = log.results(idempotency_keys=50)
    for number in range(500):
        await handled(results, message(f"k{number}", offset=number), Done(b"%d" % number))
    partition = results._partitions[OPERATION, 0]
    assert len(partition.offsets) == 50
    assert len(partition.recent) <= 100
    assert len(partition.exclusion) == 0
    assert caplog.text.count("the oldest go before their time") == 1
    later = log.results(idempotency_keys=50)
    assert await handled(later, message("k499", offset=500), Done(b"ran")) == Done(b"499")
    assert await handled(later, message("k1", offset=501), Done(b"ran")) is None


async def test_partitions_that_are_lost_take_no_memory(log: Log) -> None:
    results = log.results()
    await handled(results, message(), Done(b"booked"))
    log.is_lost = True
    await results.begin(message()._replace(partition=1, epoch=2))
    assert list(results._partitions) == [(OPERATION, 1)]


async def test_results_that_can_not_be_read_hold_the_request_and_no_key(log: Log) -> None:
    results = log.results()
    log.refusal = Unavailable("Kafka is away")
    with pytest.raises(Unavailable):
        await results.begin(message())
    log.refusal = None
    assert await handled(results, message(offset=1), Done(b"ran")) is None


async def test_a_missing_partition_is_named(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise NotFound("no such partition")

    monkeypatch.setattr(idempotency, "newest", missing)
    with pytest.raises(FailedPrecondition, match=r"seats\.v1\.book\.idempotency has no partition 0"):
        await log.results().begin(message())


async def test_a_topic_of_results_that_is_gone_is_made_anew_before_the_next_try(log: Log) -> None:
    results = log.results()
    await results.begin(message())
    log.is_deleted = True
    await results.settling(nothing)(message(), Done(b"booked"))
    assert [record.value for record in log.records] == [b"booked"]


async def test_a_record_that_is_no_result_is_passed_over(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.records.append(Record(f"{OPERATION}.idempotency", 0, 0, now_ms(), b"dispatch k", b"?", []))
    assert await handled(log.results(), message(), Done(b"ran")) is None
    assert "can't be read" in caplog.text
