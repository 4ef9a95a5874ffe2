"""Ends brokers whose starter died: run as a process of its own, it reads from the starter and outlives it.

Each line on standard input is `+pid` (watch it) or `-pid` (let it be). At the end of input, which comes when the
starter closes the pipe or dies of anything, SIGKILL included, it kills what it still watches. This works from any
thread and on every POSIX system, where PR_SET_PDEATHSIG knows only Linux and fires when a mere thread ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable


class Watchdog:
    """The starter's end of the pipe."""

    def __init__(self) -> None:
        # -I -S: no site packages and no environment, to start in some 15 ms. A session of its own: Ctrl-C in the
        # terminal must not end it before the starter has stopped its brokers.
        self._process = subprocess.Popen(  # noqa: S603  this very file
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, pid: int) -> None:
        """Kill this process when the starter ends."""
        self._say(f"+{pid}")

    def release(self, pid: int) -> None:
        """Let this process live on, or forget it, since it is gone and its id may be used again."""
        self._say(f"-{pid}")

    def close(self) -> None:
        """End the watchdog; it kills what has not been released."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # killed by hand: then nobody watches, which stops nothing
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


def watch(lines: Iterable[str]) -> None:
    """Read commands to the end, then kill what is still watched."""
    watched: set[int] = set()
    for line in lines:
        (watched.add if line.startswith("+") else watched.discard)(int(line[1:]))
    for pid in watched:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    watch(sys.stdin)
