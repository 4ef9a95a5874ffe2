"""The outage guard without Kafka: who waits for whom, what frees them, and what counts as whose failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from broker_mesh.circuit import Cause, CircuitState
from broker_mesh.endpoint import Endpoint
from broker_mesh.errors import (
    DeadlineExceeded,
    InternalError,
    MeshError,
    NotFound,
    Unavailable,
    UnknownError,
)
from broker_mesh.evidence import again, failure_of, is_result, pace_of
from broker_mesh.guard import OutageGuard
from broker_mesh.headers import Envelope
from broker_mesh.layers.retry import Retry
from broker_mesh.message import Message, Record, now_ms
from broker_mesh.outcome import DeadLetter, Done, Drop, Outcome, Repeated, RetryLater
from broker_mesh.passage import Passage
from broker_mesh.status import StatusCode

OPERATION = "s.v1.x"
NOW = 1_000_000
RETRY = Retry(attempts=3, backoff=0.01, max_backoff=0.02)
PATIENCE = 30.0


def message(offset: int = 0, key: str | None = "k", **envelope: Any) -> Message:
    raw = None if key is None else key.encode()
    record = Record(OPERATION, 0, offset, NOW, raw, b"", [])
    return Message(
        OPERATION, OPERATION, Envelope(id=str(offset), **envelope), key=raw, record=record, epoch=1
    )


def failure(outcome: Outcome, of: Message | None = None, retry: Retry = RETRY) -> object:
    return failure_of(of or message(), outcome, retry, now=100.0, at=NOW)


# ── evidence ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Done(b"reply"), True),
        (Done(error=NotFound("no")), True),
        (DeadLetter(NotFound("no")), True),  # one-way
        (Done(error=DeadlineExceeded("a nested call")), False),
        (DeadLetter(DeadlineExceeded("a nested call")), False),
        (DeadLetter(InternalError("bug")), False),
        (RetryLater(NOW, Unavailable("away")), False),
        (Drop(DeadlineExceeded("expired")), False),
        (Repeated(), False),
    ],
)
def test_what_shows_that_a_handler_works(outcome: Outcome, shown: bool) -> None:
    assert is_result(outcome) is shown


@pytest.mark.parametrize(
    "outcome",
    [
        Done(b"reply"),
        Done(error=DeadlineExceeded("a nested call")),
        DeadLetter(NotFound("no")),
        Drop(DeadlineExceeded("expired")),
        RetryLater(NOW, Unavailable("later", retry_after=31)),
    ],
)
def test_what_says_nothing_against_it(outcome: Outcome) -> None:
    assert failure(outcome) is None


def test_work_that_expired_in_the_handler_s_hands_says_nothing() -> None:
    assert failure(DeadLetter(DeadlineExceeded("too late")), message(deadline=NOW - 1)) is None
    assert failure(DeadLetter(DeadlineExceeded("a nested call")), message(deadline=NOW + 1)) is not None


def test_a_failure_is_told_by_its_status_and_by_what_was_raised() -> None:
    wrapped = UnknownError("ConnectionError: refused")
    wrapped.__cause__ = ConnectionError("refused")
    found = failure_of(message(first_failure=NOW - 5000), RetryLater(NOW, wrapped), RETRY, now=100.0, at=NOW)
    assert found is not None
    assert found.cause == Cause(StatusCode.UNKNOWN, "ConnectionError")
    assert (found.key, found.ends, found.curable, found.since) == (b"k", False, True, 95.0)
    without_key = failure_of(message(7, key=None), DeadLetter(wrapped), RETRY, now=100.0, at=NOW)
    assert without_key is not None
    assert (without_key.key, without_key.ends, without_key.since) == ((OPERATION, 0, 7), True, 100.0)


@pytest.mark.parametrize(
    ("error", "retry", "curable"),
    [
        (Unavailable("away"), RETRY, True),
        (Unavailable("away"), Retry(attempts=1), False),
        (InternalError("bug"), RETRY, False),
        (InternalError("bug"), replace(RETRY, per={StatusCode.INTERNAL: Retry(attempts=2)}), True),
    ],
)
def test_the_policy_says_whether_another_attempt_may_help(
    error: MeshError, retry: Retry, curable: bool
) -> None:
    found = failure_of(message(), DeadLetter(error), retry, now=0.0, at=NOW)
    assert found is not None
    assert found.curable is curable


def test_another_attempt_keeps_its_place_and_its_time() -> None:
    error = Unavailable("away")
    assert again(RetryLater(NOW, error, parked=True)) == RetryLater(NOW, error, counts=False, parked=False)
    asked = again(DeadLetter(Unavailable("away", retry_after=5)))
    assert asked.at >= now_ms() + 4000
    assert not asked.counts


def test_no_pause_is_longer_than_the_policy_s_own() -> None:
    assert pace_of(Retry())[:2] == (1.0, 30.0)
    assert pace_of(RETRY)[:2] == (0.02, 0.02)
    assert pace_of(Retry(backoff=1, max_backoff=7200)).patience == 60 * 7200


# ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────


class Bench:
    """A guard, and attempts that end as they are told."""

    def __init__(self, retry: Retry = RETRY, keys: int = 3, concurrency: int = 8) -> None:
        self.turns: list[tuple[CircuitState | None, Cause | None]] = []
        never_asked: Any = None
        endpoint = Endpoint(OPERATION, OPERATION, never_asked, "key", retry)
        self.guard = OutageGuard(
            [endpoint], keys, concurrency, lambda _, state, cause: self.turns.append((state, cause))
        )
        self.leaving = asyncio.Event()
        self.began: list[str] = []
        self.waits: list[Message] = []

    @property
    def state(self) -> CircuitState:
        return self.guard.state(OPERATION)

    def passage(self) -> Passage:
        return Passage(self.leaving, self.waits.append)

    async def attempt(
        self, it: Message, end: Callable[[], Outcome], passage: Passage | None = None
    ) -> Outcome:
        async with self.guard.admitted(passage or self.passage(), it) as admitted:
            self.began.append(admitted.envelope.id)
            self.guard.handling(admitted)
            return await self.guard.decide(admitted, end())

    async def open(self) -> None:
        for number in range(3):
            await self.attempt(message(1000 + number, key=f"open-{number}"), away)
        assert self.state is CircuitState.OPEN


def away() -> Outcome:
    return RetryLater(now_ms(), Unavailable("away"))


def dies() -> Outcome:
    return DeadLetter(Unavailable("away"))


def done() -> Outcome:
    return Done(b"reply")


async def test_what_an_opening_overtakes_comes_again_before_it_reaches_its_handler() -> None:
    bench = Bench()
    late = bench.passage()
    async with bench.guard.admitted(late, message(1)) as admitted:
        await bench.open()
        assert bench.guard.is_overtaken(late, admitted)
        with pytest.raises(Unavailable, match="an outage began"):
            bench.guard.handling(admitted)


async def test_probes_are_taken_in_turn_and_what_has_not_failed_yet_comes_first() -> None:
    bench = Bench()
    await bench.open()
    failed = bench.passage()
    failed.has_failed = True
    async with asyncio.timeout(PATIENCE):
        waiting = [asyncio.create_task(bench.attempt(message(1, "a"), away, failed))]
        await asyncio.sleep(0)
        waiting += [asyncio.create_task(bench.attempt(message(number, "b"), away)) for number in range(2, 5)]
        await asyncio.sleep(0)
        assert bench.guard.holds(OPERATION), "what is taken already is probed first"
        outcomes = await asyncio.gather(*waiting)
    assert bench.began[3:] == ["2", "3", "4", "1"]
    assert not any(outcome.counts for outcome in outcomes if isinstance(outcome, RetryLater))
    assert not bench.guard.holds(OPERATION)


async def test_a_success_lets_all_go_on_and_gives_back_what_was_used_up() -> None:
    bench = Bench()
    first = bench.passage()
    failed = await bench.attempt(message(0, "first", attempt=2), away, first)
    assert isinstance(failed, RetryLater)
    assert failed.counts
    for number in range(1, 3):
        await bench.attempt(message(number, f"k{number}"), away)
    async with asyncio.timeout(PATIENCE):
        again_ = message(0, "first", attempt=3, first_failure=NOW)
        async with bench.guard.admitted(first, again_) as admitted:
            assert admitted.envelope.attempt == 2
            assert bench.waits == [admitted], "the next owner must hear of it"
        await asyncio.gather(*(bench.attempt(message(number), done) for number in range(10, 40)))
    assert [state for state, _ in bench.turns] == [
        CircuitState.CLOSED,
        CircuitState.OPEN,
        CircuitState.RAMPING,
        CircuitState.CLOSED,
    ]
    assert bench.turns[1][1] == Cause(StatusCode.UNAVAILABLE, "Unavailable")


async def test_who_waits_is_freed_when_the_partition_is_given_up_and_takes_no_turn_with_him() -> None:
    bench = Bench()
    await bench.open()
    waiting = [asyncio.create_task(bench.attempt(message(number), away)) for number in range(5)]
    await asyncio.sleep(0)
    bench.leaving.set()
    async with asyncio.timeout(PATIENCE):
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(end).__name__ for end in ended} == {"HandedBack"}
        bench.leaving.clear()
        await bench.attempt(message(9), done)
    assert bench.state is CircuitState.RAMPING


async def test_who_is_given_leave_and_freed_in_one_moment_gives_it_back() -> None:
    bench = Bench()
    await bench.open()
    async with asyncio.timeout(PATIENCE):
        await bench.attempt(message(1), done)  # two at once from now on
        first, second = AsyncExitStack(), AsyncExitStack()
        for number, running in enumerate((first, second)):
            await running.enter_async_context(bench.guard.admitted(bench.passage(), message(number)))
        third = asyncio.create_task(bench.attempt(message(3), done))
        await asyncio.sleep(0)
        await first.aclose()
        bench.leaving.set()
        (end,) = await asyncio.gather(third, return_exceptions=True)
        assert type(end).__name__ == "HandedBack"
        bench.leaving.clear()
        await second.aclose()
        async with (
            bench.guard.admitted(bench.passage(), message(4)),
            bench.guard.admitted(bench.passage(), message(5)),
        ):
            pass


async def test_work_that_expires_while_it_waits_is_let_through_to_be_answered() -> None:
    bench = Bench()
    await bench.open()
    running, late = bench.passage(), bench.passage()
    async with (
        asyncio.timeout(PATIENCE),
        bench.guard.admitted(running, message(1)),  # a probe that takes long
        bench.guard.admitted(late, message(2, deadline=now_ms() + 50)) as admitted,
    ):
        assert late.ticket is None
        assert admitted.envelope.deadline is not None
        assert admitted.envelope.deadline <= now_ms()


async def test_what_waits_for_one_that_waits_for_leave_itself_does_not_stop_the_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    await bench.open()
    async with asyncio.timeout(PATIENCE), bench.guard.admitted(bench.passage(), message(1)):
        # A repeat: its probe waits for this one to be over.
        first = asyncio.create_task(bench.attempt(message(2, "b"), done))
        await asyncio.sleep(0.1)
        bench.guard.tend()
        assert bench.began[3:] == []
        clock = time.monotonic
        monkeypatch.setattr("broker_mesh.guard.time", SimpleNamespace(monotonic=lambda: clock() + 30))
        bench.guard.tend()
        assert await first == done()


async def test_a_ramp_with_nothing_to_do_is_over_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    await bench.open()
    await asyncio.wait_for(bench.attempt(message(1), done), PATIENCE)
    bench.guard.tend()
    assert bench.turns[-1] == (CircuitState.RAMPING, None)
    clock = time.monotonic
    monkeypatch.setattr("broker_mesh.guard.time", SimpleNamespace(monotonic=lambda: clock() + 30))
    bench.guard.tend()
    assert bench.turns[-1] == (CircuitState.CLOSED, None)


async def test_a_cancelled_wait_costs_nobody_his_turn() -> None:
    bench = Bench()
    await bench.open()
    given_up = asyncio.create_task(bench.attempt(message(1), away))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    async with asyncio.timeout(PATIENCE):
        await bench.attempt(message(2), done)
    assert bench.began[-1] == "2"


# ── last attempts ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_last_attempt_alone_ends_after_a_while() -> None:
    bench = Bench()
    assert isinstance(await asyncio.wait_for(bench.attempt(message(1), dies), PATIENCE), DeadLetter)
    assert bench.state is CircuitState.CLOSED


@pytest.mark.parametrize("then", ["others succeed", "it opens"])
async def test_a_last_attempt_is_tried_again_after_what_comes_next(then: str) -> None:
    bench = Bench(replace(RETRY, backoff=20, max_backoff=20))
    last = asyncio.create_task(bench.attempt(message(1, "a"), dies))
    await asyncio.sleep(0)
    if then == "it opens":
        await bench.open()
    else:
        await bench.attempt(message(2, "b"), done)
    outcome = await asyncio.wait_for(last, PATIENCE)
    assert isinstance(outcome, RetryLater)
    assert not outcome.counts


async def test_a_last_attempt_that_waits_is_handed_back_with_its_partition() -> None:
    bench = Bench(replace(RETRY, backoff=20, max_backoff=20))
    last = asyncio.create_task(bench.attempt(message(1), dies))
    await asyncio.sleep(0)
    bench.leaving.set()
    (end,) = await asyncio.gather(last, return_exceptions=True)
    assert type(end).__name__ == "HandedBack"


# ── off ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_turned_off_it_changes_nothing() -> None:
    bench = Bench(keys=0)
    for number in range(20):
        assert isinstance(await bench.attempt(message(number, f"k{number}"), dies), DeadLetter)
    assert bench.turns == []
    assert not bench.guard.holds(OPERATION)


async def test_what_fails_before_its_handler_is_none_of_its_failures() -> None:
    bench = Bench()
    for number in range(20):
        async with bench.guard.admitted(bench.passage(), message(number, f"k{number}")) as admitted:
            outcome = away()
            assert await bench.guard.decide(admitted, outcome) is outcome
    assert bench.state is CircuitState.CLOSED
