"""A service whose keys fail as long as a file exists.

As a process: `python -m tests.support.parking BOOTSTRAP NAME FLAG DONE ORDERING`.

What it has done stands in the file DONE, a line for each request in the order in which they were finished. Keys that
begin with "f" fail while FLAG exists, and are parked soon. CRASH_AT, CRASH_MARK and CRASH_AFTER are as for
`tests.support.fleet`, with further steps around what is written to a retry topic.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel

from broker_mesh import Context, Mesh, Operation, Retry
from broker_mesh.errors import Unavailable
from tests.support import fleet
from tests.support.fleet import append_to, make_mesh

SOON_MS = 300
"""From how far off on a next attempt is parked in these tests, ms."""

PATIENT = Retry(attempts=10**6, backoff=0.05, max_backoff=0.05)


class Work(BaseModel):
    key: str
    number: int


class Result(BaseModel):
    number: int
    attempt: int


def operation(service: str) -> Operation[Work, Result]:
    return Operation(f"{service}.v1.work", request=Work, reply=Result, key="key")


def make_service(
    service: str,
    bootstrap_servers: str,
    flag: Path,
    done: Path,
    ordering: Literal["key", "none"] = "key",
    pause: float = 0.6,
    **settings: Any,
) -> Mesh:
    record = append_to(done)
    mesh = make_mesh(service, bootstrap_servers, **settings)

    async def handle(request: Work, context: Context) -> Result:
        if request.key.startswith("f") and flag.exists():
            raise Unavailable("what this needs is away", retry_after=pause)
        record(f"{request.key} {request.number}")
        return Result(number=request.number, attempt=context.attempt)

    mesh.operation(operation(service), ordering=ordering, retry=PATIENT)(handle)
    return mesh


def handled(done: Path) -> dict[str, list[int]]:
    """The numbers of each key, in the order in which they were handled first."""
    found: dict[str, list[int]] = defaultdict(list)
    for line in done.read_text().splitlines() if done.exists() else ():
        key, number = line.split()
        if int(number) not in found[key]:
            found[key].append(int(number))
    return found


def _install(step: str, mark: Path, spare: int) -> None:
    from broker_mesh.settle import Settler

    fleet._spare = spare
    match step:
        case "retry not written":
            fleet._before(Settler, "_write_retry", mark)
        case "retry written, not known":
            fleet._after(Settler, "_write_retry", mark)
        case _:
            fleet.install_crash(step, mark, spare)


async def main() -> None:
    bootstrap_servers, service, flag, done, ordering = sys.argv[1:]
    import broker_mesh.sidings

    broker_mesh.sidings.FAR_MS = SOON_MS
    if step := os.environ.get("CRASH_AT"):
        _install(step, Path(os.environ["CRASH_MARK"]), int(os.environ.get("CRASH_AFTER", "0")))
    mesh = make_service(
        service,
        bootstrap_servers,
        Path(flag),
        Path(done),
        cast(Literal["key", "none"], ordering),
        pause=0.6 if ordering == "key" else 6.0,  # without an order, what fails again is written again
        partitions=2,
        outage_keys=0,
    )
    await mesh.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main())
