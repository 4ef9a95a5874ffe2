"""Retries: whether and when another attempt follows."""

from __future__ import annotations

import math
from typing import Any

import pytest

from broker_mesh.errors import MeshError, MessageTooLarge, NotFound, SettingsError, Unavailable
from broker_mesh.layers.retry import Retry, next_attempt

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
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_its_values(arguments: dict[str, Any]) -> None:
    (name, value), *_ = arguments.items()
    with pytest.raises(SettingsError) as caught:
        Retry(**arguments)
    assert f"{name}={value}" in str(caught.value)
