"""The processes of one run: each started as a user would start it, and none left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from broker_mesh.dead_letters import DeadLetters, Selection
from broker_mesh.dev.watchdog import Watchdog
from broker_mesh.message import now_ms
from broker_mesh.settings import load
from demo.processes import Process
from demo.stage import Stage
from demo.tally import Cause

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 60.0


class Services:
    """Starts and stops services, and shows what they are doing.

    Args:
        stage: where it shows.
        bootstrap_servers: of a Kafka that runs.
        watchdog: ends the processes should this one die.
        group: runs them; when one fails, all end.
    """

    def __init__(
        self, stage: Stage, bootstrap_servers: str, watchdog: Watchdog, group: asyncio.TaskGroup
    ) -> None:
        self._stage = stage
        self._watchdog = watchdog
        self._group = group
        self._processes: dict[str, Process] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._environ = {
            **os.environ,
            "MESH_BOOTSTRAP_SERVERS": bootstrap_servers,
            "MESH_SCHEMAS": str(ROOT / "schemas"),
            "MESH_ACCESS_LOG": "false",  # of what a service logs only the last lines are shown, should it fail
            "PYTHONPATH": str(ROOT),
        }
        settings = load({}, environ=self._environ, directory=ROOT)
        self._dead_letters = DeadLetters(settings, client_id="demo")
        self._since = now_ms()  # a Kafka that is used again may hold those of earlier runs

    async def start(
        self, name: str, on_line: Callable[[str], None] = lambda _line: None, *, module: str | None = None
    ) -> None:
        """Start a service, and return when it says that it serves.

        Args:
            name: of the service, and of its Mesh.
            on_line: gets each line that the service itself writes.
            module: of `demo`, where it is not named as the service.

        Raises:
            ProcessFailed: it is not ready within a minute.
        """
        ready = asyncio.Event()

        def take(line: str) -> None:
            # `mesh run` itself writes one line, when the service has joined its group; the rest is the service's.
            if not ready.is_set() and "serving" in json.loads(line):
                ready.set()
            else:
                on_line(line)

        self._stage.set_service(name, "starting")
        target = f"demo.{module or name}:{name}"
        process = self._run(name, _mesh("run", target, "-o", "json", "--log-format", "text"), take)
        try:
            async with asyncio.timeout(READY_SECONDS):
                await ready.wait()
        except TimeoutError as error:
            raise process.failed(f"was not ready within {READY_SECONDS:g} s.") from error
        self._stage.set_service(name, "running")

    def start_dispatch(self, flights: int, on_line: Callable[[str], None]) -> asyncio.Task[None]:
        """Start dispatch, which ends when it is done with its flights."""
        command = (sys.executable, "-m", "demo.dispatch", "--flights", str(flights))
        self._run("dispatch", command, on_line, ends=True)
        self._stage.set_service("dispatch", "running")
        task = self._tasks["dispatch"]
        task.add_done_callback(lambda _: self._stage.set_service("dispatch", "done"))
        return task

    def kill(self, name: str) -> None:
        """Kill a service (SIGKILL), as a crash would."""
        self._processes[name].kill()
        self._stage.set_service(name, "killed")

    async def stop(self, name: str) -> None:
        """Stop a service as an operator would (SIGTERM): it settles what it has begun."""
        self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name]])
        self._stage.set_service(name, "stopped")

    async def mesh(self, *words: str) -> None:
        """Run a command of `mesh`, and show it, once it is done, with what it wrote.

        Raises:
            ProcessFailed: it ended with another exit code than 0.
        """
        lines: list[str] = []
        process = Process(f"mesh {words[0]}", _mesh(*words), lines.append, ends=True)
        try:
            await process.run(self._environ, self._watchdog)
        finally:
            self._stage.say(f"$ {shlex.join(('mesh', *words))}")
            self._stage.show(lines)

    async def dead_letters(self, service: str) -> Counter[Cause]:
        """Count the dead letters of this run that nobody has replayed yet, by cause."""
        selection = Selection(service=service, since=self._since)
        causes = await self._dead_letters.causes(selection)
        counts: Counter[Cause] = Counter()
        for cause in causes:
            status = "" if cause.status is None else cause.status.name
            counts[Cause(status, cause.exception or "")] += cause.count
        return counts

    def end(self) -> None:
        """Stop whatever still runs."""
        for task in self._tasks.values():
            task.cancel()

    def _run(
        self, name: str, command: tuple[str, ...], on_line: Callable[[str], None], *, ends: bool = False
    ) -> Process:
        process = self._processes[name] = Process(name, command, on_line, ends=ends)
        self._tasks[name] = self._group.create_task(process.run(self._environ, self._watchdog))
        return process


def _mesh(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "broker_mesh.cli", *words)
