"""Exit codes: what a script learns from a command without reading its words."""

from __future__ import annotations

from enum import IntEnum

from broker_mesh.errors import MeshError, MessageTooLarge
from broker_mesh.status import StatusCode


class ExitCode(IntEnum):
    """How a command ended; `docs/cli.md` has the same table."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    PENDING = 5
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "fine",
    ExitCode.FAILED: "answered with an error, refused, or a check found a problem",
    ExitCode.USAGE: "wrong usage, JSON or settings, or a value that does not fit its schema",
    ExitCode.NOT_FOUND: "no such operation, topic, message, subject or module",
    ExitCode.UNREACHABLE: "Kafka can't be reached, or refuses the login",
    ExitCode.PENDING: "no reply in time: the request is still pending",
    ExitCode.INTERRUPTED: "interrupted (143 by SIGTERM)",
}

_BY_STATUS: dict[StatusCode, ExitCode] = {
    StatusCode.INVALID_ARGUMENT: ExitCode.USAGE,
    StatusCode.NOT_FOUND: ExitCode.NOT_FOUND,
    StatusCode.UNAVAILABLE: ExitCode.UNREACHABLE,
    StatusCode.UNAUTHENTICATED: ExitCode.UNREACHABLE,
}


def is_answer(error: MeshError) -> bool:
    """Tell whether a callee said so, rather than this side: only an answer knows how often the callee tried."""
    return error.attempts is not None


def exit_code(error: MeshError) -> ExitCode:
    """Choose the exit code for an error that ends a command."""
    if is_answer(error):
        return ExitCode.FAILED
    if isinstance(error, MessageTooLarge):
        return ExitCode.USAGE
    if error.status is StatusCode.DEADLINE_EXCEEDED:
        # Without a handle nothing was sent, so that nothing is pending.
        return ExitCode.PENDING if error.handle is not None else ExitCode.FAILED
    return _BY_STATUS.get(error.status, ExitCode.FAILED)
