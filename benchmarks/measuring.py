"""The run of a section: contenders side by side, in interleaved rounds, so that the machine's noise falls on all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import NamedTuple

from benchmarks.figures import Figures, Seen
from benchmarks.lineup import Contender
from benchmarks.load import ANSWER_PATIENCE_SECONDS, Load, Measurement
from benchmarks.processes import Worker, worker
from benchmarks.progress import Progress
from benchmarks.scene import PARTITIONS, Scene

WARM_UP_SECONDS = 0.5


class Plan(NamedTuple):
    """How much is measured.

    Args:
        rounds: how often each contender is measured under each load.
        seconds: how long each time.
        messages: how many a wrapped client sends or takes each time.
        backlog: how many requests wait for a service that has been away.
        pending: how many calls wait for their replies.
        peers: whether other systems are measured too.
    """

    rounds: int = 5
    seconds: float = 1.5
    messages: int = 20_000
    backlog: int = 20_000
    pending: int = 10_000
    peers: bool = True


class Stage(NamedTuple):
    """What all sections run on.

    Args:
        plan: how much is measured.
        bootstrap_servers: of the Kafka that all use.
        broker_pid: its process.
        collector: where spans and metrics are exported to.
        progress: is told what is being done.
    """

    plan: Plan
    bootstrap_servers: str
    broker_pid: int
    collector: str
    progress: Progress

    def scene(self, name: str, partitions: int = PARTITIONS) -> Scene:
        """Give a scene of a section; `name` is the section's own."""
        return Scene(bootstrap_servers=self.bootstrap_servers, name=name, partitions=partitions)

    def callee(self, contender: Contender, scene: Scene) -> AbstractAsyncContextManager[Worker]:
        """Run a callee while a block runs; it makes the topics of its scene."""
        return self.process(contender, "callee", scene)

    def caller(self, contender: Contender, scene: Scene) -> AbstractAsyncContextManager[Worker]:
        """Run a caller while a block runs; a callee has made the topics before."""
        return self.process(contender, "caller", scene)

    async def pair(
        self, contender: Contender, scene: Scene, running: AsyncExitStack, callees: int = 1
    ) -> Pair:
        """Start a caller and its callees, until a stack is left."""
        # The callees first: they make the topics, one of them before the others.
        started = [await running.enter_async_context(self.callee(contender, scene)) for _ in range(callees)]
        _, _, address = started[0].said.partition(" ")
        caller_scene = scene.model_copy(update={"callee": address})
        caller = await running.enter_async_context(self.caller(contender, caller_scene))
        return Pair(caller, started, None if address else self.broker_pid)

    def process(self, contender: Contender, role: str, scene: Scene) -> AbstractAsyncContextManager[Worker]:
        """Run a process of a contender, in a role that its program knows, while a block runs."""
        told = contender.within(scene, self.collector).model_dump_json()
        return worker(f"The {role} of {contender.name}", [*contender.command, role, told])


class Pair(NamedTuple):
    """A caller and its callees; `broker_pid` is None of contenders that have no broker."""

    caller: Worker
    callees: Sequence[Worker]
    broker_pid: int | None

    async def measure(self, load: Load) -> Measurement:
        """Have the caller make a load, and give what it saw."""
        processes = {"caller": [self.caller.pid], "callee": [each.pid for each in self.callees]}
        if self.broker_pid is not None:
            processes["broker"] = [self.broker_pid]
        told = load.model_copy(update={"processes": processes}).model_dump_json()
        # The caller itself gives up earlier, and knows more.
        patience = WARM_UP_SECONDS + load.seconds + 2 * ANSWER_PATIENCE_SECONDS
        return Measurement.model_validate_json(await self.caller.ask(told, patience))


class Cell(NamedTuple):
    """One contender under one load, and how it is measured once."""

    load: str
    contender: str
    measure: Callable[[], Awaitable[Figures]]


def loaded(load: str, contender: str, pair: Pair, order: Load) -> Cell:
    """Make the cell of a pair under a load."""

    async def measure() -> Figures:
        return (await pair.measure(order)).figures()

    return Cell(load, contender, measure)


async def interleaved(stage: Stage, cells: Sequence[Cell], *, warm_up: bool = True) -> Seen:
    """Measure all cells in rounds.

    Args:
        stage: how many rounds, and who is told.
        cells: those of a load one after the other.
        warm_up: whether a round goes before that does not count: the broker compiles its code as it runs.

    Returns:
        The figures by load and contender, in the order of the rounds.

    Raises:
        BenchmarkFailed: a contender gave up.
    """
    seen: dict[tuple[str, str], list[Figures]] = {(cell.load, cell.contender): [] for cell in cells}
    for number in range(0 if warm_up else 1, stage.plan.rounds + 1):
        title = f"round {number} of {stage.plan.rounds}" if number else "warming up"
        for cell in in_turn(cells, number):
            stage.progress.step(f"{title}: {cell.contender}, {cell.load}")
            figures = await cell.measure()
            if number:
                seen[cell.load, cell.contender].append(figures)
    return seen


def in_turn(cells: Sequence[Cell], number: int) -> list[Cell]:
    """Give the order of a round: load by load, their contenders the other way round each time, so that none always
    comes after another."""
    by_load: dict[str, list[Cell]] = {}
    for cell in cells:
        by_load.setdefault(cell.load, []).append(cell)
    return [
        cell for group in by_load.values() for cell in (group if number % 2 == 0 else list(reversed(group)))
    ]
