"""Turns: places are given while waiting, taken back after, and never counted twice."""

from __future__ import annotations

import asyncio

import pytest

from broker_mesh import turn
from broker_mesh.turn import HandedBack, Turn


async def test_a_place_is_free_for_others_while_its_handler_waits() -> None:
    places = asyncio.Semaphore(1)
    order = []

    async def first() -> None:
        async with Turn(places):
            async with turn.waiting():
                order.append("first waits")
                await second_done.wait()
            order.append("first goes on")

    async def second() -> None:
        async with Turn(places):
            order.append("second runs")
        second_done.set()

    second_done = asyncio.Event()
    await asyncio.wait_for(asyncio.gather(first(), second()), 10)
    assert order == ["first waits", "second runs", "first goes on"]
    assert not places.locked()


async def test_several_waits_of_one_handler_give_its_place_once() -> None:
    places = asyncio.Semaphore(1)
    async with Turn(places) as own:
        async with own.waiting(), own.waiting():
            assert not places.locked()
            await places.acquire()  # somebody else
            assert places.locked()
            places.release()
        assert places.locked()
    assert not places.locked()


@pytest.mark.parametrize("waits", [1, 3])
async def test_a_cancelled_wait_costs_no_place(waits: int) -> None:
    places = asyncio.Semaphore(2)

    async def handler() -> None:
        async with Turn(places), asyncio.TaskGroup() as group:
            for _ in range(waits):
                group.create_task(wait_for_ever())

    async def wait_for_ever() -> None:
        async with turn.waiting():
            await asyncio.Event().wait()

    running = asyncio.create_task(handler())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for _ in range(2):
        await asyncio.wait_for(places.acquire(), 10)
    assert places.locked()


async def test_outside_of_handlers_waiting_is_just_waiting() -> None:
    async with turn.waiting():
        assert turn.current() is None


async def test_nothing_begins_once_its_partition_is_being_given_up() -> None:
    leaving = asyncio.Event()
    async with Turn(asyncio.Semaphore(1), leaving) as turn:
        turn.begin()
        leaving.set()
        with pytest.raises(HandedBack):
            turn.begin()
    assert not issubclass(HandedBack, Exception)  # no layer may take it for a failure of the message


async def test_two_waits_that_end_while_the_last_place_is_taken_take_it_back_once() -> None:
    """The second one would queue for a place that its own handler holds, for ever."""
    places = asyncio.Semaphore(1)

    async def wait_a_moment() -> None:
        async with turn.waiting():
            await asyncio.sleep(0)

    async def overlapping() -> None:
        async with Turn(places):
            ended = asyncio.Event()

            async def first() -> None:
                async with turn.waiting():
                    await places.acquire()  # somebody else
                ended.set()

            async with asyncio.TaskGroup() as group:
                group.create_task(first())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                group.create_task(wait_a_moment())
                for _ in range(5):
                    await asyncio.sleep(0)
                assert not ended.is_set()
                places.release()

    await asyncio.wait_for(overlapping(), 10)
    assert not places.locked()
