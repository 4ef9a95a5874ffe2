"""Start-up: of `mesh --help`, and of a service until it has answered a request that waits for it."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack

from benchmarks.figures import Figures
from benchmarks.lineup import MESH, RAW, Contender
from benchmarks.load import ANSWER_PATIENCE_SECONDS, First
from benchmarks.measuring import Cell, Plan, Stage, interleaved
from benchmarks.processes import BenchmarkFailed
from benchmarks.section import Column, Result, Section

HELP, FIRST_ANSWER = "to its help", "to its first answer"
HELP_OF_MESH = "mesh --help"

_MESH = (
    sys.executable,
    "-m",
    "broker_mesh.cli",
    "--help",
)  # the code that is measured, not what is on the path
_PYTHON = (sys.executable, "-c", "pass")
_CONTENDERS = (RAW, MESH)


async def _measure(stage: Stage) -> Result:
    async with AsyncExitStack() as running:
        cells = [
            Cell(HELP, "python -c pass", lambda: _run(_PYTHON)),
            Cell(HELP, HELP_OF_MESH, lambda: _run(_MESH)),
        ]
        cells += [await _first_answer(stage, contender, running) for contender in _CONTENDERS]
        return Result(await interleaved(stage, cells))


async def _run(command: tuple[str, ...]) -> Figures:
    began = time.perf_counter()
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await child.wait() != 0:
        raise BenchmarkFailed(f"{' '.join(command)} has failed; what it wrote stands above.")
    return {"seconds": time.perf_counter() - began}


async def _first_answer(stage: Stage, contender: Contender, running: AsyncExitStack) -> Cell:
    scene, first = stage.scene("start"), First().model_dump_json()
    async with stage.callee(contender, scene):  # makes the topics, and answers what the caller learns by
        caller = await running.enter_async_context(stage.caller(contender, scene))
        await caller.ask(first, ANSWER_PATIENCE_SECONDS)

    async def measure() -> Figures:
        asked = asyncio.create_task(caller.ask(first, ANSWER_PATIENCE_SECONDS))
        began = time.perf_counter()
        async with stage.callee(contender, scene):
            await asked
            return {"seconds": time.perf_counter() - began}

    return Cell(FIRST_ANSWER, contender.name, measure)


def _steps(plan: Plan) -> int:
    return (plan.rounds + 1) * (2 + len(_CONTENDERS))


SECTION = Section(
    name="start-up",
    title="Start-up",
    loads="from its start",
    columns=(Column("seconds", "seconds", 2),),
    about=f"“{FIRST_ANSWER}”: from the start of a process until a request that waited for it is answered; its topics "
    "are there, and the broker is warm.",
    steps=_steps,
    measure=_measure,
    baseline=None,
)
