"""A terminal with a shell in it, for tests that type what a person would."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

CTRL_C = "\x03"

# The shell has to be the terminal's own, or Ctrl-C would reach nobody; a fork of this process could not make it so,
# since it has threads.
_SHELL = (
    "import fcntl, os, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp('bash', ['bash', '--norc', '--noprofile', '-i'])"
)


class Terminal:
    """An interactive bash on a pseudo-terminal.

    Args:
        directory: where the shell starts.
        environ: its environment.
    """

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self._screen, theirs = pty.openpty()
        # Wide enough that nothing is wrapped.
        ioctl(self._screen, TIOCSWINSZ, struct.pack("HHHH", 50, 1000, 0, 0))
        self._shell = subprocess.Popen(
            [sys.executable, "-c", _SHELL],
            cwd=directory,
            env={**environ, "TERM": "dumb", "PS1": "$ ", "HISTFILE": ""},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._shown = ""

    @property
    def pid(self) -> int:
        """The shell's process."""
        return self._shell.pid

    def paste(self, text: str) -> None:
        """Type a text; a block of commands ends with a new line."""
        os.write(self._screen, text.encode())

    def read_until(self, words: str, patience: float) -> str:
        """Read on until these words have been printed; gives what was printed, up to their end.

        Args:
            words: what to wait for.
            patience: seconds after which the test fails.
        """
        until = time.monotonic() + patience
        while words not in self._shown:
            ready, _, _ = select.select([self._screen], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise AssertionError(f"{words!r} was not printed within {patience:g} s, but:\n{self._shown}")
            try:
                printed = os.read(self._screen, 65_536)
            except OSError as error:  # Linux' word for the end
                raise AssertionError(f"the shell ended before {words!r}:\n{self._shown}") from error
            self._shown += printed.decode(errors="replace").replace("\r\n", "\n")
        before, _, self._shown = self._shown.partition(words)
        return before + words

    def close(self) -> None:
        """Hang up; the shell and what runs in it are killed."""
        os.close(self._screen)
        self._shell.send_signal(signal.SIGKILL)
        self._shell.wait()
