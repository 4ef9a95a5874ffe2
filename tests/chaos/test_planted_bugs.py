"""The checker finds bugs that are planted into real services on a real Kafka, and lets pass the same runs without.

Each run is arranged so that its bug must show: handlers hang while the fault strikes.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from broker_mesh.dev.cluster import EmbeddedKafka
from tests.chaos.caller import Caller
from tests.chaos.checker import Rules, check
from tests.chaos.evidence import Ownership
from tests.chaos.history import Assigned, Began, Entry, Fault, Journal, Lost, now, read
from tests.chaos.operations import ATTEMPTS, Operations, operations
from tests.chaos.stored import read_stored, wait_until_settled
from tests.chaos.verdict import Verdict
from tests.chaos.workload import ServiceConfig
from tests.support.fleet import make_mesh
from tests.support.groups import shorten_sessions
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line

SESSION_MS = 2500
PATIENCE = 60.0
SETTINGS = {"partitions": 2}
KEYS = [f"caller-1-{number}-apply" for number in range(24)]
EntryT = TypeVar("EntryT", bound=Entry)


class Stage:
    """Two instances of a service with a bug, or without, and one caller in this process."""

    def __init__(self, kafka: EmbeddedKafka, processes: Processes, directory: Path, planted: str) -> None:
        self.service = fresh("chaos")
        self.names: Operations = operations(self.service)
        self.directory = directory / "history"
        self._bootstrap_servers = kafka.bootstrap_servers
        self._processes = processes
        self._planted = planted
        self._nemesis = Journal(self.directory, "nemesis")
        self._faults = count()
        shorten_sessions(self._bootstrap_servers, self.service, SESSION_MS)

    async def start(self, process: str) -> subprocess.Popen[str]:
        config = ServiceConfig(
            self._bootstrap_servers,
            str(self.directory),
            process,
            service=self.service,
            settings=SETTINGS,
            planted=self._planted,
        )
        started = self._processes.start(*config.command()[2:])
        await asyncio.to_thread(wait_for_line, started, "ready")
        return started

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        async with make_mesh(f"{self.service}-callers", self._bootstrap_servers) as mesh:
            yield Caller(mesh, Journal(self.directory, "caller-1"), self.names, window=1000)

    def fault(self, kind: str, target: str) -> Callable[[], None]:
        """Write down that a fault begins; gives what writes down that it ends."""
        number = next(self._faults)
        self._nemesis.write(Fault(now(), number, kind, target, "begin"))
        return lambda: self._nemesis.write(Fault(now(), number, kind, target, "end"))

    def entries(self, process: str, kind: type[EntryT]) -> list[EntryT]:
        history = read(self.directory, process)
        return [entry for each in history for entry in each.entries if isinstance(entry, kind)]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.05)

    async def settled(self, patience: float = PATIENCE) -> bool:
        left = await asyncio.to_thread(
            wait_until_settled, self._bootstrap_servers, self.service, self._topics, patience
        )
        return not left

    async def verdict(self) -> Verdict:
        stored = await asyncio.to_thread(read_stored, self._bootstrap_servers, self.service, self._topics)
        history = read(self.directory)
        verdict = check(history, stored, Rules(self.names.orderings, ATTEMPTS))
        print(verdict.report(history, stored))
        return verdict

    @property
    def _topics(self) -> list[str]:
        return list(self.names.orderings)


async def send(caller: Caller, keys: list[str], plans: list[str]) -> None:
    """Send to each key its plans in order, keys side by side."""

    async def send_all(key: str) -> None:
        for number, plan in enumerate(plans):
            await caller.ask(key, number, plan)

    await asyncio.gather(*(send_all(key) for key in keys))


async def undisturbed(stage: Stage) -> None:
    """Each key's first record takes longer than those behind it."""
    await stage.start("service-1")
    async with stage.caller() as caller:
        await send(caller, KEYS, ["hang 2", "throw 1", "ok"])
        await stage.settled()
        await caller.finish(5.0)


async def killed_while_handlers_hang(stage: Stage) -> None:
    """SIGKILL meets handlers that hang, after as long as a commit takes; records of each key follow."""
    first = await stage.start("service-1")
    async with stage.caller() as caller:
        await send(caller, KEYS, ["hang 4", "throw 1", "ok"])
        await stage.until(lambda: len(stage.entries("service-1", Began)) >= len(KEYS))
        await stage.settled(patience=2.0)  # only where it commits before it settles
        ended = stage.fault("kill", "service-1")
        first.kill()
        await asyncio.to_thread(first.wait)
        await stage.start("service-1")
        ended()
        await stage.settled()
        await caller.finish(5.0)


async def stopped_past_its_session(stage: Stage) -> None:
    """SIGSTOP of one of two instances, until the other one has its partitions; both have much to do.

    The first record of each key is slow, so that the others wait in its lane when the signal comes, and that the
    partitions don't go back at once: they are drained first.
    """
    first = await stage.start("service-1")
    await stage.start("service-2")
    everything = {
        (name, partition)
        for topic in stage.names.orderings
        for name in (topic, f"{topic}.retry")
        for partition in range(SETTINGS["partitions"])
    }

    def taken_over() -> bool:
        return Ownership(read(stage.directory, "service-2")).owned_by("service-2", now()) == everything

    await stage.until(lambda: bool(stage.entries("service-2", Assigned)))
    async with stage.caller() as caller:
        await send(caller, KEYS, ["hang 3", *["hang 0.5"] * 6])
        await stage.until(lambda: bool(stage.entries("service-1", Began)))
        ended = stage.fault("stop", "service-1")
        before = len(stage.entries("service-1", Lost))
        first.send_signal(signal.SIGSTOP)
        await stage.until(taken_over)
        first.send_signal(signal.SIGCONT)
        ended()
        await stage.until(lambda: len(stage.entries("service-1", Lost)) > before)
        await caller.finish(PATIENCE)
        await stage.settled(patience=10.0)


@pytest.mark.parametrize(
    ("run", "planted", "found"),
    [
        (killed_while_handlers_hang, "", set()),
        (killed_while_handlers_hang, "commit before settle", {"lost"}),
        (undisturbed, "no lane order", {"order", "overlap"}),
        (stopped_past_its_session, "", set()),
        (stopped_past_its_session, "no fence", {"fence"}),
    ],
)
async def test_the_checker_finds_what_is_planted_and_nothing_where_nothing_is(
    kafka: EmbeddedKafka,
    processes: Processes,
    tmp_path: Path,
    run: Callable[[Stage], Coroutine[Any, Any, None]],
    planted: str,
    found: set[str],
) -> None:
    stage = Stage(kafka, processes, tmp_path, planted)
    await run(stage)
    verdict = await stage.verdict()
    kinds = {violation.kind for violation in verdict.violations}
    assert kinds >= found
    assert verdict.passed is not bool(planted)
