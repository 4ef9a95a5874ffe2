"""Idempotency keys: run, answer with the earlier result, or refuse."""

from __future__ import annotations

from typing import Any

import pytest

from broker_mesh.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    MeshError,
    NotFound,
    Unavailable,
)
from broker_mesh.headers import Envelope
from broker_mesh.layer import stack
from broker_mesh.layers import idempotency
from broker_mesh.layers.idempotency import Earlier, decide, digest, has_key, is_result, scope
from broker_mesh.message import Message
from broker_mesh.outcome import DeadLetter, Done, Drop, Outcome, Repeated, RetryLater

DAY = 86_400_000


def message(
    operation: str = "seats.v1.book", key: str | None = "k", source: str = "dispatch", value: bytes = b"1A"
) -> Message:
    return Message(operation, operation, Envelope(source=source, idempotency_key=key), value=value)


def earlier(value: bytes = b"1A") -> Earlier:
    return Earlier("id-1", digest(message(value=value)), Done(b"booked"), at=1000)


def test_without_an_earlier_result_a_request_runs() -> None:
    assert decide(message(), None, now=2000, kept_ms=DAY) is None


def test_the_same_request_gets_the_earlier_result() -> None:
    assert decide(message(), earlier(), now=2000, kept_ms=DAY) == Done(b"booked")


def test_another_body_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="'k' was used for another body, in request id-1"):
        decide(message(), earlier(b"2B"), now=2000, kept_ms=DAY)


@pytest.mark.parametrize("value", [b"1A", b"2B"])
def test_a_result_counts_for_its_time(value: bytes) -> None:
    assert decide(message(), earlier(value), now=1000 + DAY, kept_ms=DAY) is None


def test_a_key_is_one_within_its_caller_and_the_group_that_does_the_work() -> None:
    keys = {scope(message(key=key, source=source)) for source in ("a", "ab") for key in ("bc", "c")}
    assert len(keys) == 4
    assert len({scope(message(), group) for group in (None, "billing", "shipping")}) == 3


def test_events_and_requests_without_a_key_are_left_alone() -> None:
    assert has_key(message())
    assert not has_key(message(key=None))
    assert not has_key(message("seats.v1.events.booked"))


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Done(b"reply"), True),
        (Done(), True),
        (Done(error=NotFound("no such seat")), True),
        (Done(error=DeadlineExceeded("a nested call ran out")), False),
        (Done(error=Cancelled("given up")), False),
        (DeadLetter(InternalError("a bug")), False),
        (Drop(NotFound("refused")), False),
        (RetryLater(5, Unavailable("away")), False),
        (Repeated(), False),
    ],
)
def test_what_the_work_came_to_is_its_result(outcome: Outcome, expected: bool) -> None:
    assert is_result(outcome) is expected


@pytest.mark.parametrize(
    ("key", "answer", "ran"), [("k", Done(b"earlier"), 0), ("k", None, 1), (None, Done(b"earlier"), 1)]
)
async def test_the_layer_runs_what_has_no_answer_yet(key: str | None, answer: Done | None, ran: int) -> None:
    runs = 0

    async def begin(_: Message) -> Done | None:
        return answer

    async def handle(_: Message) -> Any:
        nonlocal runs
        runs += 1
        return Done(b"run")

    outcome = await stack([idempotency.layer(begin)], handle)(message(key=key))
    assert runs == ran
    assert outcome == (Done(b"run") if ran else answer)


async def test_a_refusal_does_not_reach_the_handler() -> None:
    async def begin(_: Message) -> Done | None:
        raise InvalidArgument("another body")

    async def handle(_: Message) -> Any:
        pytest.fail("it ran")

    with pytest.raises(MeshError, match="another body"):
        await stack([idempotency.layer(begin)], handle)(message())
