"""A small service with real declarations, for tests that need one: in process, or as `python -m tests.support.fleet`.

As a process it can be told to kill itself with SIGKILL at one step of its work, once: CRASH_AT names the step,
CRASH_MARK a file that says it has happened.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from broker_mesh import Context, Event, Mesh, Operation
from broker_mesh.errors import NotFound


class FindAircraft(BaseModel):
    tailnum: str


class Aircraft(BaseModel):
    tailnum: str
    seats: int
    handled_by: int = 0


class Retire(BaseModel):
    tailnum: str
    reason: str | None = None


class Retired(BaseModel):
    tailnum: str


FIND_AIRCRAFT = Operation("fleet.v1.find-aircraft", request=FindAircraft, reply=Aircraft, key="tailnum")
RETIRE = Operation("fleet.v1.retire", request=Retire, key="tailnum")
RETIRED = Event("fleet.v1.events.aircraft-retired", Retired, key="tailnum")


def make_mesh(
    service: str, bootstrap_servers: str, environ: Mapping[str, str] = MappingProxyType({}), **settings: Any
) -> Mesh:
    """A mesh that sees neither this machine's environment nor the demo's schema files."""
    settings.setdefault("schemas", "no-such-folder")
    # Tests have handlers fail as they like: only where a test is about it that is an outage.
    settings.setdefault("outage_keys", 0)
    return Mesh(service, bootstrap_servers=bootstrap_servers, environ=environ, **settings)


def make_fleet(
    bootstrap_servers: str, record: Callable[[str], None] = lambda _: None, **settings: Any
) -> Mesh:
    fleet = make_mesh("fleet", bootstrap_servers, **settings)

    @fleet.operation(FIND_AIRCRAFT)
    async def find_aircraft(request: FindAircraft, context: Context) -> Aircraft:
        record(f"find {request.tailnum} {context.id} {context.attempt}")
        if request.tailnum.startswith("X"):
            raise NotFound(f"no aircraft is registered as {request.tailnum}")
        return Aircraft(tailnum=request.tailnum, seats=len(request.tailnum), handled_by=os.getpid())

    @fleet.operation(RETIRE)
    def retire(request: Retire, context: Context) -> None:
        record(f"retire {request.tailnum} {context.id} {context.attempt}")
        context.sync().publish(RETIRED, Retired(tailnum=request.tailnum))

    return fleet


def append_to(file: Path) -> Callable[[str], None]:
    def record(line: str) -> None:
        with file.open("a") as log:  # O_APPEND: whole lines, also from several processes
            log.write(line + "\n")

    return record


# ── crashing ──────────────────────────────────────────────────────────────────────────────────────────────


CALLER_STEPS = ("sent, not acknowledged", "reply arrived, not handed on")

_spared = itertools.count()
_spare = 0
_armed = True


def _die_once(mark: Path) -> None:
    if not _armed or next(_spared) < _spare:
        return
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


# Longer than a service waits between two commits: what it has wrongly called done by then is committed.
_LINGER_SECONDS = 0.6


def _once_done(install: Callable[[], None]) -> None:
    """Install a crash that waits until a record is done: what is committed before that says only that work begins."""
    global _armed
    _armed = False
    from broker_mesh.kafka.offsets import OffsetTracker

    original = OffsetTracker.done

    @functools.wraps(original)
    def patched(self: Any, offset: int) -> bool:
        global _armed
        _armed = True
        return original(self, offset)

    setattr(OffsetTracker, "done", patched)  # noqa: B010 - a method of the class itself
    install()


def _before(owner: type, name: str, mark: Path) -> None:
    original = getattr(owner, name)
    if asyncio.iscoroutinefunction(original):

        @functools.wraps(original)
        async def patched_async(*args: Any, **kwargs: Any) -> Any:
            if not mark.exists():
                await asyncio.sleep(_LINGER_SECONDS)
            _die_once(mark)
            return await original(*args, **kwargs)

        setattr(owner, name, patched_async)
        return

    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        _die_once(mark)
        return original(*args, **kwargs)

    setattr(owner, name, patched)


def _after(owner: type, name: str, mark: Path) -> None:
    original = getattr(owner, name)
    if asyncio.iscoroutinefunction(original):

        @functools.wraps(original)
        async def patched_async(*args: Any, **kwargs: Any) -> Any:
            result = await original(*args, **kwargs)
            _die_once(mark)
            return result

        setattr(owner, name, patched_async)
        return

    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if result is not False:
            _die_once(mark)
        return result

    setattr(owner, name, patched)


def install_crash(step: str, mark: Path, spare: int = 0) -> None:
    """Have this process kill itself at a step of delivery, after it has passed there `spare` times."""
    global _spare
    _spare = spare
    from broker_mesh.handlers import Handler
    from broker_mesh.idempotency import Results
    from broker_mesh.kafka.commits import Commits
    from broker_mesh.kafka.consumer import GroupConsumer
    from broker_mesh.kafka.offsets import OffsetTracker
    from broker_mesh.kafka.producer import Producer
    from broker_mesh.replies import Replies
    from broker_mesh.service import Service
    from broker_mesh.settle import Settler

    steps: dict[str, Callable[[], None]] = {
        # callee
        "received": lambda: _before(Service, "received", mark),
        "taken, not handled": lambda: _before(Handler, "run", mark),
        "handled, not settled": lambda: _before(Settler, "carry_out", mark),
        "handled, result not kept": lambda: _before(Results, "_keep", mark),
        "result kept, not answered": lambda: _after(Results, "_keep", mark),
        "settled, not done": lambda: _after(Settler, "carry_out", mark),
        "done, not committed": lambda: _after(OffsetTracker, "done", mark),
        "commit handed over, not sent": lambda: _once_done(lambda: _after(GroupConsumer, "commit", mark)),
        "commit sent, not acknowledged": lambda: _once_done(
            lambda: _after(Commits, "_send_without_waiting", mark)
        ),
        "commit acknowledged": lambda: _once_done(lambda: _after(Commits, "answered", mark)),
        # caller
        "sent, not acknowledged": lambda: _before(Producer, "_resolve_acknowledged", mark),
        "reply arrived, not handed on": lambda: _before(Replies, "_received", mark),
    }
    steps[step]()


async def main() -> None:
    bootstrap_servers, effects = sys.argv[1], Path(sys.argv[2])
    step = os.environ.get("CRASH_AT")
    if step:
        install_crash(step, Path(os.environ["CRASH_MARK"]))
    telemetry = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
    fleet = make_fleet(bootstrap_servers, append_to(effects), environ=telemetry)
    await fleet.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main())
