"""One partition in one assignment: what is committed of it, and what it goes on with."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from broker_mesh.assignment import Assignment, Nap
from broker_mesh.circuit import CircuitState
from broker_mesh.errors import InternalError
from broker_mesh.kafka.positions import NOTHING_COMMITTED, Position
from broker_mesh.message import Message, Record, received
from broker_mesh.outcome import RetryLater
from broker_mesh.progress import Alone, Attempts, Progress
from broker_mesh.turn import Turn

TOPIC = "fleet.v1.retire"


def record(offset: int) -> Record:
    return Record(TOPIC, 0, offset, 1_000 + offset, b"k", b"v", [])


def message(offset: int) -> Message:
    return received(record(offset), TOPIC, 1)


def take_over(offset: int = 0, found: Progress | None = None, window: int = 10) -> Assignment:
    text = "" if found is None else found.write(offset)
    return Assignment((TOPIC, 0), Position(1, offset, text), window)


def said(position: Position | None) -> Progress:
    assert position is not None
    return Progress.read(position.metadata, position.offset)


async def test_what_an_earlier_owner_has_done_needs_no_work() -> None:
    assignment = take_over(10, Progress(done=((12, 14),)))
    assert [assignment.take(record(offset)) for offset in range(10, 15)] == [True, True, False, False, True]
    assignment.done(10)
    assignment.done(11)
    assert assignment.tracker.position == 14


async def test_nothing_is_committed_of_a_partition_without_records() -> None:
    for start in (NOTHING_COMMITTED, 10):
        assignment = take_over(start, Progress(running=True))
        assert assignment.commit_due(0.0) is None
        assert assignment.commit_due(100.0) is None


async def test_what_people_were_told_is_taken_back_where_nothing_comes_to_be_handled() -> None:
    found = Progress(attempts={11: Attempts(2, 7)}, deaths=1, in_flight=3, parked=4, circuit="open")
    assignment = take_over(10, found)
    assignment.describe(0, CircuitState.CLOSED)
    assert said(assignment.commit_due(0.0)) == Progress(attempts={11: Attempts(2, 7)}, deaths=1)
    again = take_over(10, Progress(circuit="open"))
    again.describe(0, CircuitState.OPEN)
    assert again.commit_due(0.0) is None


async def test_it_commits_when_something_has_changed_and_else_not() -> None:
    assignment = take_over(10)
    for offset in (10, 11, 12):
        assignment.take(record(offset))
    assignment.done(11)
    assert said(assignment.commit_due(0.0)).done == ((11, 12),)
    assert assignment.commit_due(0.2) is None
    assignment.waits(message(10).with_envelope(attempt=3, first_failure=7))
    assert said(assignment.commit_due(0.4)).attempts == {10: Attempts(2, 7)}
    assignment.done(10)
    position = assignment.commit_due(0.6)
    assert position is not None
    assert position.offset == 12
    assert said(position)[:5] == Progress()[:5]


async def test_it_says_that_it_is_at_work_until_a_second_after_the_last_turn() -> None:
    assignment = take_over(10)
    assignment.take(record(10))
    turn = Turn(asyncio.Semaphore())
    assignment.turns.add(turn)
    assert said(assignment.commit_due(5.0)).running
    assignment.turns.discard(turn)
    assert assignment.commit_due(5.9) is None
    assert not said(assignment.commit_due(6.1)).running
    assert assignment.commit_due(9.0) is None


async def test_what_waits_for_its_place_is_at_work_and_what_waits_for_its_next_attempt_is_not() -> None:
    """Nothing is committed between the wait and the handler, which may end the process at once."""
    assignment = take_over(10)
    assignment.take(record(10))
    assignment.lanes["k"] = deque([record(10)])
    assert said(assignment.commit_due(5.0)).running
    assert assignment.commit_due(9.0) is None
    assignment.naps["k"] = Nap(message(10), RetryLater(0, InternalError("failed")), asyncio.Event())
    assert not said(assignment.commit_due(10.1)).running


async def test_what_people_may_want_to_know_waits_for_a_commit_that_is_awaited() -> None:
    """Where each acknowledgement takes longer than the time between two commits, nobody would hear of any."""
    assignment = take_over(10)
    assignment.take(record(10))
    position, acknowledged = assignment.commit_now(0.0)
    for parked in range(1, 4):
        assignment.describe(parked, CircuitState.CLOSED)
        assert assignment.commit_due(parked / 5) is None
    assignment.acknowledged(position)
    assert acknowledged.done()
    assignment.describe(3, CircuitState.CLOSED)
    assert said(assignment.commit_due(0.8)).parked == 3


async def test_a_commit_that_is_awaited_names_what_runs_alone_and_resolves_with_its_acknowledgement() -> None:
    assignment = take_over(10, Progress(deaths=1, running=True))
    assignment.take(record(10))
    assignment.alone = Alone(10, 1)
    position, acknowledged = assignment.commit_now(0.0)
    assert said(position)[2:6] == (2, assignment.suspicion.left, True, Alone(10, 1))
    assignment.acknowledged(Position(1, 10, "older"))
    assert not acknowledged.done()
    assignment.acknowledged(position)
    assert acknowledged.done()


async def test_records_run_unnamed_only_once_kafka_knows_that_none_are_left_to_run_by_themselves() -> None:
    """Else one that ends its process right then is found as before, without a name: again and again, never counted."""
    assignment = take_over(10, Progress(deaths=2, singly=1))
    assignment.take(record(10))
    named, _ = assignment.commit_now(0.0)
    assignment.done(10)
    assignment.acknowledged(named)
    assert assignment.suspicion.singly
    over = assignment.commit_due(0.2)
    assert over is not None
    assert said(over).singly == 0
    assignment.acknowledged(over)
    assert not assignment.suspicion.singly


async def test_given_up_in_order_it_is_not_at_work_and_nothing_runs_alone() -> None:
    assignment = take_over(10, Progress(deaths=1, running=True))
    assignment.take(record(10))
    assignment.alone = Alone(10, 1)
    assignment.commit_now(0.0)
    assert said(assignment.commit_last())[2:6] == (2, assignment.suspicion.left, False, None)
    assert take_over(NOTHING_COMMITTED).commit_last() is None


async def test_attempts_go_on_where_the_owner_before_stopped() -> None:
    found = Progress(attempts={10: Attempts(2, 7)}, deaths=2, running=True, alone=Alone(11, 1))
    assignment = take_over(10, found)
    failing, guilty, other = (assignment.continued(message(offset)) for offset in (10, 11, 12))
    assert (failing.envelope.attempt, failing.envelope.first_failure, failing.died) == (3, 7, 0)
    assert (guilty.envelope.attempt, guilty.died) == (1, 1)
    assert other == message(12)


async def test_an_end_of_the_process_is_remembered_also_where_no_attempt_is_counted() -> None:
    assignment = take_over(10, Progress(deaths=2, running=True, alone=Alone(10, 1)))
    assignment.take(record(10))
    blamed = assignment.continued(message(10))
    assignment.waits(blamed)  # for an attempt of the same number, as in an outage
    assert said(assignment.commit_due(0.0)).attempts == {10: Attempts(0, died=1)}
    assert assignment.continued(message(10)) == blamed


async def test_a_record_that_says_itself_that_more_attempts_were_made_is_believed() -> None:
    assignment = take_over(10, Progress(attempts={10: Attempts(2)}))
    assert assignment.continued(message(10).with_envelope(attempt=5)).envelope.attempt == 5


async def test_renewal_repeats_what_was_said() -> None:
    assignment = take_over(10)
    for offset in (10, 11):
        assignment.take(record(offset))
    assignment.done(11)
    before = assignment.commit_due(0.0)
    assignment.renew()
    assert assignment.commit_due(0.2) == before


@pytest.mark.parametrize(("rests", "crowded"), [(False, False), (True, True)])
async def test_a_partition_rests_until_half_of_what_a_commit_can_say_is_free(
    rests: bool, crowded: bool
) -> None:
    assignment = take_over(0)
    for offset in range(2_000):
        assignment.take(record(offset))
    for offset in range(1, 2_000, 2):
        assignment.done(offset)
    assignment.commit_due(0.0)
    assert assignment.is_crowded(rests) is crowded
    for offset in range(0, 1_200, 2):
        assignment.done(offset)
    assignment.commit_due(0.2)
    assert not assignment.is_crowded(rests)


@pytest.mark.parametrize("text", ["another tool's " * 250, None], ids=["foreign", "own"])
async def test_who_finds_a_long_text_rests_only_while_something_is_in_work(text: str | None) -> None:
    """What was done before runs together only as what lies between is handled: at rest it would stay for ever."""
    found = Progress(done=tuple((offset, offset + 1) for offset in range(1, 3_600, 2)))
    assignment = Assignment((TOPIC, 0), Position(1, 0, text or found.write(0)), 10)
    assert not assignment.is_crowded(False)
    rests = False
    for offset in range(3_600):
        if assignment.take(record(offset)):
            rests = assignment.is_crowded(rests)
            assignment.done(offset)
            assignment.commit_due(offset / 5)
        assert not assignment.is_crowded(rests)


async def test_it_rests_before_what_is_done_no_longer_fits() -> None:
    assignment = take_over(0)
    for offset in range(3_400):
        assignment.take(record(offset))
    for offset in range(1, 3_400, 2):
        assignment.done(offset)
    text = assignment.commit_due(0.0)
    assert assignment.is_crowded(False)
    assert len(said(text).done) == 1_700
