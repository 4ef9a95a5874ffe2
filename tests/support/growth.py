"""Steps of many keys, each numbered from 0, for topics that grow: who sends and handles them, and what must hold.

As a process: `python -m tests.support.growth handle|send BOOTSTRAP SERVICE FILE`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.admin import AdminClient, NewPartitions
from pydantic import BaseModel

from broker_mesh import Context, Mesh, Operation
from tests.support.fleet import make_mesh

REFRESH_MS = 500
"""How often producers of these tests ask what partitions there are: they settle within twice that."""

BEFORE = 2
PACE_SECONDS = 0.25
WORK_SECONDS = 0.05


class Step(BaseModel):
    key: str
    number: int


def make_step(service: str, name: str = "step") -> Operation[Step, None]:
    return Operation(f"{service}.v1.{name}", request=Step, key="key")


def make_growing(service: str, bootstrap_servers: str, **settings: object) -> Mesh:
    """A mesh whose topics begin with two partitions, and which is quick to learn that there are more."""
    kafka = {"topic.metadata.refresh.interval.ms": REFRESH_MS}
    return make_mesh(service, bootstrap_servers, **{"partitions": BEFORE, "kafka": kafka, **settings})


class Handled(NamedTuple):
    """A step was handled, from one time to another, ns."""

    begun: int
    ended: int
    key: str
    number: int

    def line(self) -> str:
        return f"{self.begun} {self.ended} {self.key} {self.number}\n"


def now_ns() -> int:
    """The time that all processes of a machine share, ns."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def read_journal(file: Path) -> list[Handled]:
    """What was handled, by any process."""
    lines = file.read_text().splitlines() if file.exists() else []
    parts = (line.split() for line in lines)
    return [Handled(int(begun), int(ended), key, int(number)) for begun, ended, key, number in parts]


def unhandled(handled: Iterable[Handled], sent: Mapping[str, int]) -> list[tuple[str, int]]:
    """Which steps nobody has handled, given how many of each key were sent."""
    seen = {(each.key, each.number) for each in handled}
    return [
        (key, number) for key, count in sent.items() for number in range(count) if (key, number) not in seen
    ]


def check_order(handled: Iterable[Handled]) -> None:
    """No step was begun before the one before it had been handled, be it by another process."""
    begun: dict[str, dict[int, int]] = defaultdict(dict)
    ended: dict[str, dict[int, int]] = defaultdict(dict)
    for each in handled:
        begun[each.key][each.number] = min(each.begun, begun[each.key].get(each.number, each.begun))
        ended[each.key][each.number] = min(each.ended, ended[each.key].get(each.number, each.ended))
    for key in begun:
        for earlier, later in itertools.pairwise(sorted(begun[key])):
            assert begun[key][later] >= ended[key][earlier], (
                f"{key}: {later} was begun before {earlier} was handled"
            )


def grow_unmanaged(bootstrap_servers: str, topic: str, partitions: int) -> None:
    """Give a topic more partitions as kafka-topics --alter does."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.create_partitions([NewPartitions(topic, partitions)]).values():
        future.result(10)


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────────


async def handle(bootstrap_servers: str, service: str, journal: Path) -> None:
    """Handle steps slowly, a few at a time."""
    mesh = make_growing(service, bootstrap_servers, concurrency=4)

    @mesh.operation(make_step(service))
    async def step(request: Step, context: Context) -> None:
        begun = now_ns()
        await asyncio.sleep(WORK_SECONDS)
        with journal.open("a") as log:  # O_APPEND: whole lines, also from several processes
            log.write(Handled(begun, now_ns(), request.key, request.number).line())

    await mesh.run(on_ready=lambda: print("ready", flush=True))


async def send(bootstrap_servers: str, service: str, keys: str) -> None:
    """Send to each key one step after the other, until SIGTERM; then say how many."""
    sent: dict[str, int] = {}
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    operation = make_step(service)
    async with make_growing(f"caller-{os.getpid()}", bootstrap_servers) as mesh:

        async def send_to(key: str) -> None:
            while not stop.is_set():
                await mesh.send(operation, Step(key=key, number=sent.get(key, 0)))
                sent[key] = sent.get(key, 0) + 1
                await asyncio.sleep(PACE_SECONDS)

        print("ready", flush=True)
        async with asyncio.TaskGroup() as senders:
            for key in keys.split(","):
                senders.create_task(send_to(key))
    print(json.dumps(sent), flush=True)


async def main() -> None:
    role, bootstrap_servers, service, rest = sys.argv[1:]
    if role == "handle":
        await handle(bootstrap_servers, service, Path(rest))
    else:
        await send(bootstrap_servers, service, rest)


if __name__ == "__main__":
    asyncio.run(main())
