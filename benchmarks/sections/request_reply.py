"""Request and reply: raw, the mesh with traces sampled at 1 % and at 100 %, and the peers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from benchmarks.lineup import MESH, MESH_TRACED, RAW, Absent, Contender, peers
from benchmarks.load import Load
from benchmarks.measuring import WARM_UP_SECONDS, Plan, Stage, interleaved, loaded
from benchmarks.section import THROUGHPUT, Result, Section

IN_FLIGHT = (1, 64, 1000)
_PEERS = 4


def load_of(in_flight: int) -> str:
    """Name a load."""
    return f"{in_flight:,}"


async def _measure(stage: Stage) -> Result:
    others = await asyncio.to_thread(peers) if stage.plan.peers else []
    absent = tuple(each for each in others if isinstance(each, Absent))
    contenders = [RAW, MESH, MESH_TRACED, *(each for each in others if isinstance(each, Contender))]
    async with AsyncExitStack() as running:
        pairs = {each.name: await stage.pair(each, stage.scene("requests"), running) for each in contenders}
        cells = [
            loaded(
                load_of(in_flight),
                name,
                pair,
                Load(
                    in_flight=in_flight,
                    warm_up_seconds=WARM_UP_SECONDS,
                    seconds=stage.plan.seconds,
                    processes={},
                ),
            )
            for in_flight in IN_FLIGHT
            for name, pair in pairs.items()
        ]
        return Result(await interleaved(stage, cells), absent)


def _steps(plan: Plan) -> int:
    return (plan.rounds + 1) * len(IN_FLIGHT) * (3 + (_PEERS if plan.peers else 0))


SECTION = Section(
    name="request-reply",
    title="Request and reply",
    loads="in flight",
    columns=THROUGHPUT,
    about="A caller keeps so many requests in flight, each of which a callee answers.",
    steps=_steps,
    measure=_measure,
)
