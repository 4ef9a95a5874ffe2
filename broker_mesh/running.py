"""Running a service until it is told to stop: signals, and what else ends it.

On the way of a message: before the first and after the last. `Mesh.run` and `mesh run` are made of this.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker_mesh.service import Service


async def run_until(stop: asyncio.Event, service: Service, on_ready: Callable[[], None]) -> None:
    """Wait until a service is to stop.

    Args:
        stop: says so.
        service: has been started.
        on_ready: called when it has joined its group, with or without partitions; not where it is to stop before.

    Raises:
        MeshError: the service can't go on.
    """
    if await first_of(service.joined(), service.failure(), stop.wait()) == 0:
        on_ready()
        await first_of(service.failure(), stop.wait())


async def first_of(*waits: Coroutine[Any, Any, Any]) -> int:
    """Wait for the first of several to end, cancel the others, and tell which it was; what it raised is raised."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()
    return min(tasks.index(task) for task in done)


@asynccontextmanager
async def stopping_on_signals() -> AsyncIterator[asyncio.Event]:
    """Give an event that SIGTERM and SIGINT set; where a loop can't take signals, its owner stops it by cancelling."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    taken = []
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
            taken.append(number)
        except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or Windows
            continue
    try:
        yield stop
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
