"""Settlement: how each way to end is classified, and that it is carried out once."""

from __future__ import annotations

import asyncio

import pytest

from broker_mesh.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MeshError,
    NotFound,
    PermissionDenied,
    Unavailable,
    UnknownError,
)
from broker_mesh.headers import Envelope, ReplyTo
from broker_mesh.layer import stack
from broker_mesh.layers import settle
from broker_mesh.layers.retry import Retry
from broker_mesh.layers.settle import classify_exception, classify_failure
from broker_mesh.message import Message
from broker_mesh.outcome import DeadLetter, Done, Drop, HandlerError, Outcome, RetryLater
from broker_mesh.status import StatusCode

NOW = 1_000_000
REPLY_TO = ReplyTo("dispatch.replies", 0)
RETRY = Retry(attempts=3)


def message(*, attempt: int = 1, deadline: int | None = None, reply: bool = True) -> Message:
    envelope = Envelope(
        id="1", source="dispatch", attempt=attempt, deadline=deadline, reply_to=REPLY_TO if reply else None
    )
    return Message("t", "t", envelope)


def classify(failed: Message, error: MeshError, *, started: bool) -> Outcome:
    return classify_failure(failed, error, started=started, retry=RETRY, now=NOW, draw=lambda: 0.5)


@pytest.mark.parametrize("error", [NotFound("x"), Unavailable("x")])
def test_an_error_of_the_mesh_that_a_handler_raises_keeps_its_status(error: MeshError) -> None:
    assert classify_exception(error) is error


def test_any_other_exception_is_unknown_and_names_its_type() -> None:
    cause = KeyError("tailnum")
    error = classify_exception(cause)
    assert isinstance(error, UnknownError)
    assert error.message == "KeyError: 'tailnum'"
    assert error.details == {"exception": "KeyError"}
    assert error.__cause__ is cause


class TextRaises(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Uninitialised(MeshError):
    def __init__(self) -> None:
        Exception.__init__(self, "without the mesh's own")


class Rude(MeshError):
    def __str__(self) -> str:
        raise SystemError("no text either")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (TextRaises(), "TextRaises: (its text can't be had: ValueError)"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (ExceptionGroup("two", [KeyError("a"), ValueError("b")]), "ExceptionGroup: two (2 sub-exceptions)"),
        (Uninitialised(), "Uninitialised: "),
        (Rude("x"), "Rude: (its text can't be had: SystemError)"),
        (NotFound(42), "NotFound: NOT_FOUND: 42"),  # type: ignore[arg-type]
        (MeshError("fine", status=StatusCode.OK), "MeshError: OK: fine"),
        (MeshError("x", status=5), "MeshError: "),  # type: ignore[arg-type]
        (MeshError("x", status="NOT_FOUND"), "MeshError: "),  # type: ignore[arg-type]
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_is_no_sound_error_of_the_mesh_is_unknown(raised: BaseException, said: str) -> None:
    error = classify_exception(raised)
    assert type(error) is UnknownError
    assert error.message.startswith(said)
    assert error.__cause__ is raised


def test_a_huge_text_is_cut() -> None:
    error = classify_exception(ValueError("x" * 10_000_000))
    assert len(error.message) < 3000
    assert error.message.endswith("…")


FAILURE, REFUSAL = UnknownError("boom"), InvalidArgument("bad")
ANSWER, LATE, AWAY = NotFound("none"), DeadlineExceeded("late"), Unavailable("registry")


@pytest.mark.parametrize(
    ("failed", "error", "started", "expected"),
    [
        # A handler's failure is tried again while attempts are left, then kept.
        (message(attempt=1), FAILURE, True, RetryLater(NOW + 100, FAILURE)),
        (message(attempt=2), FAILURE, True, RetryLater(NOW + 200, FAILURE)),
        (message(attempt=3), FAILURE, True, DeadLetter(FAILURE)),
        (message(attempt=1, deadline=NOW + 50), FAILURE, True, DeadLetter(FAILURE)),
        # An answer is the result of the work where it is heard, and kept where it is not.
        (message(), ANSWER, True, Done(error=ANSWER)),
        (message(reply=False), ANSWER, True, DeadLetter(ANSWER)),
        # What a check refuses never ran.
        (message(), REFUSAL, False, DeadLetter(REFUSAL)),
        (message(), ANSWER, False, Drop(ANSWER)),
        # Expired work is dropped and answered; one-way work leaves a dead letter.
        (message(deadline=NOW - 1), LATE, False, Drop(LATE)),
        (message(deadline=NOW - 1), LATE, True, Drop(LATE)),
        (message(deadline=NOW - 1, reply=False), LATE, False, DeadLetter(LATE)),
        # A nested call of the handler that ran out is the handler's answer.
        (message(), LATE, True, Done(error=LATE)),
        (message(deadline=NOW + 1), LATE, True, Done(error=LATE)),
        # A check that could not be made uses up no attempt, however many there have been.
        (message(attempt=1), AWAY, False, RetryLater(NOW + 100, AWAY, counts=False)),
        (message(attempt=9), AWAY, False, RetryLater(NOW + 15_000, AWAY, counts=False)),
    ],
)
def test_what_becomes_of_a_failure(
    failed: Message, error: MeshError, started: bool, expected: Outcome
) -> None:
    outcome = classify(failed, error, started=started)
    assert type(outcome) is type(expected)
    assert outcome == expected


def test_what_was_put_back_and_is_refused_again_is_kept_again() -> None:
    denied = PermissionDenied("a rule")
    replayed = message().with_envelope(replay_id="replay-1")
    assert classify(message(), denied, started=False) == Drop(denied)
    assert classify(replayed, denied, started=False) == DeadLetter(denied)
    expired = message(deadline=NOW - 1).with_envelope(replay_id="replay-1")
    assert classify(expired, LATE, started=True) == DeadLetter(LATE)
    assert classify(replayed, ANSWER, started=True) == Done(error=ANSWER)


def test_a_message_that_nothing_waits_behind_is_parked() -> None:
    outcome = classify_failure(
        message(), FAILURE, started=True, retry=RETRY, now=NOW, draw=lambda: 0.5, parks=lambda _, __: True
    )
    assert outcome == RetryLater(NOW + 100, FAILURE, parked=True)


def test_what_could_not_be_checked_waits_in_its_place_also_where_others_are_parked() -> None:
    outcome = classify_failure(
        message(), AWAY, started=False, retry=RETRY, now=NOW, draw=lambda: 0.5, parks=lambda _, __: True
    )
    assert outcome == RetryLater(NOW + 100, AWAY, counts=False)


def test_the_policy_of_a_failure_says_nothing_of_what_a_check_refuses() -> None:
    patient = Retry(per={InvalidArgument: Retry(attempts=9)})
    refused = classify_failure(message(), REFUSAL, started=False, retry=patient, now=NOW, draw=lambda: 0.5)
    raised = classify_failure(message(), REFUSAL, started=True, retry=patient, now=NOW, draw=lambda: 0.5)
    assert refused == DeadLetter(REFUSAL)
    assert isinstance(raised, RetryLater)


def test_the_elapsed_limit_holds_from_the_first_failure_that_the_message_remembers() -> None:
    patient = Retry(attempts=100, elapsed=60)
    for first_failure, more in ((None, True), (NOW - 59_000, True), (NOW - 61_000, False)):
        failed = message(attempt=2).with_envelope(first_failure=first_failure)
        outcome = classify_failure(failed, FAILURE, started=True, retry=patient, now=NOW, draw=lambda: 0.5)
        assert isinstance(outcome, RetryLater) is more


class Carried:
    """Carries outcomes out, and remembers them."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    async def __call__(self, _: Message, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        return outcome


async def settled(end: BaseException | Outcome, carried: Carried) -> Outcome:
    async def rest(_: Message) -> Outcome:
        if isinstance(end, BaseException):
            raise end
        return end

    layer = settle.layer(lambda _: RETRY, carried, lambda: NOW, lambda: 0.5)
    return await stack([layer], rest)(message())


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (Done(b"reply"), Done(b"reply")),
        (REFUSAL, DeadLetter(REFUSAL)),
        (HandlerError(ANSWER), Done(error=ANSWER)),
        (ANSWER, Drop(ANSWER)),
        (HandlerError(FAILURE), RetryLater(NOW + 100, FAILURE)),
    ],
    ids=["done", "refused", "answered", "refused with an answer", "failed"],
)
async def test_every_way_to_end_is_carried_out_once(end: BaseException | Outcome, expected: Outcome) -> None:
    carried = Carried()
    assert await settled(end, carried) == expected
    assert carried.outcomes == [expected]


async def test_a_message_whose_work_is_cancelled_is_not_settled() -> None:
    carried = Carried()
    with pytest.raises(asyncio.CancelledError):
        await settled(asyncio.CancelledError(), carried)
    assert carried.outcomes == []


async def test_an_outcome_that_cannot_be_carried_out_is_not_reported_as_one() -> None:
    class Broken(Carried):
        async def __call__(self, _: Message, outcome: Outcome) -> None:
            raise Unavailable("the dead-letter topic can't be written")

    with pytest.raises(Unavailable):
        await settled(Done(), Broken())


async def test_what_became_of_a_message_is_told_and_not_what_was_meant_for_it() -> None:
    kept = DeadLetter(REFUSAL)

    async def carry_out(_: Message, outcome: Outcome) -> Outcome:
        assert outcome == Done(b"reply")
        return kept

    async def handle(_: Message) -> Outcome:
        return Done(b"reply")

    layer = settle.layer(lambda _: RETRY, carry_out, lambda: NOW, lambda: 0.5)
    assert await stack([layer], handle)(message()) is kept


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        (TypeError("a check's own mistake"), "TypeError in a check of the mesh: a check's own mistake"),
        (SystemExit(1), "SystemExit in a check"),
        (TextRaises(), "its text can't be had"),
    ],
)
async def test_a_bug_in_a_check_keeps_the_record_and_stops_nothing_else(
    bug: BaseException, said: str
) -> None:
    carried_out: list[Outcome] = []

    async def carry_out(_: Message, outcome: Outcome) -> Outcome:
        carried_out.append(outcome)
        return outcome

    async def buggy(_: Message) -> Outcome:
        raise bug

    layer = settle.layer(lambda _: RETRY, carry_out, lambda: NOW, lambda: 0.5)
    outcome = await stack([layer], buggy)(message())
    assert carried_out == [outcome]
    assert isinstance(outcome, DeadLetter)
    assert said in outcome.error.message
