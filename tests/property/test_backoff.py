"""Laws of the back-off, over policies and draws of any kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker_mesh.errors import Unavailable
from broker_mesh.layers.retry import LONGEST_BACKOFF, Retry, next_attempt

ERROR = Unavailable("x")


@st.composite
def policies(draw: st.DrawFn) -> Retry:
    max_backoff = draw(st.floats(1e-3, LONGEST_BACKOFF))
    return Retry(
        attempts=draw(st.integers(1, 10**6)),
        backoff=draw(st.floats(1e-6, 1.0)) * max_backoff,
        factor=draw(st.floats(1, 1000)),
        max_backoff=max_backoff,
    )


attempts = st.integers(1, 10**7)
fractions = st.floats(0, 1, exclude_max=True)
moments = st.integers(0, 10**13)


@given(policies(), attempts)
def test_the_ceiling_stays_within_its_bounds(retry: Retry, attempt: int) -> None:
    assert retry.backoff <= retry.ceiling(attempt) <= retry.max_backoff


@given(policies(), attempts, attempts)
def test_the_ceiling_never_falls(retry: Retry, one: int, other: int) -> None:
    assert retry.ceiling(min(one, other)) <= retry.ceiling(max(one, other))


@given(policies(), attempts, fractions, moments, st.none() | st.integers(-(10**6), 10**12))
def test_the_next_attempt_is_neither_in_the_past_nor_late_nor_past_the_deadline(
    retry: Retry, attempt: int, fraction: float, now: int, room: int | None
) -> None:
    deadline = None if room is None else now + room
    due = next_attempt(retry, ERROR, attempt=attempt, now=now, deadline=deadline, draw=lambda: fraction)
    if due is None:
        assert attempt >= retry.attempts or (
            deadline is not None and now + retry.ceiling(attempt) * 1000 + 1 >= deadline
        )
        return
    assert attempt < retry.attempts
    assert now <= due <= now + retry.ceiling(attempt) * 1000 + 1
    assert deadline is None or due < deadline


@given(policies(), attempts, fractions, fractions)
def test_a_larger_draw_never_comes_earlier(retry: Retry, attempt: int, one: float, other: float) -> None:
    moments = [
        next_attempt(retry, ERROR, attempt=attempt, now=0, deadline=None, draw=lambda drawn=drawn: drawn)  # type: ignore[misc]
        for drawn in sorted((one, other))
    ]
    assert moments == sorted(moments, key=lambda due: due or 0)
