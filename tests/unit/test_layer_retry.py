"""Retries: whether and when another attempt follows."""

from __future__ import annotations

import math
from typing import Any

import pytest

from broker_mesh.errors import (
    InternalError,
    MeshError,
    MessageTooLarge,
    NotFound,
    ResourceExhausted,
    SettingsError,
    Unavailable,
    UnknownError,
)
from broker_mesh.layers.retry import LONGEST_BACKOFF, MAX_ATTEMPTS, Retry, due_time, next_attempt, policy_for
from broker_mesh.layers.settle import classify_exception
from broker_mesh.status import StatusCode

NOW = 1_000_000


@pytest.mark.parametrize(
    ("attempt", "expected"), [(1, 0.2), (2, 0.4), (3, 0.8), (8, 25.6), (9, 30.0), (10**9, 30.0)]
)
def test_the_ceiling_doubles_up_to_its_limit(attempt: int, expected: float) -> None:
    assert Retry().ceiling(attempt) == pytest.approx(expected)


def test_a_factor_of_one_keeps_the_ceiling() -> None:
    assert {Retry(factor=1.0).ceiling(attempt) for attempt in range(1, 100)} == {0.2}


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, NOW), (0.5, NOW + 100), (0.999, NOW + 200)])
def test_the_delay_is_drawn_between_nothing_and_the_ceiling(fraction: float, expected: int) -> None:
    assert due(fraction=fraction) == expected


def due(
    error: MeshError | None = None,
    attempt: int = 1,
    deadline: int | None = None,
    fraction: float = 0.5,
    attempts: int = 3,
) -> int | None:
    return next_attempt(
        Retry(attempts=attempts),
        error or Unavailable("x"),
        attempt=attempt,
        now=NOW,
        deadline=deadline,
        draw=lambda: fraction,
    )


@pytest.mark.parametrize(
    ("attempt", "attempts", "again"),
    [(1, 1, False), (1, 2, True), (2, 2, False), (3, 2, False), (4, 5, True)],
)
def test_there_are_as_many_attempts_as_the_policy_says(attempt: int, attempts: int, again: bool) -> None:
    assert (due(attempt=attempt, attempts=attempts) is not None) is again


@pytest.mark.parametrize("error", [NotFound("x"), MessageTooLarge("x")])
def test_what_no_later_attempt_can_cure_is_not_tried_again(error: MeshError) -> None:
    assert due(error) is None


@pytest.mark.parametrize(
    ("deadline", "expected"), [(NOW + 101, NOW + 100), (NOW + 100, None), (NOW - 1, None), (None, NOW + 100)]
)
def test_nothing_is_scheduled_at_or_past_the_deadline(deadline: int | None, expected: int | None) -> None:
    assert due(deadline=deadline) == expected


@pytest.mark.parametrize(
    ("first_failure", "expected"),
    [
        (None, NOW + 100),  # this failure is the first
        (NOW - 900, NOW + 100),  # due exactly when the limit is reached
        (NOW - 901, None),
        (NOW - 10_000, None),
    ],
)
def test_no_attempt_is_due_after_the_elapsed_limit(first_failure: int | None, expected: int | None) -> None:
    due = next_attempt(
        Retry(attempts=MAX_ATTEMPTS, elapsed=1.0),
        Unavailable("x"),
        attempt=1,
        now=NOW,
        deadline=None,
        draw=lambda: 0.5,
        first_failure=first_failure,
    )
    assert due == expected


def test_an_error_that_says_when_to_come_back_is_obeyed_with_the_jitter_on_top() -> None:
    assert due(Unavailable("x", retry_after=1.5)) == NOW + 1500 + 100
    assert due(Unavailable("x", retry_after=1.5), fraction=0) == NOW + 1500
    assert due(Unavailable("x", retry_after=0.0001), fraction=0) == NOW + 1, "not a moment earlier"
    assert due(Unavailable("x", retry_after=1.5), deadline=NOW + 1600) is None
    assert due(NotFound("x", retry_after=1.5)) is None, "it says when, not whether"


class Throttled(ResourceExhausted):
    """A user's own error."""


class Hopeless(Unavailable):
    """One that says itself that no later attempt can succeed."""

    @property
    def retriable(self) -> bool:
        return False


STATUS, CLASS, BASE, WIDE, OWN = (Retry(attempts=number) for number in (11, 12, 13, 14, 2))
UNAVAILABLE, REFUSED = Unavailable("x"), ConnectionRefusedError("x")


def caused(error: MeshError, *causes: BaseException) -> MeshError:
    raised: BaseException = error
    for cause in causes:
        raised.__cause__ = cause
        raised = cause
    return error


@pytest.mark.parametrize(
    ("per", "error", "expected"),
    [
        # The table of status.py, where nothing is said.
        ({}, Unavailable("x"), OWN),
        ({}, NotFound("x"), None),
        ({ValueError: CLASS}, Unavailable("x"), OWN),
        # A status; also one that is no failure by the table.
        ({StatusCode.UNAVAILABLE: STATUS}, Unavailable("x"), STATUS),
        ({StatusCode.NOT_FOUND: STATUS}, NotFound("x"), STATUS),
        ({StatusCode.UNKNOWN: STATUS}, classify_exception(KeyError("x")), STATUS),
        # A class beats a status, and its base classes, wherever in the chain of causes it stands.
        ({StatusCode.UNAVAILABLE: STATUS, Unavailable: CLASS}, Unavailable("x"), CLASS),
        ({ResourceExhausted: BASE, Throttled: CLASS}, Throttled("x"), CLASS),
        ({ResourceExhausted: BASE, Throttled: CLASS}, ResourceExhausted("x"), BASE),
        ({OSError: BASE, ConnectionError: CLASS}, classify_exception(REFUSED), CLASS),
        ({ConnectionError: CLASS, OSError: BASE}, classify_exception(REFUSED), CLASS),
        ({Exception: WIDE, ConnectionError: CLASS}, classify_exception(REFUSED), CLASS),
        ({Exception: WIDE, OSError: BASE}, classify_exception(REFUSED), BASE),
        ({MeshError: WIDE, ConnectionError: CLASS}, classify_exception(REFUSED), CLASS),
        ({BaseException: WIDE}, classify_exception(SystemExit(1)), WIDE),
        ({UnknownError: CLASS}, classify_exception(KeyError("x")), CLASS),
        # Of two that are not related, what was raised beats what caused it.
        ({Unavailable: CLASS, KeyError: BASE}, caused(Unavailable("x"), KeyError("x")), CLASS),
        ({KeyError: BASE, Unavailable: CLASS}, caused(Unavailable("x"), KeyError("x")), CLASS),
        ({KeyError: BASE}, caused(Unavailable("x"), ValueError("y"), KeyError("x")), BASE),
        # What can never succeed stays that way.
        ({MessageTooLarge: CLASS}, MessageTooLarge("x"), None),
        ({StatusCode.RESOURCE_EXHAUSTED: STATUS}, MessageTooLarge("x"), None),
        ({Hopeless: CLASS}, Hopeless("x"), None),
    ],
)
def test_the_entry_that_fits_a_failure_best_holds(
    per: dict[Any, Retry], error: MeshError, expected: Retry | None
) -> None:
    policy = policy_for(Retry(attempts=2, per=per), error)
    assert (policy and policy.attempts) == (expected and expected.attempts)


def test_a_chain_of_causes_that_bites_its_tail_ends() -> None:
    one, other = Unavailable("x"), ValueError("y")
    one.__cause__, other.__cause__ = other, one
    assert policy_for(Retry(per={KeyError: CLASS}), one) is not None


def test_an_entry_decides_with_its_own_limits() -> None:
    retry = Retry(
        attempts=2,
        per={InternalError: Retry(attempts=3, backoff=10, elapsed=60), ValueError: Retry(attempts=1)},
    )

    def due_after(error: MeshError, attempt: int, first_failure: int = NOW) -> int | None:
        return next_attempt(
            retry,
            error,
            attempt=attempt,
            now=NOW,
            deadline=None,
            draw=lambda: 0.5,
            first_failure=first_failure,
        )

    assert due_after(InternalError("x"), 2) == NOW + 10_000
    assert due_after(InternalError("x"), 3) is None
    assert due_after(InternalError("x"), 2, first_failure=NOW - 51_000) is None
    assert due_after(Unavailable("x"), 1) is not None
    assert due_after(Unavailable("x"), 2) is None
    assert due_after(classify_exception(ValueError("x")), 1) is None


def test_a_policy_is_a_value() -> None:
    entries: dict[Any, Retry] = {ValueError: Retry(attempts=1)}
    one, other = Retry(per=entries), Retry(per=dict(entries))
    entries[KeyError] = Retry(attempts=7)
    assert one == other
    assert hash(one) == hash(other)
    assert KeyError not in one.per, "what was given is copied"


@pytest.mark.parametrize(
    "arguments",
    [
        {"attempts": 0},
        {"backoff": 0},
        {"backoff": -1},
        {"backoff": math.nan},
        {"backoff": 31},
        {"max_backoff": 0.1},
        {"max_backoff": math.inf},
        {"factor": 0.5},
        {"factor": math.nan},
        {"factor": 1e9},
        {"attempts": 2.5},
        {"attempts": True},
        {"attempts": "5"},
        {"attempts": 10**10},
        {"backoff": "0.2"},
        {"max_backoff": None},
        {"factor": "2"},
        {"elapsed": 0},
        {"elapsed": -1},
        {"elapsed": math.nan},
        {"elapsed": math.inf},
        {"elapsed": "60"},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_its_values(arguments: dict[str, Any]) -> None:
    (name, value), *_ = arguments.items()
    with pytest.raises(SettingsError) as caught:
        Retry(**arguments)
    assert f"{name}={value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("per", "sentence"),
    [
        ([ValueError], "give a dict of status codes or exception classes"),
        ({14: Retry()}, "an entry is of a StatusCode other than OK, or of an exception class"),
        ({"UNAVAILABLE": Retry()}, "an entry is of a StatusCode"),
        ({StatusCode.OK: Retry()}, "other than OK"),
        ({int: Retry()}, "an entry is of a StatusCode"),
        ({ValueError("x"): Retry()}, "an entry is of a StatusCode"),
        ({ValueError: 3}, "Retry(per={ValueError: 3}): give a Retry"),
        ({StatusCode.ABORTED: None}, "Retry(per={ABORTED: None}): give a Retry"),
        ({ValueError: Retry(per={KeyError: Retry()})}, "has no per of its own"),
    ],
)
def test_entries_that_make_no_sense_are_refused_in_one_sentence(per: Any, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Retry(per=per)
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message


YEAR = LONGEST_BACKOFF * 1000


@pytest.mark.parametrize(
    ("retry_at", "written", "due"),
    [
        (None, NOW, None),
        (NOW - 1, NOW, NOW - 1),
        (NOW + 2 * YEAR, NOW, NOW + 2 * YEAR),
        (NOW + 2 * YEAR + 1, NOW, None),  # no policy comes to that
        (NOW + 2 * YEAR + 1, -1, NOW + 2 * YEAR + 1),  # nobody knows how far off that was
        (10**18 - 1, NOW, None),
    ],
)
def test_a_record_is_due_when_it_says_unless_that_is_out_of_all_reason(
    retry_at: int | None, written: int, due: int | None
) -> None:
    assert due_time(retry_at, written=written) == due


def test_the_longest_delay_of_all_is_within_reason() -> None:
    longest = Retry(attempts=9, backoff=LONGEST_BACKOFF, max_backoff=LONGEST_BACKOFF)
    error = Unavailable("a year", retry_after=LONGEST_BACKOFF)
    at = next_attempt(longest, error, attempt=1, now=NOW, deadline=None, draw=lambda: 1.0)
    assert at == due_time(at, written=NOW)
