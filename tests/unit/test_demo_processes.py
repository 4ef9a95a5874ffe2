"""The demo's processes: read as they go, ended with their task, and told of when they fail."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator

import pytest

from broker_mesh.dev.watchdog import Watchdog
from demo.processes import Process, ProcessFailed


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    started = Watchdog()
    yield started
    started.close()


def process(
    program: str, on_line: Callable[[str], None] = lambda _line: None, *, ends: bool = False
) -> Process:
    return Process("tower", [sys.executable, "-c", program], on_line, ends=ends)


async def test_lines_are_handed_on_and_a_good_end_is_quiet(watchdog: Watchdog) -> None:
    lines: list[str] = []
    await process("print('one'); print('two')", lines.append, ends=True).run(os.environ, watchdog)
    assert lines == ["one", "two"]


async def test_a_failure_comes_with_the_last_words(watchdog: Watchdog) -> None:
    program = "import sys; [print(n, file=sys.stderr) for n in range(100)]; sys.exit('no fuel')"
    with pytest.raises(ProcessFailed, match=r"^tower ended with exit code 1, unasked\.$") as caught:
        await process(program, ends=True).run(os.environ, watchdog)
    assert caught.value.last_lines[-2:] == ["99", "no fuel"]
    assert len(caught.value.last_lines) < 20


async def test_a_service_that_ends_by_itself_has_failed(watchdog: Watchdog) -> None:
    with pytest.raises(ProcessFailed, match="exit code 0"):
        await process("pass").run(os.environ, watchdog)


async def test_a_crash_is_told_by_its_signal(watchdog: Watchdog) -> None:
    with pytest.raises(ProcessFailed, match="was killed by signal 9"):
        await process("import os; os.kill(os.getpid(), 9)").run(os.environ, watchdog)


async def test_a_kill_that_was_asked_for_is_no_failure(watchdog: Watchdog) -> None:
    up = asyncio.Event()
    sleeper = process("print('up', flush=True); input = __import__('time').sleep(60)", lambda _: up.set())
    running = asyncio.create_task(sleeper.run(os.environ, watchdog))
    await up.wait()
    sleeper.kill()
    await running


@pytest.mark.parametrize("on_sigterm", ["signal.SIG_DFL", "lambda *_: sys.exit(print('x' * 200_000))"])
async def test_a_cancelled_run_leaves_no_process(on_sigterm: str, watchdog: Watchdog) -> None:
    """Also one that writes more at its end than a pipe holds."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    program = (
        f"import os, signal, sys, time; signal.signal(signal.SIGTERM, {on_sigterm}); "
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    running = asyncio.create_task(process(program, lines.put_nowait).run(os.environ, watchdog))
    pid = int(await lines.get())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_line_that_can_not_be_read_ends_the_process(watchdog: Watchdog) -> None:
    pids: list[int] = []

    def reject(line: str) -> None:
        pids.append(int(line))
        raise ValueError(line)

    with pytest.raises(ExceptionGroup):
        await process("import os, time; print(os.getpid(), flush=True); time.sleep(60)", reject).run(
            os.environ, watchdog
        )
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
