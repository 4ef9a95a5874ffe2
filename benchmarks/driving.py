"""The caller's side of contenders that have an event loop: takes orders from stdin, and keeps requests in flight."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable

from benchmarks.load import First, Hold, Load, Measurement, Order, Window, cpu_seconds, order_of

Ask = Callable[[int], Awaitable[object]]
"""Sends the request of a number and waits for its reply."""


async def take_orders(
    ask_of: Callable[[Order], Ask], hold: Callable[[Hold], Awaitable[str]] | None = None
) -> None:
    """Say that this process is ready, and do what it is told from stdin until that ends.

    Args:
        ask_of: gives what sends a request of an order.
        hold: does what a `Hold` says, and gives the line to answer it with; None where no section asks for it.
    """
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(await _done(order_of(line), ask_of, hold), flush=True)


async def _done(
    order: Order, ask_of: Callable[[Order], Ask], hold: Callable[[Hold], Awaitable[str]] | None
) -> str:
    match order:
        case Load():
            return (await drive(order, ask_of(order))).model_dump_json()
        case First():
            await ask_of(order)(0)
            return ""
        case Hold():
            assert hold is not None  # only contenders that can are asked
            return await hold(order)


async def drive(load: Load, ask: Ask) -> Measurement:
    """Keep requests in flight until the window has closed and all are answered."""
    window = Window(load, time.perf_counter, cpu_seconds)
    numbers = itertools.count()

    async def ask_on() -> None:
        while not window.closed:
            sent_at = time.perf_counter()
            await ask(next(numbers))
            window.answered(sent_at, time.perf_counter())

    async with asyncio.TaskGroup() as asking:
        for _ in range(load.in_flight):
            asking.create_task(ask_on())
    return window.measurement()
