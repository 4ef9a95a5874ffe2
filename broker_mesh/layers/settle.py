"""Settlement: every way a message can end becomes one outcome, once, and is carried out.

On the way of a message: inbound, outermost but for the trace, so that nothing a check or a handler raises
escapes it. The outcome is carried out by `settle.py`, which is handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from broker_mesh.errors import DeadlineExceeded, InternalError, MeshError, UnknownError
from broker_mesh.layer import Layer, Step
from broker_mesh.layers.retry import DrawFraction, Retry, next_attempt
from broker_mesh.message import Message
from broker_mesh.outcome import HandlerError, Outcome, RetryLater, final

logger = logging.getLogger(__name__)


def classify_exception(error: BaseException) -> MeshError:
    """Give the mesh's error for whatever a handler raised: its own, or UNKNOWN for anything else."""
    if isinstance(error, MeshError):
        return error
    unclassified = UnknownError(
        f"{type(error).__name__}: {error}", details={"exception": type(error).__qualname__}
    )
    unclassified.__cause__ = error
    return unclassified


def classify_failure(
    message: Message,
    error: MeshError,
    *,
    started: bool,
    retry: Retry,
    now: int,
    draw: DrawFraction,
) -> Outcome:
    """Decide what becomes of a message whose attempt failed.

    Args:
        message: the message, with its attempt number and deadline.
        error: what it failed with.
        started: whether the handler ran.
        retry: the operation's policy.
        now: epoch ms.
        draw: the jitter.
    """
    envelope = message.envelope
    if not started and error.retriable:
        # The mesh itself could not check the message (its registry is away): that is no attempt of the handler.
        return RetryLater(now + round(retry.ceiling(envelope.attempt) * draw() * 1000), error, counts=False)
    due = next_attempt(retry, error, attempt=envelope.attempt, now=now, deadline=envelope.deadline, draw=draw)
    if due is not None:
        return RetryLater(due, error)
    # A handler's own DEADLINE_EXCEEDED (a nested call that ran out) is a failure of this work, not an expiry of it.
    expired = envelope.deadline is not None and envelope.deadline <= now
    handled = started and not (isinstance(error, DeadlineExceeded) and expired)
    return final(error, expects_reply=message.expects_reply, started=handled)


def layer(
    retry_of: Callable[[Message], Retry],
    carry_out: Callable[[Message, Outcome], Awaitable[None]],
    clock: Callable[[], int],
    draw: DrawFraction,
) -> Layer[Outcome]:
    """Make the inbound layer.

    Args:
        retry_of: tells the retry policy of a message's operation.
        carry_out: settles a message durably; returns when that is acknowledged.
        clock: gives epoch ms.
        draw: the jitter of retries.
    """

    def around(rest: Step[Outcome]) -> Step[Outcome]:
        async def step(message: Message) -> Outcome:
            try:
                outcome = await rest(message)
            except (MeshError, HandlerError) as failure:
                started = isinstance(failure, HandlerError)
                error = failure.error if isinstance(failure, HandlerError) else failure
                outcome = classify_failure(
                    message, error, started=started, retry=retry_of(message), now=clock(), draw=draw
                )
            except Exception as bug:
                # A check met what it was not made for: this record is kept, and must not stop all others.
                logger.exception("a check failed on %s %s", message.operation, message.envelope.id)
                internal = InternalError(f"{type(bug).__name__} in a check of the mesh: {bug}")
                internal.__cause__ = bug
                outcome = final(internal, expects_reply=message.expects_reply, started=False)
            await carry_out(message, outcome)
            return outcome

        return step

    return Layer("settle", around)
