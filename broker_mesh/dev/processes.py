"""Processes by identity: id and start time together, so that a recycled process id is never taken for a broker.

`identity` is what is kept in the state file. On Linux it needs only /proc and takes microseconds: a mesh that
looks for a running Kafka pays nothing for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.02


def identity(pid: int) -> str | None:
    """A text that no other process has had or will have; None when the process does not run (any more).

    A zombie, dead and not yet reaped by its parent, does not run. Of a process that was killed, the first thread may
    be dead while others still are on their way out and hold its files, its locks and its ports: so long it runs.
    """
    if sys.platform != "linux":
        return _identity_by_psutil(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # proc(5): the name in parentheses may hold anything; state (of the first thread) is field 3, the number of threads
    # field 20, start time in clock ticks field 22.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" and int(fields[17]) <= 1 else f"{boot}:{fields[19]}"


def _identity_by_psutil(pid: int) -> str | None:
    try:
        import psutil
    except (
        ImportError
    ):  # not the environment that started the brokers: that the process exists has to be enough
        return _UNKNOWN if _exists(pid) else None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return None


_UNKNOWN = "unknown"


def is_running(pid: int, expected: str) -> bool:
    """Whether the very process with this identity still runs."""
    found = identity(pid)
    return found is not None and (found == expected or _UNKNOWN in (found, expected))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def spawn(command: Sequence[str], environ: Mapping[str, str], log: Path, keep: int | None = None) -> int:
    """Start a process in a session of its own, so that it neither hears Ctrl-C nor ends with the terminal.

    Args:
        command: the program, by its path, and its arguments.
        environ: its whole environment.
        log: the file its output is appended to.
        keep: a descriptor of this process that it inherits, so that the lock on that file is held while it lives.

    Returns:
        Its process id.

    Raises:
        OSError: the program can't be run.
    """
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    # Before 0 to 2 are opened, one of which it may be; and to another number, since only a copy surely outlives exec.
    kept = [] if keep is None else [(os.POSIX_SPAWN_DUP2, keep, 4 if keep == 3 else 3)]
    return os.posix_spawn(
        command[0],
        list(command),
        dict(environ),
        file_actions=[
            *kept,
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),  # whatever this process blocks or ignores, the broker has to hear a request to stop
        setsigdef=(signal.SIGTERM,),
    )


def send(pid: int, expected: str, number: signal.Signals) -> None:
    """Send a signal to the very process with this identity; nothing when it is gone."""
    if is_running(pid, expected):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_gone(pid: int, expected: str, timeout: float) -> bool:
    """Wait until a process has ended, and reap it when it is a child of this one.

    Args:
        pid: the process id.
        expected: its identity.
        timeout: seconds to wait at most.

    Returns:
        Whether it is gone.
    """
    until = time.monotonic() + timeout
    while is_running(pid, expected):
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_SECONDS)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return True
