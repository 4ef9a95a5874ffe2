"""Payloads of several sizes, each way."""

from __future__ import annotations

from contextlib import AsyncExitStack

from benchmarks.contracts import RAW_VALUE
from benchmarks.lineup import MESH, RAW
from benchmarks.load import Load
from benchmarks.measuring import WARM_UP_SECONDS, Plan, Stage, interleaved, loaded
from benchmarks.section import THROUGHPUT, Result, Section

_CONTENDERS = (RAW, MESH)
# Of the largest, few at a time: 64 would be 32 MB in each of five places.
_PAYLOADS = ((200, 64), (10_000, 64), (500_000, 8))


async def _measure(stage: Stage) -> Result:
    async with AsyncExitStack() as running:
        pairs = [
            (each.name, await stage.pair(each, stage.scene("payloads"), running)) for each in _CONTENDERS
        ]
        cells = [
            loaded(
                f"{length:,} B, {in_flight} in flight",
                name,
                pair,
                Load(
                    in_flight=in_flight,
                    warm_up_seconds=WARM_UP_SECONDS,
                    seconds=stage.plan.seconds,
                    extra_bytes=length - len(RAW_VALUE),
                    processes={},
                ),
            )
            for length, in_flight in _PAYLOADS
            for name, pair in pairs
        ]
        return Result(await interleaved(stage, cells))


def _steps(plan: Plan) -> int:
    return (plan.rounds + 1) * len(_PAYLOADS) * len(_CONTENDERS)


SECTION = Section(
    name="payloads",
    title="Payloads",
    loads="request and reply",
    columns=THROUGHPUT,
    about="Requests and replies of so many bytes each.",
    steps=_steps,
    measure=_measure,
)
