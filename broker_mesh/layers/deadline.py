"""Deadlines: work that has expired is not begun, and what a handler asks for expires with its own work.

On the way of a message: outbound, the deadline is set before anything is checked or encoded; inbound, expired
work is refused before it costs an access check or a decode.
"""

from __future__ import annotations

from collections.abc import Callable

from broker_mesh.errors import DeadlineExceeded, InvalidArgument
from broker_mesh.layer import Layer, R, check
from broker_mesh.message import Message

LONGEST_SECONDS = 100 * 365 * 86_400


def earliest(now: int, expires_in: float | None, inherited: int | None) -> int | None:
    """Decide a request's deadline.

    Args:
        now: epoch ms.
        expires_in: how long the work is worth doing, seconds; None for no limit of its own.
        inherited: deadline of the work on whose behalf the request is made, epoch ms.

    Returns:
        Epoch ms, the earlier of both; None for no deadline.

    Raises:
        InvalidArgument: `expires_in` is not above 0, or is longer than a century.
    """
    if expires_in is None:
        return inherited
    if not 0 < expires_in <= LONGEST_SECONDS:
        raise InvalidArgument(
            f"expires_in is {expires_in}: give seconds above 0 and at most {LONGEST_SECONDS} (a century), "
            "or None for no limit"
        )
    own = now + round(expires_in * 1000)
    return own if inherited is None else min(own, inherited)


def refuse_expired(message: Message, now: int) -> Message:
    """Let a message pass unless its deadline is over.

    Raises:
        DeadlineExceeded: it is.
    """
    deadline = message.envelope.deadline
    if deadline is not None and deadline <= now:
        raise DeadlineExceeded(
            f"the work expired {(now - deadline) / 1000:.1f} s ago, before it was begun",
            details={"deadline": deadline},
        )
    return message


def layer(clock: Callable[[], int]) -> Layer[R]:
    """Make the layer of both directions; `clock` gives epoch ms."""
    return check("deadline", lambda message: refuse_expired(message, clock()))
