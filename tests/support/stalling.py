"""A service that can be stopped in its work: `python -m tests.support.stalling BOOTSTRAP NAME GO EFFECTS [KAFKA]`.

Its handlers wait for the file GO, and then end as the request asks: with a reply, with a retry, with a dead letter; or
at once, with a retry that is due a while later. An instance that finds GO at its
start is in order: whatever is asked of it, it answers. Each attempt is a line in EFFECTS. KAFKA is a JSON object of
properties for the [kafka] table.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from pydantic import BaseModel

from broker_mesh import Context, Operation, Retry
from broker_mesh.errors import InternalError, Unavailable
from tests.support.fleet import append_to, make_mesh

ENDS = ("reply", "retry", "dead letter", "later")
"""How an attempt may end; after "later" there is another one, in a few seconds."""

_LATER_SECONDS = 3.0

CLASSIC = {"group.protocol": "classic", "session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
"""KAFKA for a member of a group of the classic protocol."""


class Work(BaseModel):
    key: str
    end: str


class Result(BaseModel):
    pid: int


Works = Operation[Work, Result]


def operations(service: str) -> tuple[Works, Works]:
    """What is handled in order of keys, and what in any order."""
    return (
        Operation(f"{service}.v1.in-order", request=Work, reply=Result, key="key"),
        Operation(f"{service}.v1.in-any-order", request=Work, reply=Result, key="key"),
    )


async def main() -> None:
    bootstrap_servers, service, go_file, effects = sys.argv[1:5]
    go, record = Path(go_file), append_to(Path(effects))
    in_order_from_the_start = go.exists()
    mesh = make_mesh(
        service, bootstrap_servers, kafka=json.loads(sys.argv[5]) if sys.argv[5:] else {}, grace_seconds=1
    )
    in_order, in_any_order = operations(service)

    async def handle(request: Work, context: Context) -> Result:
        record(f"{os.getpid()} {request.key} {context.attempt}")
        if in_order_from_the_start:
            return Result(pid=os.getpid())
        if request.end == "later" and context.attempt == 1:
            raise Unavailable("come back", retry_after=_LATER_SECONDS)
        while not go.exists():
            await asyncio.sleep(0.01)
        match request.end:
            case "retry":
                raise Unavailable("not now")
            case "dead letter":
                raise InternalError("never")
            case _:
                return Result(pid=os.getpid())

    retry = Retry(attempts=3, backoff=0.01)
    mesh.operation(in_order, retry=retry)(handle)
    mesh.operation(in_any_order, ordering="none", retry=retry)(handle)
    await mesh.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main())
