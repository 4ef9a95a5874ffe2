"""A caller: `python -m tests.chaos.caller CONFIG`, see `workload.py`.

It owns its keys and sends the numbers of each in order, the next one when Kafka has the last; many keys at once, many
replies open. After a restart it goes on behind what its own history says, with fresh numbers: whether the number that
a kill has caught on its way is in Kafka is for the checker to find out.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path

from broker_mesh import Handle, Mesh, MeshError
from tests.chaos.history import Acknowledged, Answered, Journal, Refused, Sending, now, read
from tests.chaos.operations import Operations, Result, Work, operations
from tests.chaos.plans import draw
from tests.chaos.workload import CallerConfig, caller_config

# What a fault has kept back comes in a burst behind it, so much of the wanted rate at most.
_CATCH_UP_SECONDS = 20.0


class Caller:
    """Asks, and writes down what becomes of it.

    Args:
        mesh: connected.
        journal: of this process.
        names: the operations of the service under test.
        window: how many replies are waited for at once, at most.
    """

    def __init__(self, mesh: Mesh, journal: Journal, names: Operations, window: int = 200) -> None:
        self._mesh = mesh
        self._journal = journal
        self._names = names
        self._window = asyncio.Semaphore(window)
        self._waiting: dict[asyncio.Task[None], str] = {}

    async def ask(self, key: str, number: int, plan: str) -> None:
        """Send one request; return when Kafka has it, or when sending it has raised."""
        work = Work(id=f"{key}#{number}", key=key, number=number, plan=plan)
        operation = operation_of(key, self._names)
        await self._window.acquire()
        handed_on = False
        self._journal.write(Sending(now(), work.id, key, number, operation, plan))
        try:
            if operation == self._names.note.name:
                receipt = await self._mesh.send(self._names.note, work)
                self._journal.write(Acknowledged(now(), work.id, *receipt))
                return
            target = self._names.apply if operation == self._names.apply.name else self._names.tally
            handle = await self._mesh.call(target, work)
            self._journal.write(Acknowledged(now(), work.id, operation, -1, -1))
            task = asyncio.create_task(self._wait(work.id, handle))
            self._waiting[task] = work.id
            task.add_done_callback(self._done)
            handed_on = True
        except MeshError as error:
            self._journal.write(Refused(now(), work.id, str(error)))
        finally:
            if not handed_on:
                self._window.release()

    async def _wait(self, request: str, handle: Handle[Result]) -> None:
        try:
            result = await handle.reply()
            status = "OK" if result.id == request else f"reply of {result.id}"
        except MeshError as error:
            status = error.status.name
        self._journal.write(Answered(now(), request, status))

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._waiting[task]
        self._window.release()

    async def finish(self, patience: float) -> None:
        """Wait for the replies that are open, so many seconds at most; write down which did not come."""
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=patience)
        for task, request in list(self._waiting.items()):
            task.cancel()
            self._journal.write(Answered(now(), request, "PENDING"))
        await asyncio.gather(*self._waiting, return_exceptions=True)


def operation_of(key: str, names: Operations) -> str:
    """Tell the operation that a key belongs to: it ends with the operation's own word."""
    word = key.rpartition("-")[2]
    return {"apply": names.apply.name, "note": names.note.name, "tally": names.tally.name}[word]


def keys_of(process: str, count: int) -> list[str]:
    """Give a caller's keys: of four, two are for requests in order, one is one-way, one is in any order."""
    words = itertools.cycle(("apply", "note", "apply", "tally"))
    return [f"{process}-{number}-{next(words)}" for number in range(count)]


def next_numbers(directory: Path, process: str) -> tuple[dict[str, int], int]:
    """Tell by a caller's own history which number comes next for each of its keys, and how many it has sent."""
    following: dict[str, int] = {}
    sent = 0
    for incarnation in read(directory, process):
        for entry in incarnation.entries:
            if isinstance(entry, Sending):
                following[entry.key] = max(following.get(entry.key, 0), entry.number + 1)
                sent += 1
    return following, sent


async def drive(caller: Caller, config: CallerConfig, stop: asyncio.Event) -> None:
    """Send at the given rate until told to stop, or until the limit: the key that waited longest is next."""
    following, sent = next_numbers(Path(config.directory), config.process)
    free = deque(keys_of(config.process, config.keys))
    sending: set[asyncio.Task[None]] = set()
    failed: list[BaseException] = []
    wakes = asyncio.Event()

    async def send(key: str) -> None:
        number = following.get(key, 0)
        following[key] = number + 1
        await caller.ask(key, number, draw(config.mix, config.seed, key, number))
        free.append(key)

    def sent_one(task: asyncio.Task[None]) -> None:
        sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            failed.append(error)
            stop.set()
        wakes.set()

    async def wake_on_stop() -> None:
        await stop.wait()
        wakes.set()

    waker = asyncio.create_task(wake_on_stop())
    clock = asyncio.get_running_loop().time
    due = clock()
    while not stop.is_set() and (config.limit is None or sent < config.limit):
        wakes.clear()
        late = clock() - due
        if not free or late < 0:
            # Woken by each key that gets free, which is more often than needed and never too seldom.
            await _until(wakes, None if not free else -late)
            continue
        task = asyncio.create_task(send(free.popleft()))
        sending.add(task)
        task.add_done_callback(sent_one)
        sent += 1
        due += max(1 / config.rate, late - _CATCH_UP_SECONDS)
    if sending:
        await asyncio.wait(sending, timeout=config.patience_seconds)
    for task in sending:
        task.cancel()
    waker.cancel()
    await caller.finish(config.patience_seconds)
    if failed:
        raise failed[0]


async def _until(event: asyncio.Event, seconds: float | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def main() -> None:
    config = caller_config(sys.argv[1])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    mesh = Mesh(
        f"{config.service}-callers",
        bootstrap_servers=config.bootstrap_servers,
        schemas="no-such-folder",
        kafka=config.kafka,
        environ={},
        **{"access_log": False, **config.settings},
    )
    async with mesh:
        journal = Journal(Path(config.directory), config.process)
        caller = Caller(mesh, journal, operations(config.service), config.window)
        print("ready", flush=True)
        await drive(caller, config, stop)


if __name__ == "__main__":
    asyncio.run(main())
