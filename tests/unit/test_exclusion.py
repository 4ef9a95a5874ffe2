"""Exclusion: one goes on, the others wait, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from broker_mesh.exclusion import Exclusion
from broker_mesh.turn import Turn


async def test_one_takes_a_key_and_the_others_go_on_once_it_is_released() -> None:
    exclusion = Exclusion()
    order: list[str] = []

    async def work(name: str) -> None:
        while not exclusion.take("key", name):
            await exclusion.over("key")
        order.append(f"{name} begins")
        await asyncio.sleep(0)
        order.append(f"{name} ends")
        exclusion.release("key", name)

    await asyncio.gather(*(work(name) for name in "abc"))
    assert order == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]
    assert len(exclusion) == 0


async def test_keys_do_not_wait_for_each_other() -> None:
    exclusion = Exclusion()
    assert exclusion.take("one", "a")
    assert await asyncio.create_task(taken_by(exclusion, "two", "b"))


async def taken_by(exclusion: Exclusion, key: str, owner: str) -> bool:
    return exclusion.take(key, owner)


async def test_an_owner_takes_its_key_again_and_keeps_it_over_attempts() -> None:
    exclusion = Exclusion()
    assert exclusion.take("key", "a")
    assert exclusion.take("key", "a")
    assert exclusion.holds("key", "a")
    assert not exclusion.holds("key", "b")
    assert not await asyncio.create_task(taken_by(exclusion, "key", "b"))


@pytest.mark.parametrize("end", ["fails", "is cancelled", "returns"])
async def test_a_claim_ends_with_its_task_however_that_ends(end: str) -> None:
    exclusion = Exclusion()
    begun, ends = asyncio.Event(), asyncio.Event()

    async def owner() -> None:
        exclusion.take("key", "a")
        begun.set()
        await ends.wait()
        if end == "fails":
            raise RuntimeError("fenced")

    task = asyncio.create_task(owner())
    await begun.wait()
    waiting = asyncio.create_task(exclusion.over("key"))
    await asyncio.sleep(0)
    assert not exclusion.take("key", "b")
    if end == "is cancelled":
        task.cancel()
    ends.set()
    await asyncio.wait_for(waiting, 10)
    assert exclusion.take("key", "b")
    await asyncio.gather(task, return_exceptions=True)


async def test_a_task_that_has_gone_on_to_another_message_waits_for_nothing_of_its_own() -> None:
    exclusion = Exclusion()
    assert exclusion.take("key", "first")
    assert exclusion.take("key", "second")
    assert not exclusion.holds("key", "first")


async def test_what_is_left_of_an_earlier_handling_keeps_its_hands_off_the_later_one_s_claim() -> None:
    exclusion = Exclusion()
    assert exclusion.take("key", "a")
    assert await asyncio.create_task(taken_by(exclusion, "key", "a"))
    later = asyncio.Event()

    async def comes_again() -> None:
        assert exclusion.take("key", "a")
        await later.wait()

    again = asyncio.create_task(comes_again())
    await asyncio.sleep(0)
    assert not exclusion.holds("key", "a")
    exclusion.release("key", "a")
    assert not exclusion.take("key", "b")
    later.set()
    await again


async def test_a_key_goes_once_all_has_ended_that_still_runs() -> None:
    exclusion, loop = Exclusion(), asyncio.get_running_loop()
    running: list[asyncio.Future[None]] = [loop.create_future(), loop.create_future()]
    exclusion.take("key", "a")
    exclusion.release("key", "a", after=running)
    waiting = asyncio.create_task(exclusion.over("key"))
    for future in running:
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert exclusion.holds("key", "a")
        future.set_result(None)
    await asyncio.wait_for(waiting, 10)
    assert len(exclusion) == 0


async def test_a_wait_that_is_given_up_leaves_the_claim_to_others() -> None:
    exclusion = Exclusion()
    assert exclusion.take("key", "a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(exclusion.over("key"), 0.01)
    other = asyncio.create_task(exclusion.over("key"))
    await asyncio.sleep(0)
    exclusion.release("key", "a")
    await asyncio.wait_for(other, 10)


async def test_who_waits_gives_its_place_to_others() -> None:
    exclusion, places = Exclusion(), asyncio.Semaphore(1)
    exclusion.take("key", "a")

    async def wait() -> None:
        async with Turn(places):
            await exclusion.over("key")

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    async with asyncio.timeout(10), Turn(places):
        exclusion.release("key", "a")
    await waiting
