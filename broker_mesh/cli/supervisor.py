"""Keeps several worker processes of one service running.

Workers are spawned, never forked: librdkafka's threads don't survive a fork. Each has a session of its own, so that
Ctrl-C reaches the supervisor alone, which then tells all of them once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from broker_mesh.cli.exits import ExitCode
from broker_mesh.cli.worker import LEAVE_SECONDS, REPORT_SECONDS
from broker_mesh.health import Health
from broker_mesh.telemetry import transport
from broker_mesh.telemetry.aggregation import Family

logger = logging.getLogger(__name__)

# Of one line; the metrics of a worker with ten thousand partitions take a megabyte.
_REPORT_BYTES = 16 << 20
_SILENT_SECONDS = 5 * REPORT_SECONDS
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0
# Who has lived this long has started: its next restart does not wait for the failures before.
_STEADY_SECONDS = 60.0
_DEFAULT_GRACE_SECONDS = 20.0

# How a worker ends that says itself why it can't start; anything else is a crash.
_START_UP_ERRORS = frozenset(
    {ExitCode.FAILED, ExitCode.USAGE, ExitCode.NOT_FOUND, ExitCode.UNREACHABLE, ExitCode.PENDING}
)


class _Slot:
    """One of the workers: the process that runs as it now, and what it reported last."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.report: Mapping[str, Any] = {}
        self.metrics: Sequence[Family] = ()
        self.heard_at = 0.0

    @property
    def ready(self) -> bool:
        """Whether it has joined its group."""
        return bool(self.report.get("ready"))

    @property
    def live(self) -> bool:
        """Whether its event loop turns; one that starts has not said anything yet."""
        return not self.report or time.monotonic() - self.heard_at < _SILENT_SECONDS


class Supervisor:
    """Starts workers, starts them again when they die, and stops them together.

    Args:
        command: starts a worker; the number of its inherited socket is added.
        workers: how many.
        on_ready: called once, when all have joined their group, with their process ids and their topics.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        on_ready: Callable[[Sequence[int], Sequence[str]], None],
    ) -> None:
        self._command = command
        self._slots = [_Slot(number) for number in range(1, workers + 1)]
        self._on_ready = on_ready
        self._told = False
        self._started = False  # some worker has joined its group once: the settings are good
        self._grace = _DEFAULT_GRACE_SECONDS
        self._code: int = ExitCode.OK
        self._stopping = asyncio.Event()
        self._signals = 0

    def health(self) -> Health:
        """Tell how all of them are together; from any thread."""
        reports = [slot.report for slot in self._slots]
        facts = [dict(report.get("facts", {})) for report in reports]
        first = next((each for each in facts if each), {})
        return Health(
            live=all(slot.live for slot in self._slots),
            ready=all(slot.ready for slot in self._slots),
            facts={
                **{name: first[name] for name in ("service", "version") if name in first},
                "assigned_partitions": sum(each.get("assigned_partitions", 0) for each in facts),
                "in_flight": sum(each.get("in_flight", 0) for each in facts),
                "workers": [
                    {"live": slot.live, "ready": slot.ready, **each}
                    for slot, each in zip(self._slots, facts, strict=True)
                ],
            },
        )

    def metrics(self) -> dict[int, Sequence[Family]]:
        """Give the figures of each worker, by its number, as it told them last; from any thread.

        Not added up: a worker that is started again begins at 0, and a scraper understands that of one series, not of
        a sum.
        """
        return {slot.number: slot.metrics for slot in self._slots}

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, or until a worker can't even start; gives the exit code.

        A second signal kills at once what has not ended.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        try:
            async with asyncio.TaskGroup() as keepers:
                for slot in self._slots:
                    keepers.create_task(self._keep(slot))
        finally:
            self._signal_all(signal.SIGKILL)  # nothing is left behind, whatever went wrong here
        return self._code

    async def _keep(self, slot: _Slot) -> None:
        """Keep one worker running."""
        failures = 0
        while not self._stopping.is_set():
            started_at = time.monotonic()
            code = await self._run_worker(slot)
            if self._stopping.is_set():
                return
            if not self._started and code in _START_UP_ERRORS:
                self._stop(code)  # it has said why; the others would say the same
                return
            failures = 1 if time.monotonic() - started_at >= _STEADY_SECONDS else failures + 1
            delay = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(failures - 1, 10))
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            logger.warning("worker %d %s; it is started again in %g s", slot.number, how, delay)
            await self._pause(delay)

    async def _run_worker(self, slot: _Slot) -> int:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            theirs.close()
            slot.process = process
            if self._stopping.is_set():  # it was being started when all were told to stop
                process.terminate()
            reader, writer = await asyncio.open_connection(sock=ours, limit=_REPORT_BYTES)
            listening = asyncio.create_task(self._listen(slot, reader))
            try:
                return await self._ended(process)
            finally:
                listening.cancel()
                writer.close()
                slot.process, slot.report, slot.metrics = None, {}, ()

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Wait for a worker's end; once all are stopping, no longer than a graceful stop takes."""
        ending = asyncio.ensure_future(process.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([ending, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        patience = self._grace + LEAVE_SECONDS
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(ending)
        except TimeoutError:
            logger.warning("process %d did not stop within %g s and is killed", process.pid, patience)
            process.kill()
            return await ending

    async def _listen(self, slot: _Slot, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            if not line.endswith(b"\n"):
                return  # the worker has died while it told
            told = json.loads(line)
            slot.heard_at = time.monotonic()
            if "metrics" in told:
                slot.metrics = transport.load(told["metrics"])
                continue
            slot.report = told
            self._grace = max(self._grace, slot.report["grace"])
            self._started = self._started or slot.ready
            if not self._told and all(each.ready for each in self._slots):
                self._told = True
                pids = [each.process.pid for each in self._slots if each.process is not None]
                self._on_ready(pids, slot.report["topics"])

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _signalled(self) -> None:
        self._signals += 1
        if self._signals > 1:
            self._signal_all(signal.SIGKILL)
        else:
            self._stop(ExitCode.OK)

    def _stop(self, code: int) -> None:
        if not self._stopping.is_set():
            self._code = code
            self._stopping.set()
            self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.returncode is None:
                with suppress(ProcessLookupError):  # it has ended, and its end is not noticed yet
                    slot.process.send_signal(number)
