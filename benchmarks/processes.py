"""The processes of the contenders: told one line, answering one line, and never outliving who started them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 15.0

_ROOT = Path(__file__).parents[1]


class BenchmarkFailed(Exception):
    """A process of a contender has ended, or does not answer."""


class Worker:
    """One process of a contender; made by `worker`.

    Attributes:
        said: the line that it said when it was ready.
    """

    def __init__(self, name: str, child: asyncio.subprocess.Process) -> None:
        self.name = name
        self.pid = child.pid
        self.said = ""
        self._child = child

    async def ask(self, line: str, patience: float) -> str:
        """Tell it a line, and give the line it answers; `patience` in seconds.

        Raises:
            BenchmarkFailed: it has ended, or does not answer in time.
        """
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")
        return await self.hear(patience)

    async def hear(self, patience: float) -> str:
        """Give the next line it writes; arguments and errors as for `ask`."""
        assert self._child.stdout is not None
        try:
            async with asyncio.timeout(patience):
                line = await self._child.stdout.readline()
        except TimeoutError as error:
            raise BenchmarkFailed(f"{self.name} has not answered for {patience:g} s.") from error
        if not line:
            code = await self._child.wait()
            raise BenchmarkFailed(f"{self.name} has ended with exit code {code}; what it wrote stands above.")
        return line.decode().rstrip("\n")

    async def stop(self) -> None:
        """End it: its stdin ends, and where that is not enough it is killed."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._child.communicate()  # reads on: a full pipe would keep it from ending
        finally:
            if self._child.returncode is None:
                self._child.kill()
                await self._child.wait()


@asynccontextmanager
async def worker(name: str, command: Sequence[str]) -> AsyncIterator[Worker]:
    """Run a process of a contender while a block runs; it is ready when the block begins.

    Args:
        name: what it is called in errors, as in "The callee of raw".
        command: its program and arguments; the program says that it is ready in its first line.

    Raises:
        BenchmarkFailed: it does not get ready.
    """
    # A session of its own: Ctrl-C reaches the one process that stops the others in order. Should that one be
    # killed, their stdin ends all the same.
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        cwd=_ROOT,
    )
    started = Worker(name, child)
    try:
        started.said = await started.hear(START_SECONDS)
        yield started
    finally:
        await started.stop()
