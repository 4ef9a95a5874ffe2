"""Laws of the back-off, over policies and draws of any kind."""

from __future__ import annotations

from itertools import pairwise
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from broker_mesh.errors import MeshError, Unavailable
from broker_mesh.layers.retry import LONGEST_BACKOFF, Cause, Retry, next_attempt, policy_for
from broker_mesh.layers.settle import classify_exception
from broker_mesh.status import STATUS_RULES, StatusCode

ERROR = Unavailable("x")


@st.composite
def policies(draw: st.DrawFn) -> Retry:
    max_backoff = draw(st.floats(1e-3, LONGEST_BACKOFF))
    return Retry(
        attempts=draw(st.integers(1, 10**6)),
        backoff=draw(st.floats(1e-6, 1.0)) * max_backoff,
        factor=draw(st.floats(1, 1000)),
        max_backoff=max_backoff,
        elapsed=draw(st.none() | st.floats(1e-3, LONGEST_BACKOFF)),
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


@given(
    policies(),
    attempts,
    fractions,
    moments,
    st.none() | st.integers(-(10**6), 10**12),
    st.none() | st.integers(0, 10**9),
    st.none() | st.floats(0, 10**7),
)
def test_the_next_attempt_is_neither_too_early_nor_late_nor_past_a_limit(
    retry: Retry,
    attempt: int,
    fraction: float,
    now: int,
    room: int | None,
    since_first: int | None,
    retry_after: float | None,
) -> None:
    deadline = None if room is None else now + room
    first_failure = None if since_first is None else now - since_first
    due = next_attempt(
        retry,
        Unavailable("x", retry_after=retry_after),
        attempt=attempt,
        now=now,
        deadline=deadline,
        draw=lambda: fraction,
        first_failure=first_failure,
    )
    asked = (retry_after or 0) * 1000
    latest = now + asked + retry.ceiling(attempt) * 1000 + 2
    ends = [] if deadline is None else [float(deadline)]
    if retry.elapsed is not None:
        ends.append((now if first_failure is None else first_failure) + retry.elapsed * 1000)
    if due is None:
        assert attempt >= retry.attempts or any(latest >= end for end in ends)
        return
    assert attempt < retry.attempts
    assert now + asked <= due <= latest
    assert all(due <= end for end in ends)
    assert deadline is None or due < deadline


@given(policies(), attempts, fractions, fractions)
def test_a_larger_draw_never_comes_earlier(retry: Retry, attempt: int, one: float, other: float) -> None:
    moments = [
        next_attempt(retry, ERROR, attempt=attempt, now=0, deadline=None, draw=lambda drawn=drawn: drawn)  # type: ignore[misc]
        for drawn in sorted((one, other))
    ]
    # No attempt at all is the latest of them: a larger draw may be past the elapsed limit.
    assert moments == sorted(moments, key=lambda due: inf if due is None else due)


class Base(Exception):
    pass


class Left(Base):
    pass


class Right(Base):
    pass


class Both(Left, Right):
    pass


KINDS: list[type[Exception]] = [Exception, Base, Left, Right, Both, KeyError, MeshError, Unavailable]
STATUSES = [status for status in StatusCode if status is not StatusCode.OK]
causes: st.SearchStrategy[Cause] = st.sampled_from([*KINDS, *STATUSES])
raised: st.SearchStrategy[Exception] = st.sampled_from(KINDS).map(lambda kind: kind("x")) | st.sampled_from(
    STATUSES
).map(lambda status: MeshError.of(status, "x"))


@given(
    st.dictionaries(causes, st.integers(1, 9).map(lambda n: Retry(attempts=n))), st.lists(raised, min_size=1)
)
def test_the_entry_that_holds_fits_and_none_that_fits_is_more_specific(
    per: dict[Cause, Retry], chain: list[Exception]
) -> None:
    error = classify_exception(chain[0])
    for effect, cause in pairwise(chain):
        effect.__cause__ = cause
    own = Retry(attempts=77)
    held = policy_for(Retry(attempts=77, per=per), error)
    fitting = [
        kind
        for kind in per
        if isinstance(kind, type) and any(isinstance(each, kind) for each in (error, *chain))
    ]
    if fitting:
        most_specific = [
            kind
            for kind in fitting
            if not any(other is not kind and issubclass(other, kind) for other in fitting)
        ]
        assert held in [per[kind] for kind in most_specific]
    elif error.status in per:
        assert held == per[error.status]
    else:
        assert (held and held.attempts) == (own.attempts if STATUS_RULES[error.status].retriable else None)
