"""Evidence: what an attempt's outcome says of its handler, beside what it says of the message.

On the way of a message: asked by `guard.py` when a handler has ended, before anything is carried out.
"""

from __future__ import annotations

from broker_mesh.circuit import Cause, Failure, Pace
from broker_mesh.layers.retry import Retry, policy_for
from broker_mesh.message import Message, now_ms
from broker_mesh.outcome import DeadLetter, Done, Outcome, RetryLater
from broker_mesh.status import STATUS_RULES, DeadLettered, StatusCode

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_UNDECIDED_SECONDS = 10.0
_PATIENCE_SECONDS = 3600.0

# Nobody knows what such work would have come to: it is no success of its handler.
_NO_RESULT = frozenset({StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED})


def pace_of(retry: Retry) -> Pace:
    """Give the times of an operation's circuit: none is out of proportion to the policy's own back-off."""
    longest = retry.max_backoff
    return Pace(
        first_pause=min(_FIRST_PAUSE_SECONDS, longest),
        longest_pause=min(_LONGEST_PAUSE_SECONDS, longest),
        undecided=min(_UNDECIDED_SECONDS, 10 * longest),
        patience=max(_PATIENCE_SECONDS, 60 * longest),
    )


def failure_of(message: Message, outcome: Outcome, retry: Retry, *, now: float, at: int) -> Failure | None:
    """Tell what an outcome of a handler says against what the handler needs; None where it says nothing of the kind.

    Args:
        message: what was handled.
        outcome: what its attempt comes to.
        retry: the operation's policy.
        now: by the circuit's clock.
        at: the same moment, epoch ms.
    """
    if not isinstance(outcome, RetryLater | DeadLetter) or is_result(outcome):
        return None
    error, envelope = outcome.error, message.envelope
    if isinstance(outcome, DeadLetter) and error.status in _NO_RESULT and is_expired(message, at):
        return None
    if (error.retry_after or 0) > _LONGEST_PAUSE_SECONDS:
        return None  # the handler itself plans when it is to be asked again
    policy = policy_for(retry, error)
    failed_for = 0 if envelope.first_failure is None else max(0, at - envelope.first_failure)
    record = message.record
    place = None if record is None else (record.topic, record.partition, record.offset)
    return Failure(
        cause=Cause(error.status, type(error.__cause__ or error).__qualname__),
        key=place if message.key is None else message.key,
        ends=isinstance(outcome, DeadLetter),
        curable=policy is not None and policy.attempts > 1,
        since=now - failed_for / 1000,
    )


def is_result(outcome: Outcome) -> bool:
    """Tell whether an outcome shows that a handler works: a reply, or an error that is an answer."""
    match outcome:
        case Done(_, error):
            return error is None or error.status not in _NO_RESULT
        case DeadLetter(error):  # one-way work: nobody else would hear of the answer
            is_answer = STATUS_RULES[error.status].dead_lettered is DeadLettered.IF_UNANSWERED
            return is_answer and error.status not in _NO_RESULT
        case _:
            return False


def is_expired(message: Message, now: int) -> bool:
    """Tell whether a message's work is worth doing no more, at a time (epoch ms)."""
    return message.envelope.deadline is not None and message.envelope.deadline <= now


def again(outcome: RetryLater | DeadLetter) -> RetryLater:
    """Make of a failure another attempt in place, of which the record has as many left as before."""
    if isinstance(outcome, RetryLater):
        return outcome._replace(counts=False, parked=False)
    asked = outcome.error.retry_after or 0
    return RetryLater(now_ms() + round(asked * 1000), outcome.error, counts=False)
