"""What can become of a message: a closed set, decided once and carried out by `settle.py`.

On the way of a message: the last thing the inbound layers return.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from broker_mesh.errors import MeshError
from broker_mesh.headers import Place
from broker_mesh.status import STATUS_RULES, DeadLettered


class Done(NamedTuple):
    """The work is done, or answered with an error that is an answer and no failure.

    Args:
        reply: the encoded reply; None for one-way work and for error answers.
        error: the answer, where it is an error such as NOT_FOUND.
    """

    reply: bytes | None = None
    error: MeshError | None = None


class RetryLater(NamedTuple):
    """Another attempt is due.

    Args:
        at: when, epoch ms.
        error: what the last attempt failed with.
        counts: whether it uses up one of the operation's attempts.
        parked: whether the record waits in the retry topic, so that nothing waits behind it; else it keeps its place.
        place: where it stands there; None as long as it was not written.
    """

    at: int
    error: MeshError
    counts: bool = True
    parked: bool = False
    place: Place | None = None


class Parked(NamedTuple):
    """An earlier record of its key waits in the retry topic: the record is written behind it, and not handled before.

    Args:
        place: where it stands there; None as long as it was not written.
    """

    place: Place | None = None
    error: None = None


class DeadLetter(NamedTuple):
    """The record is kept in the dead-letter topic with this reason; a waiting caller is answered with it."""

    error: MeshError


class Drop(NamedTuple):
    """The work is not worth doing any more; a waiting caller is answered with the reason."""

    error: MeshError


class Repeated(NamedTuple):
    """The record is a repeat of one that is settled: nothing is to be done, its caller has its answer."""

    error: None = None


class HandlerError(Exception):
    """Carries what a handler raised through the layers, so that it is told from what a check raised."""

    def __init__(self, error: MeshError) -> None:
        super().__init__(str(error))
        self.error = error


Outcome: TypeAlias = Done | RetryLater | Parked | DeadLetter | Drop | Repeated

OUTCOME_NAMES: Final[Mapping[type, str]] = {
    Done: "done",
    RetryLater: "retry-later",
    Parked: "parked",
    DeadLetter: "dead-letter",
    Drop: "drop",
    Repeated: "repeated",
}
"""What spans, metrics and log lines call each."""


def final(error: MeshError, *, expects_reply: bool, started: bool) -> Done | DeadLetter | Drop:
    """Tell what becomes of a message for which no attempt is left, by the table of `status.py`.

    Args:
        error: what it ends with.
        expects_reply: whether a caller waits; one-way work that fails must leave a trace somewhere.
        started: whether the handler ran: an error that is an answer is then the work's result (Done),
            before it is a refusal (Drop).
    """
    kept = STATUS_RULES[error.status].dead_lettered
    if kept is DeadLettered.ALWAYS or (kept is DeadLettered.IF_UNANSWERED and not expects_reply):
        return DeadLetter(error)
    return Done(error=error) if started else Drop(error)
