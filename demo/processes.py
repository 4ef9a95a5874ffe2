"""A process of the demo: its output is read as it comes, its last words are kept, and it never outlives its task."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from broker_mesh.dev.watchdog import Watchdog

STOP_SECONDS = 8.0
_LAST_LINES = 15
_LONGEST_LINE_BYTES = 1024 * 1024


class ProcessFailed(Exception):
    """A process did not do what it was to; `last_lines` is what it had to say."""

    def __init__(self, sentence: str, last_lines: Iterable[str]) -> None:
        super().__init__(sentence)
        self.last_lines = list(last_lines)


class Process:
    """One process, started by `run` and ended with it.

    Args:
        name: for people.
        command: the program and its arguments.
        on_line: gets each line that it writes to stdout.
        ends: whether it may end by itself, with exit code 0.
    """

    def __init__(
        self, name: str, command: Sequence[str], on_line: Callable[[str], None], *, ends: bool = False
    ) -> None:
        self.name = name
        self._command = command
        self._on_line = on_line
        self._ends = ends
        self._asked_to_end = False
        self._child: asyncio.subprocess.Process | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)

    async def run(self, environ: Mapping[str, str], watchdog: Watchdog) -> None:
        """Run it until it ends; a cancelled run stops it first, by force where it takes too long.

        Args:
            environ: its whole environment.
            watchdog: kills it should this process die.

        Raises:
            ProcessFailed: it ended unasked.
        """
        # A session of its own: Ctrl-C reaches this process alone, which then stops the others in order.
        child = self._child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
            start_new_session=True,
            limit=_LONGEST_LINE_BYTES,
        )
        watchdog.watch(child.pid)
        try:
            code = await self._follow(child)
        except BaseException:
            await _stop(child)
            raise
        finally:
            watchdog.release(child.pid)
        if not (self._asked_to_end or (self._ends and code == 0)):
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise self.failed(f"{how}, unasked.")

    def failed(self, how: str) -> ProcessFailed:
        """Make the error that says how it failed, and its last words."""
        return ProcessFailed(f"{self.name} {how}", self._last_lines)

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        assert self._child is not None
        self._asked_to_end = True
        self._child.kill()

    async def _follow(self, child: asyncio.subprocess.Process) -> int:
        assert child.stdout is not None
        assert child.stderr is not None
        async with asyncio.TaskGroup() as readers:
            readers.create_task(_each_line(child.stdout, self._on_line))
            readers.create_task(_each_line(child.stderr, self._last_lines.append))
        return await child.wait()


async def _each_line(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    async for line in stream:
        on_line(line.decode(errors="replace").rstrip("\n"))


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await child.communicate()  # reads on: a full pipe would keep it from ending
    finally:
        if child.returncode is None:  # too slow, or nobody wants to wait any longer
            child.kill()
            await child.wait()
