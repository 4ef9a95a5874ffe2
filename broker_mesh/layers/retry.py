"""Retries: whether and when a failed attempt is followed by another.

On the way of a message: asked by the settle layer, once per failure of a handler. Exponential back-off with full
jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): the delay is drawn evenly between 0
and a ceiling that grows with each attempt, so that callers who failed together don't return together. Where an error
says how long to wait (`retry_after`), that comes first and the jitter on top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from broker_mesh.errors import MeshError, SettingsError, UnknownError
from broker_mesh.status import STATUS_RULES, StatusCode

LONGEST_BACKOFF = 365 * 86_400
"""Bound of every delay, in seconds."""

_FURTHEST_MS = 2 * LONGEST_BACKOFF * 1000
"""How far off the mesh's own retries are at most: what an error asks for, which has the same bound, and a back-off."""

MAX_ATTEMPTS = 1_000_000_000
"""Bound of attempts; who means "for ever" gives this, and what ends it is `elapsed` or the deadline."""

DrawFraction = Callable[[], float]
"""Gives a number in [0, 1); `random.random` in production."""

Cause: TypeAlias = StatusCode | type[BaseException]
"""What a failure may be told by: its status, or the class of what was raised."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how fast a failing record is tried again.

    Args:
        attempts: how many in all, the first included; 1 for no retry. All attempts at a message count, whatever
            each of them failed with.
        backoff: ceiling of the first delay, seconds.
        factor: how much the ceiling grows with each attempt.
        max_backoff: ceiling that it never exceeds, seconds.
        elapsed: no attempt is due later than so many seconds after the first failure; None for no limit.
        per: policies for some failures, in place of all the above: by status, or by the class of what the handler
            raised. A class beats a status, a class its base classes. More than one attempt makes a failure
            retriable that by its status is not; only what says itself that it can never succeed
            (`MessageTooLarge`) stays that way.

    Raises:
        SettingsError: a value is out of range, or of a wrong kind.
    """

    attempts: int = 5
    backoff: float = 0.2
    factor: float = 2.0
    max_backoff: float = 30.0
    elapsed: float | None = None
    per: Mapping[Cause, Retry] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not (_is_whole(self.attempts) and 1 <= self.attempts <= MAX_ATTEMPTS):
            raise SettingsError(
                f"Retry(attempts={self.attempts!r}): give a whole number from 1 to {MAX_ATTEMPTS}"
            )
        if not (
            _is_number(self.backoff)
            and _is_number(self.max_backoff)
            and 0 < self.backoff <= self.max_backoff <= LONGEST_BACKOFF
        ):
            raise SettingsError(
                f"Retry(backoff={self.backoff!r}, max_backoff={self.max_backoff!r}): give seconds, "
                f"with backoff above 0 and at most max_backoff, and that at most {LONGEST_BACKOFF} (a year)"
            )
        if not (_is_number(self.factor) and 1 <= self.factor <= 1000):
            raise SettingsError(f"Retry(factor={self.factor!r}): give a number from 1 to 1000")
        if self.elapsed is not None and not (
            _is_number(self.elapsed) and 0 < self.elapsed <= LONGEST_BACKOFF
        ):
            raise SettingsError(
                f"Retry(elapsed={self.elapsed!r}): give seconds above 0 and at most {LONGEST_BACKOFF} (a year), "
                "or None for no limit"
            )
        object.__setattr__(self, "per", _checked(self.per))

    def ceiling(self, attempt: int) -> float:
        """Tell the longest delay after the given attempt (1 is the first), seconds."""
        # Factor and exponent are bounded, so that no attempt number overflows a float.
        return min(self.max_backoff, self.backoff * self.factor ** min(attempt - 1, 60))

    def delay(self, error: MeshError, attempt: int, draw: DrawFraction) -> int:
        """Draw how long to wait after an attempt that failed with an error, ms: never less than it asks for."""
        return math.ceil((error.retry_after or 0) * 1000) + round(self.ceiling(attempt) * draw() * 1000)


def policy_for(retry: Retry, error: MeshError) -> Retry | None:
    """Tell the policy that holds for a failure: the entry of `per` that fits it best, else the operation's own.

    Returns:
        None where no later attempt can cure it.
    """
    if STATUS_RULES[error.status].retriable and not error.retriable:
        return None  # by its status it might be cured, and it says itself that it can't
    entry = _by_class(retry.per, error) or retry.per.get(error.status)
    if entry is not None:
        return entry
    return retry if error.retriable else None


def next_attempt(
    retry: Retry,
    error: MeshError,
    *,
    attempt: int,
    now: int,
    deadline: int | None,
    draw: DrawFraction,
    first_failure: int | None = None,
) -> int | None:
    """Decide when the next attempt is due.

    Args:
        retry: the operation's policy.
        error: what this attempt failed with.
        attempt: its number; 1 is the first.
        now: epoch ms.
        deadline: of the work, epoch ms; nothing is scheduled at or past it.
        draw: the jitter.
        first_failure: when the first attempt failed, epoch ms; None when that is now.

    Returns:
        Epoch ms, or None when no attempt is left.
    """
    policy = policy_for(retry, error)
    if policy is None or attempt >= policy.attempts:
        return None
    due = now + policy.delay(error, attempt, draw)
    if deadline is not None and due >= deadline:
        return None
    since = now if first_failure is None else first_failure
    if policy.elapsed is not None and due > since + policy.elapsed * 1000:
        return None
    return due


def due_time(retry_at: int | None, *, written: int) -> int | None:
    """Tell when a record of a retry topic is due, by its header and by when it was written, both epoch ms.

    Returns:
        None for at once; also where the header names a time that no policy comes to: another client has written it,
        in another unit perhaps, and the record would wait for ever. `written` is -1 where the record does not say.
    """
    if retry_at is None or (written >= 0 and retry_at > written + _FURTHEST_MS):
        return None
    return retry_at


def _by_class(per: Mapping[Cause, Retry], error: MeshError) -> Retry | None:
    """Find the entry of the most specific class; of two that are not related, what is nearer to what was raised."""
    best: type[BaseException] | None = None
    for raised in _chain(error):
        for kind in type(raised).__mro__:
            if kind in per and (best is None or (kind is not best and issubclass(kind, best))):
                best = kind
    return None if best is None else per[best]


def _chain(error: MeshError) -> Iterator[BaseException]:
    """Give what was raised and what caused it, nearest first."""
    chain: list[BaseException] = []
    raised: BaseException | None = error
    while raised is not None and all(raised is not seen for seen in chain):
        chain.append(raised)
        raised = raised.__cause__
    if type(error) is UnknownError:  # what the mesh puts around an exception that is none of its own
        chain.append(chain.pop(0))
    return iter(chain)


def _checked(per: Any) -> Mapping[Cause, Retry]:
    if not isinstance(per, Mapping):
        raise SettingsError(
            f"Retry(per={per!r}): give a dict of status codes or exception classes to Retry(…)"
        )
    for cause, policy in per.items():
        name = _name_of(cause)
        if not isinstance(policy, Retry):
            raise SettingsError(f"Retry(per={{{name}: {policy!r}}}): give a Retry(…) for each entry")
        if policy.per:
            raise SettingsError(
                f"Retry(per={{{name}: …}}): an entry has no per of its own: write it beside this one"
            )
    return MappingProxyType(dict(per))


def _name_of(cause: Any) -> str:
    if isinstance(cause, StatusCode) and cause is not StatusCode.OK:
        return cause.name
    if isinstance(cause, type) and issubclass(cause, BaseException):
        return cause.__name__
    raise SettingsError(
        f"Retry(per={{{cause!r}: …}}): an entry is of a StatusCode other than OK, or of an exception class"
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
