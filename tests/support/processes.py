"""Real processes for tests: started with a log each, and none left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from weakref import WeakKeyDictionary

REPOSITORY = Path(__file__).parents[2]

_logs: WeakKeyDictionary[subprocess.Popen[str], Path] = WeakKeyDictionary()


class Processes:
    """Starts Python modules as processes of their own; `stop` ends what still runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[subprocess.Popen[str]] = []

    def start(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start `python -m module arguments`; its standard output is piped, its errors go to `log_of`."""
        with self.log_of(len(self._running)).open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=REPOSITORY,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        _logs[process] = self.log_of(len(self._running))
        self._running.append(process)
        return process

    def log_of(self, number: int) -> Path:
        """Where the errors of the process that was started as the given one (from 0) go."""
        return self._directory / f"process-{number}.log"

    def stop(self) -> None:
        """Kill what still runs."""
        for process in self._running:
            process.kill()
            process.communicate()


def wait_for_line(process: subprocess.Popen[str], line: str) -> None:
    """Read a process's standard output until it prints a line (blocking)."""
    assert process.stdout is not None
    for printed in process.stdout:
        if printed.strip() == line:
            return
    raise AssertionError(
        f"the process ended ({process.wait()}) before it printed {line!r}:\n{last_words(process)}"
    )


def last_words(process: subprocess.Popen[str]) -> str:
    """Give the end of what a process has written to its errors, for the message of an assertion."""
    return _logs[process].read_text()[-4000:] if process in _logs else ""
