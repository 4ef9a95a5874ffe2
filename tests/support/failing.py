"""A service that fails as long as a file exists: `python -m tests.support.failing BOOTSTRAP NAME FLAG DONE GIVE_UP`.

What it has done stands in the file DONE, a line for each request in the order in which they were finished. While it
fails, some requests are UNAVAILABLE, for which it is patient; of some keys they are RESOURCE_EXHAUSTED, which it gives
up after GIVE_UP seconds. CRASH_AT and CRASH_MARK are as for `tests.support.fleet`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from pydantic import BaseModel

from broker_mesh import Context, Operation, Retry, StatusCode
from broker_mesh.errors import ResourceExhausted, Unavailable
from tests.support.fleet import append_to, install_crash, make_mesh


class Work(BaseModel):
    key: str
    number: int


class Result(BaseModel):
    number: int


Works = Operation[Work, Result]


def operations(service: str) -> tuple[Works, Works]:
    """What is handled in order of keys, and what in any order."""
    return (
        Operation(f"{service}.v1.in-order", request=Work, reply=Result, key="key"),
        Operation(f"{service}.v1.in-any-order", request=Work, reply=Result, key="key"),
    )


def is_given_up(key: str) -> bool:
    """Whether requests of a key end as dead letters when the failure lasts."""
    return key.endswith("0")


async def main() -> None:
    bootstrap_servers, service, flag, done, give_up = sys.argv[1:]
    if step := os.environ.get("CRASH_AT"):
        install_crash(step, Path(os.environ["CRASH_MARK"]))
    failing, record = Path(flag), append_to(Path(done))
    mesh = make_mesh(service, bootstrap_servers)
    in_order, in_any_order = operations(service)
    retry = Retry(
        attempts=10**6,
        backoff=0.2,
        max_backoff=1.0,
        per={StatusCode.RESOURCE_EXHAUSTED: Retry(attempts=10**6, max_backoff=0.5, elapsed=float(give_up))},
    )

    async def handle(request: Work, context: Context) -> Result:
        if failing.exists():
            if is_given_up(request.key):
                raise ResourceExhausted("the disk is full")
            raise Unavailable("what this needs is away")
        record(f"{context.operation} {request.key} {request.number}")
        return Result(number=request.number)

    mesh.operation(in_order, retry=retry)(handle)
    mesh.operation(in_any_order, ordering="none", retry=retry)(handle)
    await mesh.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main())
