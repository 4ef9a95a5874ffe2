"""One way: messages that are sent and acknowledged by Kafka, and that nobody reads."""

from __future__ import annotations

from contextlib import AsyncExitStack

from benchmarks.lineup import MESH, MESH_TRACED, RAW
from benchmarks.load import Load
from benchmarks.measuring import WARM_UP_SECONDS, Plan, Stage, interleaved, loaded
from benchmarks.section import Column, Result, Section
from benchmarks.sections.request_reply import IN_FLIGHT, load_of

_CONTENDERS = (RAW, MESH, MESH_TRACED)


async def _measure(stage: Stage) -> Result:
    async with AsyncExitStack() as running:
        pairs = [(each.name, await stage.pair(each, stage.scene("one-way"), running)) for each in _CONTENDERS]
        cells = [
            loaded(
                load_of(in_flight),
                name,
                pair,
                Load(
                    way="message",
                    in_flight=in_flight,
                    warm_up_seconds=WARM_UP_SECONDS,
                    seconds=stage.plan.seconds,
                    processes={},
                ),
            )
            for in_flight in IN_FLIGHT
            for name, pair in pairs
        ]
        return Result(await interleaved(stage, cells))


def _steps(plan: Plan) -> int:
    return (plan.rounds + 1) * len(IN_FLIGHT) * len(_CONTENDERS)


SECTION = Section(
    name="one-way",
    title="One way",
    loads="in flight",
    columns=(
        Column("requests_per_second", "messages/s", compared=True),
        Column("p50_ms", "p50 ms", 2, compared=True),
        Column("p99_ms", "p99 ms", 2),
        Column("caller_us", "sender µs"),
        Column("broker_us", "broker µs"),
    ),
    about="A sender waits for Kafka's acknowledgement of so many messages at a time; nobody reads them.",
    steps=_steps,
    measure=_measure,
)
