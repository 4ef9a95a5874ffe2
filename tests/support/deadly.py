"""A service that does what each request says, also to its own process: `python -m tests.support.deadly BOOTSTRAP NAME
EFFECTS RELEASE`.

Each beginning is a line of the file EFFECTS: the key, the id and the attempt. What hangs does so until the file RELEASE
exists.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from pathlib import Path

from pydantic import BaseModel

from broker_mesh import Context, Operation, Retry
from broker_mesh.errors import Unavailable
from tests.support.fleet import append_to, make_mesh


class Deed(BaseModel):
    key: str
    what: str = ""


class Result(BaseModel):
    key: str
    process: int


Deeds = Operation[Deed, Result]

ATTEMPTS = 2
DEADLY = ("segfault", "exit", "kill")


def operations(service: str) -> tuple[Deeds, Deeds]:
    """What is given up after a few attempts, and what is tried for a long time."""
    return (
        Operation(f"{service}.v1.do", request=Deed, reply=Result, key="key"),
        Operation(f"{service}.v1.insist", request=Deed, reply=Result, key="key"),
    )


async def main() -> None:
    bootstrap_servers, service, effects, release = sys.argv[1:]
    record, released = append_to(Path(effects)), Path(release)
    mesh = make_mesh(service, bootstrap_servers, partitions=2)
    do, insist = operations(service)

    async def handle(request: Deed, context: Context) -> Result:
        record(f"{request.key} {context.id} {context.attempt}")
        match request.what:
            case "segfault":
                ctypes.string_at(0)
            case "exit":
                os._exit(1)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                while not released.exists():
                    await asyncio.sleep(0.05)
            case "fail":
                if not released.exists():
                    raise Unavailable("what this needs is away")
        return Result(key=request.key, process=os.getpid())

    mesh.operation(do, retry=Retry(attempts=ATTEMPTS, backoff=0.01, max_backoff=0.01))(handle)
    mesh.operation(insist, retry=Retry(attempts=10**6, backoff=0.1, max_backoff=0.1))(handle)
    await mesh.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main())
