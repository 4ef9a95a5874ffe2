"""Settlement: every way a message can end becomes one outcome, once, and is carried out.

On the way of a message: inbound, outermost but for the trace, so that nothing a check or a handler raises
escapes it. The outcome is carried out by `settle.py`, which is handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from broker_mesh.errors import DeadlineExceeded, InternalError, MeshError, UnknownError
from broker_mesh.headers import MAX_TEXT_BYTES
from broker_mesh.layer import Layer, Step
from broker_mesh.layers.retry import DrawFraction, Retry, next_attempt
from broker_mesh.message import Message
from broker_mesh.outcome import HandlerError, Outcome, RetryLater, final
from broker_mesh.status import StatusCode

logger = logging.getLogger(__name__)

Guard: TypeAlias = Callable[[Message, Outcome], Awaitable[Outcome]]
"""Decides once more on what an attempt comes to, by what becomes of others."""


async def unguarded(_: Message, outcome: Outcome) -> Outcome:
    """Let each attempt stand for itself."""
    return outcome


def classify_exception(error: BaseException) -> MeshError:
    """Give the mesh's error for whatever a handler raised: its own, or UNKNOWN for anything else.

    What is an error of the mesh by its class alone (its status is OK or none, its message is no text) counts as
    anything else: it could be neither answered nor kept.
    """
    if isinstance(error, MeshError) and _is_sound(error):
        return error
    name = type(error).__qualname__
    unclassified = UnknownError(f"{type(error).__name__}: {text_of(error)}", details={"exception": name})
    unclassified.__cause__ = error
    return unclassified


def text_of(error: BaseException) -> str:
    """Give an exception's text, bounded; also of one that can't give it."""
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - the user's code: it must not cost the message
        return f"(its text can't be had: {type(broken).__name__})"
    return text if len(text) <= MAX_TEXT_BYTES else text[: MAX_TEXT_BYTES - 1] + "…"


def _is_sound(error: MeshError) -> bool:
    try:
        return (
            isinstance(error.status, StatusCode)
            and error.status is not StatusCode.OK
            and isinstance(error.message, str)
            and isinstance(error.details, dict)
            and isinstance(error.retriable, bool)
            and bool(str(error))
        )
    except Exception:  # noqa: BLE001 - a subclass without __init__, or with a property that raises
        return False


def classify_failure(
    message: Message,
    error: MeshError,
    *,
    started: bool,
    retry: Retry,
    now: int,
    draw: DrawFraction,
    parks: Callable[[Message, int], bool] = lambda _, __: False,
) -> Outcome:
    """Decide what becomes of a message whose attempt failed.

    Args:
        message: the message, with its attempt number, its deadline, and when it failed first.
        error: what it failed with.
        started: whether the handler ran.
        retry: the operation's policy.
        now: epoch ms.
        draw: the jitter.
        parks: tells whether the message waits for its next attempt in the retry topic, by when that is due (epoch ms).
    """
    envelope = message.envelope
    if not started and error.retriable:
        # The mesh itself could not check the message (its registry is away): that is no attempt of the handler.
        # It waits here: the next one could not be checked either, and a copy of each would help nobody.
        return RetryLater(now + retry.delay(error, envelope.attempt, draw), error, counts=False)
    due = None
    if started:
        due = next_attempt(
            retry,
            error,
            attempt=envelope.attempt,
            now=now,
            deadline=envelope.deadline,
            draw=draw,
            first_failure=envelope.first_failure,
        )
    if due is not None:
        return RetryLater(due, error, parked=parks(message, due))
    # A handler's own DEADLINE_EXCEEDED (a nested call that ran out) is a failure of this work, not an expiry of it.
    expired = envelope.deadline is not None and envelope.deadline <= now
    handled = started and not (isinstance(error, DeadlineExceeded) and expired)
    # What was put back from a dead letter and is refused again is kept again: its caller may have gone long ago.
    is_heard = message.expects_reply and (handled or envelope.replay_id is None)
    return final(error, expects_reply=is_heard, started=handled)


def layer(
    retry_of: Callable[[Message], Retry],
    carry_out: Callable[[Message, Outcome], Awaitable[Outcome]],
    clock: Callable[[], int],
    draw: DrawFraction,
    parks: Callable[[Message, int], bool] = lambda _, __: False,
    guard: Guard = unguarded,
) -> Layer[Outcome]:
    """Make the inbound layer.

    Args:
        retry_of: tells the retry policy of a message's operation.
        carry_out: settles a message durably; returns when that is acknowledged, with what became of it.
        clock: gives epoch ms.
        draw: the jitter of retries.
        parks: tells whether a message waits for its next attempt, due at a time (epoch ms), in the retry topic instead
            of in its place.
        guard: stands between what an attempt comes to and its settlement.
    """

    def around(rest: Step[Outcome]) -> Step[Outcome]:
        async def step(message: Message) -> Outcome:
            try:
                outcome = await rest(message)
            except (MeshError, HandlerError) as failure:
                started = isinstance(failure, HandlerError)
                error = failure.error if isinstance(failure, HandlerError) else failure
                outcome = classify_failure(
                    message,
                    error,
                    started=started,
                    retry=retry_of(message),
                    now=clock(),
                    draw=draw,
                    parks=parks,
                )
            except (Exception, SystemExit) as bug:
                # A check met what it was not made for (a model's validators are the user's code, and may raise
                # anything): this record is kept, and must not stop all others.
                logger.exception("a check failed on %s %s", message.operation, message.envelope.id)
                internal = InternalError(f"{type(bug).__name__} in a check of the mesh: {text_of(bug)}")
                internal.__cause__ = bug
                outcome = final(internal, expects_reply=message.expects_reply, started=False)
            return await carry_out(message, await guard(message, outcome))

        return step

    return Layer("settle", around)
