"""One run: cluster, services, callers, faults; then fair weather, until all is settled, and the verdict."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.cluster import Cluster
from tests.chaos.crew import Crew
from tests.chaos.history import Journal, Note, now
from tests.chaos.nemesis import Nemesis, Struck
from tests.chaos.operations import Operations, operations
from tests.chaos.plans import Mix
from tests.chaos.schedule import schedule
from tests.chaos.stored import Partition, wait_until_settled
from tests.chaos.workload import SERVICE, CallerConfig, ServiceConfig

READY_SECONDS = 60.0
PATIENCE_SECONDS = 60.0
SETTLING_SECONDS = 180.0
_LEAVING_SECONDS = 30.0
_POLL_SECONDS = 0.2
_WINDOW = 600  # replies that a caller waits for at once: a fault of some seconds shall not end the load
_SENDING = b'["Sending"'  # how the history begins such a line
_LOST_ON_THEIR_WAY = 0.01  # of callers that are killed
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Args:
        seed: of the faults and of what handlers do.
        seconds: how long the load and the faults last.
        requests: how many are to be sent in this time, at least; where they are not, the load goes on as long again.
        services: instances of the service under test.
        callers: processes that call it.
        keys: of each caller, over all operations.
    """

    seed: int
    seconds: float
    requests: int
    services: int = 3
    callers: int = 2
    keys: int = 100
    mix: Mix = field(default_factory=Mix)

    @property
    def rate(self) -> float:
        """Requests per second of each caller; more than wanted, since each fault costs some."""
        return _HEADROOM * self.requests / self.seconds / self.callers


_HEADROOM = 1.25


@dataclass
class Ran:
    """What a run leaves for the verdict.

    Args:
        folder: with the histories, the logs and the brokers' data.
        struck: the faults that came to pass.
        left: what the group has not settled; empty where nothing is stuck.
        late: callers that did not end in time.
        seconds: how long the load lasted.
    """

    folder: Path
    struck: list[Struck]
    left: dict[Partition, int]
    late: list[str]
    seconds: float


def play(plan: Plan, folder: Path, tell: Tell, judge: Callable[[Ran, Cluster], Any]) -> Any:
    """Carry a run out; whatever ends it, no process is left behind.

    Args:
        plan: what to do.
        folder: for all that the run writes; empty.
        tell: told how far it is.
        judge: gives the verdict, while the brokers still run.

    Raises:
        MeshError: Kafka can't be started.
        TimeoutError: something that is not under test did not come about in time.
    """
    names = operations(SERVICE)
    with ExitStack() as stack:
        tell("starting three brokers")
        cluster = stack.enter_context(Cluster(folder / "kafka"))
        journal = Journal(folder / "history", "nemesis")
        stack.callback(journal.close)
        crew = Crew(folder / "logs", journal, _environ())
        stack.callback(crew.close)
        crew.open()
        scene = _Scene(plan, folder, cluster, crew, journal, names, tell)
        return judge(scene.run(), cluster)


class _Scene:
    """A run's processes and faults, in order."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        cluster: Cluster,
        crew: Crew,
        journal: Journal,
        names: Operations,
        tell: Tell,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._cluster = cluster
        self._crew = crew
        self._journal = journal
        self._names = names
        self._tell = tell

    def run(self) -> Ran:
        """Start all, strike, and wait until all is settled."""
        plan, crew = self._plan, self._crew
        self._tell(f"starting {plan.services} services and {plan.callers} callers")
        services = [f"service-{number}" for number in range(1, plan.services + 1)]
        self._add_service(services[0])  # makes the topics, which callers must find
        crew.wait_ready(services[:1], READY_SECONDS)
        for name in services[1:]:
            self._add_service(name)
        crew.wait_ready(services, READY_SECONDS)
        self._wait_shared(len(services))
        callers = [f"caller-{number}" for number in range(1, plan.callers + 1)]
        for name in callers:
            crew.add(name, self._caller(name).command())
        crew.wait_ready(callers, READY_SECONDS)
        started = time.monotonic()
        self._note("the load begins")
        nemesis = Nemesis(self._cluster, crew, self._journal, self._names, self._add_service)
        try:
            faults = schedule(plan.seed, plan.seconds)
            self._tell(f"{len(faults)} faults in {plan.seconds:g} s, seed {plan.seed}")
            nemesis.run(faults, started)
            time.sleep(max(0.0, started + plan.seconds - time.monotonic()))
            self._await_load(started + 2 * plan.seconds)
        finally:
            nemesis.close()
        seconds = time.monotonic() - started
        self._note("the load ends, the weather is fair")
        self._tell("waiting until all is settled")
        late = self._end(callers)
        left = wait_until_settled(
            self._cluster.direct_servers, SERVICE, list(self._names.orderings), SETTLING_SECONDS
        )
        if left:
            self._note(f"stuck at {left}, while {self._cluster.members(SERVICE)}")
        for name in crew.running("service"):
            crew.leave(name)
        crew.wait_gone(crew.running("service"), _LEAVING_SECONDS)
        self._note("the services have left")
        return Ran(self._folder, nemesis.struck, left, late, seconds)

    def _wait_shared(self, services: int) -> None:
        """Wait until all have their share of the partitions: what a rebalance repeats is to be explained by a fault."""
        until = time.monotonic() + READY_SECONDS
        while not self._cluster.is_shared(SERVICE, services):
            if time.monotonic() >= until:
                raise TimeoutError(f"the services did not share their work: {self._cluster.members(SERVICE)}")
            time.sleep(_POLL_SECONDS)

    def _await_load(self, until: float) -> None:
        """Let callers go on until they have sent what was wanted; on a machine with other work they may be behind."""
        wanted = self._plan.requests * (1 + _LOST_ON_THEIR_WAY)
        while self._sent() < wanted and time.monotonic() < until:
            time.sleep(1.0)

    def _sent(self) -> int:
        files = (self._folder / "history").glob("caller-*.jsonl")
        return sum(file.read_bytes().count(_SENDING) for file in files)

    def _end(self, callers: list[str]) -> list[str]:
        """Have callers send no more, and wait for their replies; gives those that did not end in time."""
        for name in callers:
            self._crew.leave(name)
        return self._crew.wait_gone(callers, PATIENCE_SECONDS + _LEAVING_SECONDS)

    def _add_service(self, name: str) -> None:
        config = ServiceConfig(
            bootstrap_servers=self._cluster.bootstrap_servers,
            directory=str(self._folder / "history"),
            process=name,
        )
        self._crew.add(name, config.command())

    def _caller(self, name: str) -> CallerConfig:
        return CallerConfig(
            bootstrap_servers=self._cluster.bootstrap_servers,
            directory=str(self._folder / "history"),
            process=name,
            seed=self._plan.seed,
            keys=self._plan.keys,
            rate=self._plan.rate,
            window=_WINDOW,
            patience_seconds=PATIENCE_SECONDS,
            mix=self._plan.mix,
        )

    def _note(self, text: str) -> None:
        self._journal.write(Note(now(), text))


def _environ() -> dict[str, str]:
    """The environment of processes under test: nothing of this machine's mesh settings; who crashes says where."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MESH_", "OTEL_"))}
    return {**kept, "PYTHONFAULTHANDLER": "1"}
