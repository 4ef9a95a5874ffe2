"""The errors of the mesh: one tree, each with a status code.

::

    MeshError                     any of the below; carries status, message, details, attempts, handle, dead_letter
    ├── Cancelled                 CANCELLED
    ├── UnknownError              UNKNOWN
    ├── InvalidArgument           INVALID_ARGUMENT
    │   ├── SettingsError         a setting, mesh.toml or declaration is wrong: start-up stops
    │   └── SchemaError           a value, its bytes or a schema is wrong
    ├── DeadlineExceeded          DEADLINE_EXCEEDED
    ├── NotFound                  NOT_FOUND
    ├── AlreadyExists             ALREADY_EXISTS
    ├── PermissionDenied          PERMISSION_DENIED
    ├── ResourceExhausted         RESOURCE_EXHAUSTED
    │   └── MessageTooLarge       not retriable: the same bytes never fit
    ├── FailedPrecondition        FAILED_PRECONDITION
    ├── Aborted                   ABORTED
    ├── OutOfRange                OUT_OF_RANGE
    ├── Unimplemented             UNIMPLEMENTED
    ├── InternalError             INTERNAL
    ├── Unavailable               UNAVAILABLE
    ├── DataLoss                  DATA_LOSS
    └── Unauthenticated           UNAUTHENTICATED

Handlers raise them to answer with a status; callers catch them. Errors of other libraries are translated
into this tree where they enter (`kafka/errors.py`, `contracts/`), with `raise … from`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker_mesh.status import STATUS_RULES, StatusCode

RETRY_AFTER: Final = "retry_after"
"""The key of `details` that says how long to wait before another attempt, seconds."""

_LONGEST_RETRY_AFTER = 365 * 86_400


class MeshError(Exception):
    """A request or an action of the mesh that did not succeed.

    Args:
        message: one sentence: what is wrong, where, and what to do.
        status: the status code; given only for `MeshError` itself, its subclasses each have their own.
        details: facts for programs, as JSON values; they travel to the caller.
        attempts: how often the callee tried, as far as it is known.
        handle: the opaque text of the request's handle, where the request is or was pending.
        retry_after: how long to wait before another attempt, seconds; it travels in `details`, so that a caller that
            passes the error on passes this on too.
        dead_letter: where the callee keeps the request for replay, ``topic/partition/offset``; None where it does not.
    """

    status: StatusCode = StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        status: StatusCode | None = None,
        details: Mapping[str, Any] | None = None,
        attempts: int | None = None,
        handle: str | None = None,
        retry_after: float | None = None,
        dead_letter: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if status is not None:
            self.status = status
        self.details: dict[str, Any] = dict(details or {})
        if retry_after is not None:
            self.details[RETRY_AFTER] = retry_after
        self.attempts = attempts
        self.handle = handle
        self.dead_letter = dead_letter

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed on a later attempt."""
        return STATUS_RULES[self.status].retriable

    @property
    def retry_after(self) -> float | None:
        """How long to wait before another attempt, seconds; None where the error does not say, or no sane number."""
        seconds = self.details.get(RETRY_AFTER)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            return None
        return float(seconds) if 0 <= seconds <= _LONGEST_RETRY_AFTER else None

    def __str__(self) -> str:
        return f"{self.status.name}: {self.message}"

    @staticmethod
    def of(
        status: StatusCode,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        attempts: int | None = None,
        handle: str | None = None,
        dead_letter: str | None = None,
    ) -> MeshError:
        """Make the error class that stands for a status code, for instance from a reply's headers."""
        error = _BY_STATUS.get(status, MeshError)
        return error(
            message,
            status=status,
            details=details,
            attempts=attempts,
            handle=handle,
            dead_letter=dead_letter,
        )


class Cancelled(MeshError):
    """The request was given up by its caller."""

    status = StatusCode.CANCELLED


class UnknownError(MeshError):
    """A failure nobody classified, such as an exception in a handler."""

    status = StatusCode.UNKNOWN


class InvalidArgument(MeshError):
    """The request itself is wrong; the same request will never succeed."""

    status = StatusCode.INVALID_ARGUMENT


class SettingsError(InvalidArgument):
    """A setting, a mesh.toml or a declaration is wrong; start-up stops."""


class SchemaError(InvalidArgument):
    """A value does not fit its schema, its bytes can't be decoded, or a schema is not acceptable."""


class DeadlineExceeded(MeshError):
    """The wait or the work ran out of time; `handle` tells whether the request can be waited for again."""

    status = StatusCode.DEADLINE_EXCEEDED


class NotFound(MeshError):
    """What was asked for does not exist."""

    status = StatusCode.NOT_FOUND


class AlreadyExists(MeshError):
    """What was to be made exists already."""

    status = StatusCode.ALREADY_EXISTS


class PermissionDenied(MeshError):
    """An access rule forbids it."""

    status = StatusCode.PERMISSION_DENIED


class ResourceExhausted(MeshError):
    """A limit is reached: quota, disk, queue."""

    status = StatusCode.RESOURCE_EXHAUSTED


class MessageTooLarge(ResourceExhausted):
    """The message is larger than its topic allows; a retry of the same bytes can't succeed."""

    @property
    def retriable(self) -> bool:
        """Never: the same bytes stay as large as they are."""
        return False


class FailedPrecondition(MeshError):
    """The system is not in the state that the request needs."""

    status = StatusCode.FAILED_PRECONDITION


class Aborted(MeshError):
    """A conflict with something concurrent; trying again is right."""

    status = StatusCode.ABORTED


class OutOfRange(MeshError):
    """Past the end of what exists."""

    status = StatusCode.OUT_OF_RANGE


class Unimplemented(MeshError):
    """The callee does not offer this."""

    status = StatusCode.UNIMPLEMENTED


class InternalError(MeshError):
    """An invariant is broken: a bug, in the service or in the mesh."""

    status = StatusCode.INTERNAL


class Unavailable(MeshError):
    """Kafka or something else that is needed can't be reached now; trying later is right."""

    status = StatusCode.UNAVAILABLE


class DataLoss(MeshError):
    """Data that should be there is gone."""

    status = StatusCode.DATA_LOSS


class Unauthenticated(MeshError):
    """The sender's identity can't be established."""

    status = StatusCode.UNAUTHENTICATED


_BY_STATUS: dict[StatusCode, type[MeshError]] = {
    error.status: error
    for error in (
        Cancelled,
        UnknownError,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        InternalError,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}
