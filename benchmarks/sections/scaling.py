"""Scaling: what a request costs with more instances of a service, and with more partitions of its topics."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from benchmarks.lineup import MESH, RAW
from benchmarks.load import Load
from benchmarks.measuring import WARM_UP_SECONDS, Plan, Stage, interleaved, loaded
from benchmarks.scene import PARTITIONS as USUAL_PARTITIONS
from benchmarks.section import THROUGHPUT, Column, Result, Section

_CONTENDERS = (RAW, MESH)
_IN_FLIGHT = 1000


class Size(NamedTuple):
    """How large a service is, and what its scene is called."""

    scene: str
    instances: int = 1
    partitions: int = USUAL_PARTITIONS


ONE_PARTITION, MANY_PARTITIONS = "1 partition", "32 partitions"

_BY_INSTANCES: Mapping[str, Size] = {
    "1 instance": Size("instances-1"),
    "2 instances": Size("instances-2", instances=2),
    "4 instances": Size("instances-4", instances=4),
}
_BY_PARTITIONS: Mapping[str, Size] = {
    ONE_PARTITION: Size("partitions-1", partitions=1),
    "6 partitions": Size("partitions-6", partitions=6),
    MANY_PARTITIONS: Size("partitions-32", partitions=32),
}


async def _measure(sizes: Mapping[str, Size], stage: Stage) -> Result:
    order = Load(
        in_flight=_IN_FLIGHT, warm_up_seconds=WARM_UP_SECONDS, seconds=stage.plan.seconds, processes={}
    )
    cells = []
    async with AsyncExitStack() as running:
        for load, size in sizes.items():
            for contender in _CONTENDERS:
                scene = stage.scene(size.scene, size.partitions)
                pair = await stage.pair(contender, scene, running, size.instances)
                cells.append(loaded(load, contender.name, pair, order))
        return Result(await interleaved(stage, cells))


def _steps(sizes: Mapping[str, Size], plan: Plan) -> int:
    return (plan.rounds + 1) * len(sizes) * len(_CONTENDERS)


_COLUMNS = (*THROUGHPUT, Column("cost_us", "all µs", compared=True))

INSTANCES = Section(
    name="instances",
    title="Instances of a service",
    loads="callee",
    columns=_COLUMNS,
    about=f"{_IN_FLIGHT:,} requests in flight to a service of so many processes; one caller, one broker.",
    steps=partial(_steps, _BY_INSTANCES),
    measure=partial(_measure, _BY_INSTANCES),
)

PARTITIONS = Section(
    name="partitions",
    title="Partitions of a topic",
    loads="topics of",
    columns=_COLUMNS,
    about=f"{_IN_FLIGHT:,} requests in flight over topics of so many partitions.",
    steps=partial(_steps, _BY_PARTITIONS),
    measure=partial(_measure, _BY_PARTITIONS),
)
