"""The one table of status codes."""

from __future__ import annotations

import pytest

from broker_mesh.status import STATUS_RULES, DeadLettered, StatusCode

RETRIABLE = {"UNKNOWN", "RESOURCE_EXHAUSTED", "ABORTED", "UNAVAILABLE"}
ANSWERS = {
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "UNAUTHENTICATED",
}


def test_the_codes_are_grpc_s_with_their_numbers() -> None:
    names = (
        "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
        "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE "
        "DATA_LOSS UNAUTHENTICATED"
    )
    assert [(code.name, code.value) for code in StatusCode] == [
        (name, number) for number, name in enumerate(names.split())
    ]


def test_every_code_has_a_rule() -> None:
    assert set(STATUS_RULES) == set(StatusCode)


@pytest.mark.parametrize("code", StatusCode)
def test_only_what_a_later_attempt_may_cure_is_retriable(code: StatusCode) -> None:
    assert STATUS_RULES[code].retriable == (code.name in RETRIABLE)


@pytest.mark.parametrize("code", StatusCode)
def test_a_caller_who_waits_is_always_told(code: StatusCode) -> None:
    assert STATUS_RULES[code].answered


@pytest.mark.parametrize("code", set(StatusCode) - {StatusCode.OK})
def test_answers_are_kept_only_where_nobody_hears_them_and_failures_always(code: StatusCode) -> None:
    expected = DeadLettered.IF_UNANSWERED if code.name in ANSWERS else DeadLettered.ALWAYS
    assert STATUS_RULES[code].dead_lettered is expected


def test_success_is_never_dead_lettered() -> None:
    assert STATUS_RULES[StatusCode.OK].dead_lettered is DeadLettered.NEVER
