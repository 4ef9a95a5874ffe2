"""What becomes of what the mesh tells its metrics."""

from __future__ import annotations

import pytest

from broker_mesh.circuit import Cause, CircuitState
from broker_mesh.errors import InternalError, NotFound, Unavailable
from broker_mesh.headers import Envelope
from broker_mesh.layers.measure import Attempt
from broker_mesh.message import Message, Record
from broker_mesh.outcome import DeadLetter, Done, Drop, Outcome, Repeated, RetryLater
from broker_mesh.status import StatusCode
from broker_mesh.telemetry import instruments
from broker_mesh.telemetry import metrics as module
from broker_mesh.telemetry.aggregation import Distribution, Instrument, Samples
from broker_mesh.telemetry.metrics import Backlog, Metrics, PartitionState, backlog_families, samples_of

FIND = "fleet.v1.find-aircraft"
NOW = 1_700_000_000_000


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("fleet")


def message(
    source: str = "dispatch", *, timestamp: int = NOW, attempt: int = 1, failed: bool = False
) -> Message:
    envelope = Envelope(id="1", source=source, attempt=attempt, first_failure=NOW if failed else None)
    return Message(FIND, FIND, envelope, record=Record(FIND, 0, 1, timestamp, None, b"", []))


def samples(metrics: Metrics, instrument: Instrument) -> Samples:
    return next(family.samples for family in metrics.collect() if family.instrument == instrument)


def count(metrics: Metrics, instrument: Instrument, *labels: str) -> int:
    distribution = samples(metrics, instrument)[labels]
    assert isinstance(distribution, Distribution)
    return distribution.count


def test_only_a_message_s_first_attempt_is_a_request(metrics: Metrics) -> None:
    metrics.begun(message(), NOW + 300)
    metrics.begun(message(failed=True), NOW + 900)
    assert samples(metrics, instruments.REQUESTS) == {("callee", FIND, "dispatch"): 1}
    assert samples(metrics, instruments.QUEUE_SECONDS)[(FIND,)].total == 0.3


@pytest.mark.parametrize(("timestamp", "waited"), [(NOW + 5000, 0.0), (-1, None)])
def test_a_record_from_the_future_has_not_waited_and_one_without_time_tells_nothing(
    metrics: Metrics, timestamp: int, waited: float | None
) -> None:
    metrics.begun(message(timestamp=timestamp), NOW)
    told = samples(metrics, instruments.QUEUE_SECONDS).get((FIND,))
    assert (None if told is None else told.total) == waited


def test_what_could_not_be_checked_and_is_tried_again_is_one_request(metrics: Metrics) -> None:
    unchecked = message()
    metrics.begun(unchecked, NOW)
    metrics.begun(unchecked.with_envelope(last_failure=NOW), NOW + 500)
    assert samples(metrics, instruments.REQUESTS) == {("callee", FIND, "dispatch"): 1}


def test_callers_are_bounded(metrics: Metrics) -> None:
    for source in (
        "",
        "No\nservice",
        "x" * 5000,
        "replies",
        *(f"caller-{n}" for n in range(3 * module.MAX_CALLERS)),
    ):
        metrics.begun(message(source), NOW)
    told = samples(metrics, instruments.REQUESTS)
    callers = {caller for _, _, caller in told}
    assert len(callers) <= module.MAX_CALLERS + 1
    assert {"unnamed", "other", "caller-0"} <= callers
    assert sum(told.values()) == 3 * module.MAX_CALLERS + 4
    assert all(caller.isprintable() and len(caller) <= module.MAX_CALLER_LENGTH for caller in callers)


def test_what_is_called_is_bounded(metrics: Metrics) -> None:
    for number in range(2 * module.MAX_TARGETS):
        name = f"fleet.v1.find-{number}"
        metrics.sent(Message(name, name, Envelope(id="1")), None, 0.1)
        metrics.replied(name, StatusCode.OK, 0.1)
        metrics.timed_out(name)
    for instrument in (
        instruments.SENT,
        instruments.REQUESTS,
        instruments.REQUEST_SECONDS,
        instruments.TIMEOUTS,
    ):
        assert len(samples(metrics, instrument)) == module.MAX_TARGETS + 1, instrument.name


def test_replies_that_nobody_can_have_take_no_place_of_what_is_called(metrics: Metrics) -> None:
    metrics.sent(Message("dispatch.replies", FIND, Envelope(id="1")), None, 0.1)
    for number in range(module.MAX_TARGETS):
        nowhere = f"nobody-{number}.replies"
        metrics.sent(Message(nowhere, FIND, Envelope(id="1")), NotFound("no such topic"), 0.1)
    metrics.sent(Message("dispatch.replies", FIND, Envelope(id="1")), Unavailable("away"), 0.1)
    metrics.sent(Message(FIND, FIND, Envelope(id="1")), None, 0.1)
    assert samples(metrics, instruments.SENT) == {
        ("dispatch.replies", ""): 1,
        ("dispatch.replies", "UNAVAILABLE"): 1,
        ("other", "NOT_FOUND"): module.MAX_TARGETS,
        (FIND, ""): 1,
    }


@pytest.mark.parametrize("name", ["fleet.v1.\udcff", "fleet v1", "x" * 250, ""])
def test_a_name_that_no_topic_has_is_not_told(metrics: Metrics, name: str) -> None:
    metrics.sent(Message(name, name, Envelope(id="1")), NotFound("no such operation"), 0.1)
    metrics.timed_out(name)
    assert samples(metrics, instruments.SENT) == {("other", "NOT_FOUND"): 1}
    assert samples(metrics, instruments.TIMEOUTS) == {("other",): 1}


@pytest.mark.parametrize(
    ("outcome", "name", "status", "failure"),
    [
        (Done(b"reply"), "done", "OK", ""),
        (Done(error=NotFound("none")), "done", "NOT_FOUND", ""),
        (DeadLetter(InternalError("bug")), "dead-letter", "INTERNAL", "INTERNAL"),
        (Drop(Unavailable("late")), "drop", "UNAVAILABLE", "UNAVAILABLE"),
        (Repeated(), "repeated", "OK", ""),
    ],
    ids=["reply", "answer", "dead letter", "dropped", "repeated"],
)
def test_outcomes(metrics: Metrics, outcome: Outcome, name: str, status: str, failure: str) -> None:
    metrics.attempted(Attempt(message(attempt=3), outcome, NOW, 0.2))
    assert samples(metrics, instruments.OUTCOMES) == {(FIND, name, status): 1}
    attempts = samples(metrics, instruments.ATTEMPTS_NEEDED)[FIND, name]
    assert (attempts.count, attempts.total) == (1, 3)
    assert count(metrics, instruments.PROCESSING, FIND, name, failure) == 1
    assert not samples(metrics, instruments.RETRIES)


def test_an_attempt_that_another_follows_settles_nothing(metrics: Metrics) -> None:
    metrics.attempted(Attempt(message(), RetryLater(NOW, Unavailable("away")), NOW, 0.2))
    assert samples(metrics, instruments.RETRIES) == {(FIND, "UNAVAILABLE"): 1}
    assert not samples(metrics, instruments.OUTCOMES)
    assert count(metrics, instruments.PROCESSING, FIND, "retry-later", "UNAVAILABLE") == 1


@pytest.mark.parametrize(
    ("error", "name"), [(None, ""), (NotFound("no"), "NOT_FOUND"), (KeyError(), "KeyError")]
)
def test_sends(metrics: Metrics, error: BaseException | None, name: str) -> None:
    metrics.sent(Message(FIND, FIND, Envelope(id="1")), error, 0.1)
    metrics.sent(Message("dispatch.replies", FIND, Envelope(id="2")), None, 0.1)
    assert samples(metrics, instruments.SENT) == {(FIND, name): 1, ("dispatch.replies", ""): 1}
    # A reply is no request, and what was refused is none either.
    assert samples(metrics, instruments.REQUESTS) == ({} if error else {("caller", FIND, "fleet"): 1})


def test_dead_letters_and_what_came(metrics: Metrics) -> None:
    metrics.dead_lettered(message(), InternalError("bug"))
    metrics.consumed(FIND, 500)
    assert samples(metrics, instruments.DEAD_LETTERS) == {(FIND, "INTERNAL"): 1}
    assert samples(metrics, instruments.CONSUMED) == {(FIND,): 500}


def test_values_that_were_audited_by_where_they_went(metrics: Metrics) -> None:
    metrics.audited(message())
    for _ in range(2):
        metrics.audited(message()._replace(record=None))
    assert samples(metrics, instruments.AUDITED_VALUES) == {(FIND, "received"): 1, (FIND, "sent"): 2}


def test_the_backlog_by_topic() -> None:
    backlog = [
        Backlog("a", 0, 7, 2, NOW - 4000, PartitionState.PAUSED),
        Backlog("a", 1, None, 1, NOW - 9000, PartitionState.HELD),
        Backlog("b", 0, 0, 0, None, PartitionState.RUNNING),
        Backlog("b", 1, 1, 1, NOW + 60_000, PartitionState.RUNNING),
    ]
    told = {family.instrument: family.samples for family in backlog_families(backlog, NOW)}
    assert told[instruments.LAG] == {("a", "0"): 7, ("b", "0"): 0, ("b", "1"): 1}
    assert told[instruments.IN_FLIGHT] == {("a",): 3, ("b",): 1}
    assert told[instruments.OLDEST_AGE] == {("a",): 9.0, ("b",): 0.0}
    assert {labels: value for labels, value in told[instruments.PARTITIONS].items() if value} == {
        ("a", "paused"): 1,
        ("a", "held"): 1,
        ("b", "running"): 2,
    }


def test_a_circuit_shows_its_state_and_each_opening_counts(metrics: Metrics) -> None:
    cause = Cause(StatusCode.UNAVAILABLE, "ConnectionError")
    for state, opened_for in ((CircuitState.CLOSED, None), (CircuitState.OPEN, cause)):
        metrics.circuit_turned("s.v1.x", state, opened_for)
    figures = samples_of(metrics.collect())
    assert figures["mesh.circuit"] == {
        ("s.v1.x", "closed"): 0,
        ("s.v1.x", "open"): 1,
        ("s.v1.x", "ramping"): 0,
    }
    assert figures["mesh.circuit.openings"] == {("s.v1.x", "UNAVAILABLE"): 1}
    metrics.circuit_turned("s.v1.x", None, None)
    assert samples_of(metrics.collect())["mesh.circuit"] == {}


def test_every_instrument_is_collected(metrics: Metrics) -> None:
    assert [family.instrument for family in metrics.collect()] == list(instruments.ALL)
