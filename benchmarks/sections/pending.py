"""Pending: the memory of calls that wait for their replies, while nobody answers."""

from __future__ import annotations

from contextlib import AsyncExitStack

from benchmarks.figures import Figures
from benchmarks.lineup import MESH, RAW, Contender
from benchmarks.load import ANSWER_PATIENCE_SECONDS, Held, Hold
from benchmarks.measuring import Cell, Plan, Stage, interleaved
from benchmarks.processes import Worker
from benchmarks.section import Column, Result, Section

_CONTENDERS = (RAW, MESH)
_UNIT = 10_000


async def _measure(stage: Stage) -> Result:
    async with AsyncExitStack() as running:
        cells = [await _cell(stage, contender, running) for contender in _CONTENDERS]
        # The round that does not count takes the memory that is taken once.
        return Result(await interleaved(stage, cells))


async def _cell(stage: Stage, contender: Contender, running: AsyncExitStack) -> Cell:
    scene = stage.scene("pending")
    async with stage.callee(contender, scene):
        pass  # the topics are there, and nobody answers
    caller = await running.enter_async_context(stage.caller(contender, scene))
    resident = (await hold(caller, 1)).resident_bytes

    async def measure() -> Figures:
        nonlocal resident
        before, resident = resident, (await hold(caller, stage.plan.pending)).resident_bytes
        return {
            "mb_per_unit": (resident - before) / 1e6 * _UNIT / stage.plan.pending,
            "resident_mb": resident / 1e6,
        }

    return Cell(f"{stage.plan.pending:,} calls more", contender.name, measure)


async def hold(caller: Worker, calls: int) -> Held:
    """Have a caller make calls that nobody answers."""
    return Held.model_validate_json(
        await caller.ask(Hold(calls=calls).model_dump_json(), ANSWER_PATIENCE_SECONDS + calls / 100)
    )


def _steps(plan: Plan) -> int:
    return (plan.rounds + 1) * len(_CONTENDERS)


SECTION = Section(
    name="pending",
    title="Pending calls",
    loads="each round",
    columns=(Column("mb_per_unit", f"MB per {_UNIT:,} calls", 1), Column("resident_mb", "resident MB")),
    about="How much the memory of a caller grows with calls whose replies it waits for; raw keeps nothing of them.",
    steps=_steps,
    measure=_measure,
    baseline=None,
)
