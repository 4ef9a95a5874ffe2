"""Processes under access rules: `python -m tests.support.guarded callee|caller BOOTSTRAP SERVICE OPERATION NOTES`.

Each writes to the file NOTES when it notices that the rules have changed for it: "allowed <epoch seconds>" or "denied
<epoch seconds>". A callee notices by what it refuses or handles, a caller by what it may not send or gets answered.
A caller asks all the time until SIGTERM, then notes "done <answered> <refused by the callee> <not sent>".
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from broker_mesh import Context, Operation
from broker_mesh.errors import PermissionDenied
from tests.support.fleet import append_to, make_mesh

PACE_SECONDS = 0.05


class Ask(BaseModel):
    key: str


def operation_of(name: str) -> Operation[Ask, Ask]:
    return Operation(name, request=Ask, reply=Ask, key="key")


class Notes:
    """Writes down when what is noticed changes."""

    def __init__(self, file: Path) -> None:
        self._append = append_to(file)
        self._state = ""
        self.changed_at = 0.0

    def notice(self, state: str) -> None:
        if state != self._state:
            self._state, self.changed_at = state, time.time()
            self._append(f"{state} {self.changed_at}")

    def finish(self, line: str) -> None:
        self._append(line)


class Refusals(logging.Handler):
    def __init__(self, notes: Notes) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.notice("denied")


async def callee(bootstrap_servers: str, service: str, operation: str, notes: Notes) -> None:
    logging.getLogger("broker_mesh.layers.authorize").addHandler(Refusals(notes))
    mesh = make_mesh(service, bootstrap_servers)

    @mesh.operation(operation_of(operation))
    async def handle(request: Ask, context: Context) -> Ask:
        notes.notice("allowed")
        return request

    await mesh.run(on_ready=lambda: print("ready", flush=True))


async def caller(bootstrap_servers: str, service: str, operation: str, notes: Notes) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    target = operation_of(operation)
    counts = {"answered": 0, "refused": 0, "unsent": 0}

    async with make_mesh(service, bootstrap_servers) as mesh:

        async def ask(key: str) -> None:
            while not stop.is_set():
                began = time.time()
                try:
                    await mesh.request(target, Ask(key=key), timeout=90)
                except PermissionDenied as error:
                    if error.handle is None:  # refused here, before it was sent
                        counts["unsent"] += 1
                        notes.notice("denied")
                    else:
                        counts["refused"] += 1
                else:
                    counts["answered"] += 1
                    if (
                        began > notes.changed_at
                    ):  # an answer to what was sent before a denial says nothing new
                        notes.notice("allowed")
                await asyncio.sleep(PACE_SECONDS)

        async with asyncio.TaskGroup() as asking:
            for number in range(2):
                asking.create_task(ask(f"{mesh.service}-{number}"))
    notes.finish(f"done {counts['answered']} {counts['refused']} {counts['unsent']}")


if __name__ == "__main__":
    role = {"callee": callee, "caller": caller}[sys.argv[1]]
    asyncio.run(role(*sys.argv[2:5], Notes(Path(sys.argv[5]))))
