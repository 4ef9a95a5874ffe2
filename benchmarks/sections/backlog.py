"""A backlog: what a request costs a service that has been away while many arrived, beside one that keeps up."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from confluent_kafka import Message
from confluent_kafka.admin import AdminClient

from benchmarks.backlogs import length, newest, write_copies
from benchmarks.contenders import raw
from benchmarks.contracts import assign_gate
from benchmarks.contracts import caller as caller_of
from benchmarks.figures import Figures
from benchmarks.lineup import MESH, RAW, Contender
from benchmarks.load import Load, cpu_seconds, resident_bytes
from benchmarks.measuring import WARM_UP_SECONDS, Cell, Plan, Stage, interleaved
from benchmarks.processes import BenchmarkFailed
from benchmarks.section import Column, Result, Section
from broker_mesh import naming

EMPTY, FULL = "none", "backlog"

_CONTENDERS = (RAW, MESH)
_IN_FLIGHT = 1000
_ORIGINALS = 1000
_LOOK_AGAIN_SECONDS = 0.02
_SLOWEST_PER_SECOND = 200


class _Desk:
    """One contender's service, which is there or away."""

    def __init__(self, stage: Stage, contender: Contender) -> None:
        self._stage, self._contender = stage, contender
        self._scene = stage.scene("backlog")
        self._admin = AdminClient({"bootstrap.servers": stage.bootstrap_servers})
        self._requests: list[Message] = []
        name = contender.within(self._scene, stage.collector).name
        self._topics = (
            (raw.requests_of(name), raw.replies_of(name))
            if contender is RAW
            else (assign_gate(name).name, naming.reply_topic(caller_of(name)))
        )

    async def keeping_up(self) -> Figures:
        """Measure a service that answers what comes."""
        order = Load(
            in_flight=_IN_FLIGHT,
            warm_up_seconds=WARM_UP_SECONDS,
            seconds=self._stage.plan.seconds,
            processes={},
        )
        async with AsyncExitStack() as running:
            pair = await self._stage.pair(self._contender, self._scene, running)
            seen = await pair.measure(order)
            return _figures(
                seen.requests_per_second, seen.cpu_us["callee"], resident_bytes(pair.callees[0].pid)
            )

    async def catching_up(self) -> Figures:
        """Write a backlog while the service is away, and measure how it works it off."""
        servers, count = self._stage.bootstrap_servers, self._stage.plan.backlog
        requests, replies = self._topics
        if not self._requests:  # of those that it has answered
            self._requests = await asyncio.to_thread(newest, servers, requests, _ORIGINALS)
        await asyncio.to_thread(write_copies, servers, self._requests, count)
        before = await asyncio.to_thread(length, self._admin, replies)
        async with self._stage.callee(self._contender, self._scene) as callee:
            return await asyncio.to_thread(self._drained, callee.pid, replies, before, count)

    def _drained(self, pid: int, replies: str, before: int, count: int) -> Figures:
        began, spent = time.perf_counter(), cpu_seconds(pid)
        first = answered = length(self._admin, replies) - before
        while answered < count:
            if time.perf_counter() - began > 60 + count / _SLOWEST_PER_SECOND:
                raise BenchmarkFailed(f"{answered:,} of {count:,} requests of a backlog were answered.")
            time.sleep(_LOOK_AGAIN_SECONDS)
            answered = length(self._admin, replies) - before
        done = max(1, answered - first)
        return _figures(
            done / (time.perf_counter() - began),
            (cpu_seconds(pid) - spent) / done * 1e6,
            resident_bytes(pid),
        )


def _figures(requests_per_second: float, callee_us: float, resident: int) -> Figures:
    return {
        "requests_per_second": requests_per_second,
        "callee_us": callee_us,
        "resident_mb": resident / 1e6,
    }


async def _measure(stage: Stage) -> Result:
    desks = [(each.name, _Desk(stage, each)) for each in _CONTENDERS]
    cells = [Cell(EMPTY, name, desk.keeping_up) for name, desk in desks]
    cells += [Cell(FULL, name, desk.catching_up) for name, desk in desks]
    return Result(await interleaved(stage, cells))


def _steps(plan: Plan) -> int:
    return (plan.rounds + 1) * 2 * len(_CONTENDERS)


SECTION = Section(
    name="backlog",
    title="A backlog",
    loads="what waits",
    columns=(
        Column("requests_per_second", "requests/s", compared=True),
        Column("callee_us", "callee µs", compared=True),
        Column("resident_mb", "resident MB"),
    ),
    about=f"“{FULL}”: requests that were written while the service was away (`--backlog`), until all are answered; "
    f"“{EMPTY}”: {_IN_FLIGHT:,} in flight.",
    steps=_steps,
    measure=_measure,
)
