"""One place for several parties: whose turn it is, and who need not wait for one."""

from __future__ import annotations

import asyncio

import pytest

from broker_mesh.rotation import Rotation


class Street:
    """A rotation, and what came to pass in it."""

    def __init__(self) -> None:
        self.needing = {"one", "other", "third"}
        self.rotation: Rotation[str] = Rotation(self.needing.__contains__)
        self.order: list[tuple[str, bool]] = []

    async def run(self, party: str) -> None:
        taken = await self.rotation.acquire(party)
        self.order.append((party, taken))
        await asyncio.sleep(0)
        if taken:
            self.rotation.release()


async def settle_down() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_parties_take_turns_however_many_stand_in_line_for_one() -> None:
    street = Street()
    async with asyncio.TaskGroup() as running:
        for party in ["one"] * 6 + ["other"] * 2 + ["third"]:
            running.create_task(street.run(party))
    assert [party for party, _ in street.order] == [
        *("one", "one", "other", "third"),
        *("one", "other", "one", "one", "one"),
    ]
    assert all(taken for _, taken in street.order)
    assert not street.rotation.locked()


async def test_who_ceases_to_need_the_place_goes_on_without_it() -> None:
    street = Street()
    assert await street.rotation.acquire("one")
    async with asyncio.TaskGroup() as running:
        for party in ["other"] * 3 + ["third"]:
            running.create_task(street.run(party))
        await settle_down()
        street.needing.remove("other")
        street.rotation.release()
    assert sorted(street.order) == [("other", False)] * 3 + [("third", True)]
    assert not await street.rotation.acquire("other")
    assert not street.rotation.locked()


async def test_who_ceases_to_need_the_place_waits_for_no_turn_of_others() -> None:
    street = Street()
    assert await street.rotation.acquire("one")
    asks = [asyncio.create_task(street.rotation.acquire(party)) for party in ("one", "other", "third")]
    await settle_down()
    street.needing.remove("third")
    street.rotation.release()
    await settle_down()
    assert [ask.done() for ask in asks] == [True, False, True]
    assert not asks[2].result()
    street.rotation.release()
    assert await asks[1]


@pytest.mark.parametrize("came", [False, True])
async def test_a_turn_that_nobody_waits_for_any_more_is_the_next_one_s(came: bool) -> None:
    """Also where the place was given in the same moment in which the wait was cancelled."""
    street = Street()
    assert await street.rotation.acquire("one")
    given_up = asyncio.create_task(street.run("other"))
    waiting = asyncio.create_task(street.run("third"))
    await settle_down()
    if came:
        street.rotation.release()
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    if not came:
        street.rotation.release()
    await waiting
    assert street.order == [("third", True)]
    assert not street.rotation.locked()
