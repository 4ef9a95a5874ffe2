"""What happens, in order: services start, flights are followed, fleet is killed and comes back, all is counted."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker_mesh.dev.watchdog import Watchdog
from demo.contracts import FIND_AIRCRAFT
from demo.processes import Process
from demo.stage import Stage
from demo.tally import Calls

ROOT = Path(__file__).resolve().parent.parent
KILL_AT = 0.4
"""Which part of the flights is done with when fleet is killed."""
DOWN_SECONDS = 3.0
"""How long it stays away."""
READY_SECONDS = 60.0
STALL_SECONDS = 60.0
"""How long nothing may be counted before what still waits is taken for lost."""


class Story:
    """One run of the demo over a Kafka that runs.

    Args:
        stage: where it shows.
        bootstrap_servers: of that Kafka.
        watchdog: ends the services should this process die.
        group: runs the services; when one fails, all end.
    """

    def __init__(
        self, stage: Stage, bootstrap_servers: str, watchdog: Watchdog, group: asyncio.TaskGroup
    ) -> None:
        self._stage = stage
        self._watchdog = watchdog
        self._group = group
        self._tasks: list[asyncio.Task[Any]] = []
        self._environ = {
            **os.environ,
            "MESH_BOOTSTRAP_SERVERS": bootstrap_servers,
            "MESH_SCHEMAS": str(ROOT / "schemas"),
            "PYTHONPATH": str(ROOT),
        }

    async def tell(self) -> None:
        """See it through and stop the services; what was counted is on the stage then."""
        stage = self._stage
        # Nobody waits for the board: an event is kept for whoever subscribes, even before it is first published.
        self._tasks.append(self._group.create_task(self._start_service("board", stage.take_departure)))
        fleet, _ = await asyncio.gather(self._start_service("fleet"), self._start_service("weather"))
        stage.say(f"fleet and weather are ready; dispatch asks about {stage.expected.flights:,} flights.")
        dispatch = self._start_dispatch()

        to_kill_at = KILL_AT * stage.expected.flights
        await stage.until(lambda: dispatch.done() or stage.progress.flights >= to_kill_at, STALL_SECONDS)
        fleet.kill()
        await self._restart_fleet()

        await stage.until(dispatch.done, STALL_SECONDS)
        received = stage.departures.flights
        await stage.until(lambda: len(received) >= stage.progress.published, STALL_SECONDS)
        for task in self._tasks:
            task.cancel()

    async def _restart_fleet(self) -> None:
        """Let requests wait for fleet for a while, start it again, and see them answered."""
        stage = self._stage
        killed_at = asyncio.get_running_loop().time()
        stage.set_service("fleet", "killed")
        stage.say(f"fleet is killed (SIGKILL) after {stage.progress.flights:,} flights.")
        await asyncio.sleep(DOWN_SECONDS)
        before = self._fleet_calls()
        failed = before.errors.total() - before.errors["NOT_FOUND"]
        stage.say(
            f"{before.waiting:,} requests wait for fleet, {failed:,} have failed; fleet is started again, "
            "and gets its work when Kafka takes the killed one for dead."
        )
        await self._start_service("fleet")
        if not before.waiting:
            return
        if await stage.until(lambda: self._fleet_calls().done >= before.sent, STALL_SECONDS):
            seconds = asyncio.get_running_loop().time() - killed_at
            stage.say(f"All {before.waiting:,} that waited are answered, {seconds:.1f} s after the kill.")

    def _fleet_calls(self) -> Calls:
        return self._stage.progress.calls.get(FIND_AIRCRAFT.name, Calls())

    async def _start_service(self, name: str, on_line: Callable[[str], None] = lambda _line: None) -> Process:
        """Start a service as a user would, and return when it says that it serves."""
        ready = asyncio.Event()

        def take(line: str) -> None:
            # `mesh run` itself writes one line, when the service has joined its group; the rest is the service's.
            if not ready.is_set() and "serving" in json.loads(line):
                ready.set()
            else:
                on_line(line)

        options = ("-o", "json", "--log-format", "text")
        command = (sys.executable, "-m", "broker_mesh.cli", "run", f"demo.{name}:{name}", *options)
        process = Process(name, command, take)
        self._stage.set_service(name, "starting")
        self._tasks.append(self._group.create_task(process.run(self._environ, self._watchdog)))
        try:
            async with asyncio.timeout(READY_SECONDS):
                await ready.wait()
        except TimeoutError as error:
            raise process.failed(f"was not ready within {READY_SECONDS:g} s.") from error
        self._stage.set_service(name, "running")
        return process

    def _start_dispatch(self) -> asyncio.Task[None]:
        flights = str(self._stage.expected.flights)
        command = (sys.executable, "-m", "demo.dispatch", "--flights", flights)
        process = Process("dispatch", command, self._stage.take_progress, ends=True)
        self._stage.set_service("dispatch", "running")
        task = self._group.create_task(process.run(self._environ, self._watchdog))

        def ended(_task: asyncio.Task[None]) -> None:
            self._stage.set_service("dispatch", "done")

        task.add_done_callback(ended)
        self._tasks.append(task)
        return task
