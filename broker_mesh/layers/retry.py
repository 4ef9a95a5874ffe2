"""Retries: whether and when a failed attempt is followed by another.

On the way of a message: asked by the settle layer, once per failure. Exponential back-off with full jitter
(Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): the delay is drawn evenly between 0
and a ceiling that grows with each attempt, so that callers who failed together don't return together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker_mesh.errors import MeshError, SettingsError

LONGEST_BACKOFF = 365 * 86_400
"""Bound of every delay, in seconds."""

DrawFraction = Callable[[], float]
"""Gives a number in [0, 1); `random.random` in production."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how fast a failing record is tried again.

    Args:
        attempts: how many in all, the first included; 1 for no retry.
        backoff: ceiling of the first delay, seconds.
        factor: how much the ceiling grows with each attempt.
        max_backoff: ceiling that it never exceeds, seconds.

    Raises:
        SettingsError: a value is out of range.
    """

    attempts: int = 5
    backoff: float = 0.2
    factor: float = 2.0
    max_backoff: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise SettingsError(f"Retry(attempts={self.attempts}): give 1 or more")
        if not 0 < self.backoff <= self.max_backoff <= LONGEST_BACKOFF:
            raise SettingsError(
                f"Retry(backoff={self.backoff}, max_backoff={self.max_backoff}): give seconds, "
                f"with backoff above 0 and at most max_backoff, and that at most {LONGEST_BACKOFF} (a year)"
            )
        if not 1 <= self.factor <= 1000:
            raise SettingsError(f"Retry(factor={self.factor}): give a number from 1 to 1000")

    def ceiling(self, attempt: int) -> float:
        """Tell the longest delay after the given attempt (1 is the first), seconds."""
        # Factor and exponent are bounded, so that no attempt number overflows a float.
        return min(self.max_backoff, self.backoff * self.factor ** min(attempt - 1, 60))


def next_attempt(
    retry: Retry,
    error: MeshError,
    *,
    attempt: int,
    now: int,
    deadline: int | None,
    draw: DrawFraction,
) -> int | None:
    """Decide when the next attempt is due.

    Args:
        retry: the policy.
        error: what this attempt failed with.
        attempt: its number; 1 is the first.
        now: epoch ms.
        deadline: of the work, epoch ms; nothing is scheduled past it.
        draw: the jitter.

    Returns:
        Epoch ms, or None when no attempt is left.
    """
    if not error.retriable or attempt >= retry.attempts:
        return None
    due = now + round(retry.ceiling(attempt) * draw() * 1000)
    if deadline is not None and due >= deadline:
        return None
    return due
