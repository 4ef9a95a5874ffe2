"""Handlers that do what their request's plan says.

How often a request was tried is kept in a file of its own, a byte for each try: it outlives the process, and is true
whoever handles the request next.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.history import Crashing, Journal, now
from tests.chaos.operations import Later, Work
from tests.chaos.plans import CRASHES

LATER_SECONDS = 6.0


class Flaky(Exception):
    """What a plan has a handler throw."""


class Behaviour:
    """Carries plans out.

    Args:
        tries: the folder that remembers them.
        journal: of this process.
    """

    def __init__(self, tries: Path, journal: Journal) -> None:
        tries.mkdir(parents=True, exist_ok=True)
        self._tries = tries
        self._journal = journal

    async def run(self, work: Work) -> None:
        """Do what the plan says in an `async def`."""
        seconds = self._begin(work)
        if seconds:
            await asyncio.sleep(seconds)

    def run_blocking(self, work: Work) -> None:
        """Do what the plan says in a thread."""
        seconds = self._begin(work)
        if seconds:
            time.sleep(seconds)

    def _begin(self, work: Work) -> float:
        """Crash or raise where the plan says so; give how long to hang, seconds."""
        what, _, figure = work.plan.partition(" ")
        if what == "hang":
            return float(figure)
        if what == "poison":
            raise Flaky(f"{work.id} fails always")
        if what == "deadly":
            self._crash(work, "segfault")
        if what in {"throw", "later", *CRASHES} and self._tried(work.id) <= int(figure):
            if what in CRASHES:
                self._crash(work, what)
            if what == "later":
                raise Later(f"{work.id} is not to be done yet", details={"retry_after": LATER_SECONDS})
            raise Flaky(f"{work.id} fails {figure} times")
        return 0.0

    def _tried(self, request: str) -> int:
        """Note another try of a request; give how many there were, with this one."""
        file = os.open(self._tries / request, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, b".")
            return os.fstat(file).st_size
        finally:
            os.close(file)

    def _crash(self, work: Work, how: str) -> None:
        self._journal.write(Crashing(now(), work.id))
        _CRASHES[how]()


_CRASHES: dict[str, Callable[[], object]] = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
}
