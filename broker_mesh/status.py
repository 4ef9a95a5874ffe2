"""Status codes, and the one table that says what each of them means for a request.

On the way of a message: read by `outcome.py` when a failure is classified, and by callers on the typed
error they get. The codes and their numbers are gRPC's canonical ones
(https://grpc.github.io/grpc/core/md_doc_statuscodes.html).
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple


class StatusCode(IntEnum):
    """gRPC's canonical status codes; the header `mesh-status` carries their names."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class DeadLettered(Enum):
    """When a record that ends with a status is kept as a dead letter."""

    NEVER = "never"
    IF_UNANSWERED = "if unanswered"  # one-way: nobody else would hear of it
    ALWAYS = "always"


class StatusRule(NamedTuple):
    """What a status means for the record that met it.

    Args:
        retriable: a later attempt may succeed.
        answered: the caller, if one waits, is told (after the last attempt, where there are several).
        dead_lettered: whether the record is kept for replay after the last attempt.
    """

    retriable: bool
    answered: bool
    dead_lettered: DeadLettered


_FAILURE = StatusRule(retriable=False, answered=True, dead_lettered=DeadLettered.ALWAYS)
_RETRIABLE = StatusRule(retriable=True, answered=True, dead_lettered=DeadLettered.ALWAYS)
_ANSWER = StatusRule(retriable=False, answered=True, dead_lettered=DeadLettered.IF_UNANSWERED)

STATUS_RULES: dict[StatusCode, StatusRule] = {
    StatusCode.OK: StatusRule(retriable=False, answered=True, dead_lettered=DeadLettered.NEVER),
    StatusCode.CANCELLED: _ANSWER,
    StatusCode.UNKNOWN: _RETRIABLE,  # an unclassified exception: most of them pass
    StatusCode.INVALID_ARGUMENT: _FAILURE,
    StatusCode.DEADLINE_EXCEEDED: _ANSWER,
    StatusCode.NOT_FOUND: _ANSWER,
    StatusCode.ALREADY_EXISTS: _ANSWER,
    StatusCode.PERMISSION_DENIED: _ANSWER,
    StatusCode.RESOURCE_EXHAUSTED: _RETRIABLE,
    StatusCode.FAILED_PRECONDITION: _ANSWER,
    StatusCode.ABORTED: _RETRIABLE,
    StatusCode.OUT_OF_RANGE: _ANSWER,
    StatusCode.UNIMPLEMENTED: _FAILURE,
    StatusCode.INTERNAL: _FAILURE,
    StatusCode.UNAVAILABLE: _RETRIABLE,
    StatusCode.DATA_LOSS: _FAILURE,
    StatusCode.UNAUTHENTICATED: _ANSWER,
}
