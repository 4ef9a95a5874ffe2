"""A service with a backlog: requests written as fast as a plain producer can, each as the mesh itself writes them.

`tests.support.backlog:desk` is what `mesh run` serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Message, Producer
from pydantic import BaseModel

from broker_mesh import Context, Mesh, Operation, headers
from broker_mesh.message import new_id

_FLUSH_SECONDS = 60.0


class Work(BaseModel):
    key: str


class Worked(BaseModel):
    key: str


WORK = Operation("backlog.v1.work", request=Work, reply=Worked, key="key")


def declare(mesh: Mesh) -> Mesh:
    """Have a mesh of the service handle the requests."""

    @mesh.operation(WORK)
    async def work(request: Work, context: Context) -> Worked:
        return Worked(key=request.key)

    return mesh


desk = declare(Mesh("backlog"))


def write_copies(bootstrap_servers: str, originals: Sequence[Message], count: int) -> None:
    """Write requests in turn once more, each with ids of its own, until there are so many more."""
    refused: list[Any] = []

    def reported(error: Any, _: Message) -> None:
        if error is not None:
            refused.append(error)

    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 50,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 200_000,
            "on_delivery": reported,
        }
    )
    own_ids = {headers.CE_ID, headers.CORRELATION_ID}
    kept: list[list[Any]] = [
        [item for item in original.headers() or [] if item[0] not in own_ids] for original in originals
    ]
    for number in range(count):
        original = originals[number % len(originals)]
        identity = new_id().encode()
        named = [(name, identity) for name in own_ids]
        while True:
            try:
                producer.produce(
                    original.topic() or "",
                    original.value(),
                    original.key(),
                    partition=original.partition() or 0,
                    headers=[*named, *kept[number % len(originals)]],
                )
            except BufferError:
                producer.poll(0.1)
            else:
                break
        producer.poll(0)
    assert producer.flush(_FLUSH_SECONDS) == 0
    assert not refused, refused[0]


def peak_memory(pid: int) -> int:
    """How many bytes of memory a process has had at most at any one time (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.removesuffix("kB")) * 1024
    raise AssertionError("the kernel tells no peak")
