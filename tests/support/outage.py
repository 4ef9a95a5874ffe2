"""A service whose handler fails as long as a file exists: `python -m tests.support.outage BOOTSTRAP NAME FLAG CALLS`.

Each call is a line in the file CALLS: the key, the number, the attempt, and `failed` or `done`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pydantic import BaseModel

from broker_mesh import Context, Operation, Retry
from broker_mesh.errors import Unavailable
from tests.support.fleet import append_to, make_mesh


class Work(BaseModel):
    key: str
    number: int = 0


class Result(BaseModel):
    key: str
    number: int
    attempt: int


Works = Operation[Work, Result]

KEYS = 5
"""How many distinct keys make an outage."""

QUICK = Retry(attempts=3, backoff=0.05, max_backoff=0.2)


def operation(service: str) -> Works:
    return Operation(f"{service}.v1.work", request=Work, reply=Result, key="key")


async def main() -> None:
    bootstrap_servers, service, flag, calls = sys.argv[1:]
    down, record = Path(flag), append_to(Path(calls))
    mesh = make_mesh(service, bootstrap_servers, outage_keys=KEYS)

    @mesh.operation(operation(service), retry=QUICK)
    async def handle(request: Work, context: Context) -> Result:
        failed = down.exists()
        record(f"{request.key} {request.number} {context.attempt} {'failed' if failed else 'done'}")
        if failed:
            raise Unavailable("what this needs is away")
        return Result(key=request.key, number=request.number, attempt=context.attempt)

    await mesh.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main())
