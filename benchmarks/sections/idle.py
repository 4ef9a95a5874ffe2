"""Idle: what a service takes that has answered requests, and waits for more."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from benchmarks.figures import Figures
from benchmarks.lineup import MESH, MESH_SILENT, RAW
from benchmarks.load import Load, cpu_seconds, resident_bytes
from benchmarks.measuring import WARM_UP_SECONDS, Cell, Plan, Stage, interleaved
from benchmarks.processes import Worker
from benchmarks.section import Column, Result, Section

LOAD = "waits"

_CONTENDERS = (RAW, MESH, MESH_SILENT)
_LEAST_SECONDS = 5.0  # of 10 ms that the kernel counts in, 1 % of a core is five
_IN_FLIGHT = 64


async def _measure(stage: Stage) -> Result:
    warm_up = Load(
        in_flight=_IN_FLIGHT, warm_up_seconds=WARM_UP_SECONDS, seconds=stage.plan.seconds, processes={}
    )
    seconds = max(_LEAST_SECONDS, stage.plan.seconds)
    async with AsyncExitStack() as running:
        callees: dict[str, Worker] = {}
        for contender in _CONTENDERS:
            pair = await stage.pair(contender, stage.scene("idle"), running)
            await pair.measure(warm_up)  # what is loaded and cached at work is there from now on
            callees[contender.name] = pair.callees[0]
        cells = [Cell(LOAD, name, partial(_waiting, callee.pid, seconds)) for name, callee in callees.items()]
        return Result(await interleaved(stage, cells, warm_up=False))


async def _waiting(pid: int, seconds: float) -> Figures:
    clock = asyncio.get_running_loop().time
    began, before = clock(), cpu_seconds(pid)
    await asyncio.sleep(seconds)
    share = (cpu_seconds(pid) - before) / (clock() - began)
    return {"cpu_percent": share * 100, "resident_mb": resident_bytes(pid) / 1e6}


def _steps(plan: Plan) -> int:
    return plan.rounds * len(_CONTENDERS)


SECTION = Section(
    name="idle",
    title="An idle service",
    loads="callee",
    columns=(Column("cpu_percent", "% of a core", 2), Column("resident_mb", "resident MB")),
    about=f"A service that has answered requests and waits for more, over {_LEAST_SECONDS:g} s or longer.",
    steps=_steps,
    measure=_measure,
    baseline=None,
)
