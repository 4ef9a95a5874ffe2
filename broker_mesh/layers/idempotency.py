"""Idempotency keys: of requests that a caller gives the same key, one is run and all get its result.

On the way of a message: inbound, around the handler alone, once the request is known to be good: what is refused before
takes no key. The result is written down by `idempotency.py` when it is settled, before it is answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeGuard

from broker_mesh import naming
from broker_mesh.errors import InvalidArgument
from broker_mesh.layer import Layer, Step
from broker_mesh.message import Message
from broker_mesh.outcome import Done, Outcome
from broker_mesh.status import StatusCode

_NO_RESULT = frozenset({StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED})


class Earlier(NamedTuple):
    """The result of an earlier request with the same key.

    Args:
        request_id: of that request.
        request_digest: of its value.
        outcome: what it was answered with.
        at: when that was written down, epoch ms.
    """

    request_id: str
    request_digest: str
    outcome: Done
    at: int


def has_key(message: Message) -> bool:
    """Tell whether a message is a request, or a one-way message, with an idempotency key; events have none."""
    return message.envelope.idempotency_key is not None and not naming.is_event(message.operation)


def scope(message: Message, group: str | None = None) -> bytes:
    """Give what a key is one within, beside its operation: the caller, and the key itself; neither has spaces.

    Args:
        message: the request.
        group: the consumer group that does the work, where it is not the service's own.
    """
    own = f"{message.envelope.source} {message.envelope.idempotency_key}"
    return (own if group is None else f"{own} {group}").encode()


def digest(message: Message) -> str:
    """Give the SHA-256 of a request's value as it came, its schema's id included, hex."""
    return hashlib.sha256(message.value or b"").hexdigest()


def decide(message: Message, earlier: Earlier | None, *, now: int, kept_ms: int) -> Done | None:
    """Decide whether a request whose key nobody else works on is run.

    Args:
        message: the request.
        earlier: the result that stands under its key.
        now: epoch ms.
        kept_ms: how long a result counts, ms.

    Returns:
        The earlier result; None where the request is to be run.

    Raises:
        InvalidArgument: the earlier request had another body.
    """
    if earlier is None or earlier.at + kept_ms <= now:
        return None
    if earlier.request_digest != digest(message):
        raise InvalidArgument(
            f"idempotency key {message.envelope.idempotency_key!r} was used for another body, in request "
            f"{earlier.request_id}: a repeat must be the same, byte for byte; use a new key for new work"
        )
    return earlier.outcome


def is_result(outcome: Outcome) -> TypeGuard[Done]:
    """Tell whether an outcome is what the work came to: a reply, or an error that is its answer.

    What is tried again or dead-lettered is none, and neither is work that was given up or ran out of time: nobody
    knows what that would have come to.
    """
    return isinstance(outcome, Done) and (outcome.error is None or outcome.error.status not in _NO_RESULT)


def layer(begin: Callable[[Message], Awaitable[Done | None]]) -> Layer[Outcome]:
    """Make the inbound layer.

    Args:
        begin: waits until nobody else works on a message's key, and gives the earlier result, or None where the
            message is to be run; raises what `decide` raises.
    """

    def around(rest: Step[Outcome]) -> Step[Outcome]:
        async def step(message: Message) -> Outcome:
            answer = await begin(message) if has_key(message) else None
            return await rest(message) if answer is None else answer

        return step

    return Layer("idempotency", around)
