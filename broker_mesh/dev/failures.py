"""Turns the log of a broker that did not start into one sentence: what is wrong, and what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker_mesh.errors import FailedPrecondition, MeshError, ResourceExhausted, Unavailable

_READ_BYTES = 64 * 1024
_FRAME = re.compile(r"^\s+at |^\s*\.\.\. \d+ more|^\s*$")
_EXCEPTION = re.compile(
    r"^(?:Caused by: |Exception in thread \"[^\"]*\" )?[\w.$]*(?:Exception|Error)(?:: .*)?$"
)
_PROBLEM = re.compile(r"\b(?:ERROR|FATAL|Error)\b")
_CRASH = (
    "A fatal error has been detected by the Java Runtime",
    "Error occurred during initialization of VM",
    "Could not create the Java Virtual Machine",
)


class PortTaken(Unavailable):
    """Somebody else listens where a broker was to: it has to start again on other ports."""


class JavaCrashed(Unavailable):
    """The Java runtime itself failed, before or beneath Kafka: a damaged class cache can do that."""


def read_since(log: Path, offset: int) -> str:
    """What was written to a log since an offset in bytes, the end of it when it is long."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(offset, size - _READ_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def meaningful_line(text: str) -> str:
    """The line of a Java log that tells most: the innermost cause, else the last exception, error or line."""
    lines = [line.strip() for line in text.splitlines() if not _FRAME.match(line)]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    problems = [line for line in lines if _PROBLEM.search(line)]
    for found in (causes, exceptions, problems, lines):
        if found:
            return found[-1]
    return "it wrote nothing to its log"


def explain(what: str, text: str, log: Path) -> MeshError:
    """The error for a broker, or another program of Kafka's, that ended with this output.

    Args:
        what: what ended, as the beginning of a sentence: "Broker 1".
        text: what it wrote.
        log: where to read more.
    """
    if "Address already in use" in text:
        return PortTaken(
            f"{what} could not start, since another program took its port: run the command again."
        )
    if "No space left on device" in text:
        return ResourceExhausted(
            f"{what} could not start, since the disk that holds {log.parent} is full: make room."
        )
    if (
        "OutOfMemoryError" in text
        or "insufficient memory" in text
        or "Could not reserve enough space" in text
    ):
        return ResourceExhausted(f"{what} could not start, since there is too little memory: see {log}")
    if "AccessDeniedException" in text or "Permission denied" in text:
        return FailedPrecondition(
            f"{what} could not start, since it may not write to {log.parent}: check its owner."
        )
    if "Failed to acquire lock on file .lock" in text:
        return data_in_use(what, log.parent)
    if not text.strip() or any(sign in text for sign in _CRASH):
        return JavaCrashed(
            f"{what} did not start, since Java crashed: {meaningful_line(text)} (more in {log.parent})."
        )
    return Unavailable(f"{what} did not start: {meaningful_line(text).rstrip('.')} (more in {log}).")


def data_in_use(what: str, directory: Path) -> FailedPrecondition:
    """The error for a broker over whose directory another one runs.

    Args:
        what: what was to start, as the beginning of a sentence: "Broker 1".
        directory: the broker's directory.
    """
    return FailedPrecondition(
        f"{what} could not start, since another Kafka uses the data in {directory}: stop that one first."
    )


@contextmanager
def os_errors_explained(doing: str) -> Iterator[None]:
    """Translate what the system says about files and programs into the mesh's errors.

    Args:
        doing: what is being done, to follow "it was not possible to": "prepare Kafka".
    """
    try:
        yield
    except OSError as error:
        raise explain_os_error(doing, error) from error


def explain_os_error(doing: str, error: OSError) -> MeshError:
    """The error for a file that could not be written or a program that could not be run."""
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(f"It was not possible to {doing}, since the disk is full{where}: make room.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FailedPrecondition(f"It was not possible to {doing}, since writing{where} is not allowed.")
    reason = (error.strerror or str(error)).lower()
    return FailedPrecondition(f"It was not possible to {doing}: {reason}{where}.")
