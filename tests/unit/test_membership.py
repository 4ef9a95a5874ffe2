"""Who stood still waits for Kafka's word, or for the loss, and for neither in vain."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from confluent_kafka import Consumer

from broker_mesh.kafka import membership as module
from broker_mesh.kafka.commits import Commits
from broker_mesh.kafka.membership import STILL_SECONDS, UNHEARD_SECONDS, Membership

CONSUMER = cast(Consumer, None)


class Group:
    """Commits that are repeated and answered by hand, and the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.open = 0
        self.unheard = False
        self.repeated = 0
        self.anything_committed = True
        monkeypatch.setattr(module, "_now", lambda: self.now)
        self.membership = Membership()

    def repeat(self, _: Consumer) -> None:
        self.repeated += 1
        self.open += self.anything_committed

    def look(self, *, owns: bool = True) -> None:
        self.membership.look(cast(Commits, self), CONSUMER, owns=owns)

    def stand_still(self) -> None:
        self.now += STILL_SECONDS + 0.1

    def taken(self) -> None:
        self.open -= 1
        self.membership.taken(self.open)


@pytest.fixture
async def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    return Group(monkeypatch)


async def is_certain(group: Group) -> bool:
    await asyncio.sleep(0)  # what the thread has told the loop arrives
    return not group.membership.in_doubt


async def test_who_is_awake_is_certain(group: Group) -> None:
    for _ in range(3):
        group.now += STILL_SECONDS
        assert await is_certain(group)
        group.look()
    group.taken()
    assert await is_certain(group)
    assert group.repeated == 0


async def test_who_stood_still_waits_until_kafka_takes_a_commit_that_was_sent_since(group: Group) -> None:
    group.open = 1  # sent before
    group.stand_still()
    assert not await is_certain(group), "the loop may be the first to wake"
    group.look()
    assert not await is_certain(group)
    group.look()
    assert group.repeated == 1
    group.taken()
    assert not await is_certain(group), "that one was sent before"
    group.taken()
    assert await is_certain(group)


async def test_who_has_lost_everything_hears_of_that_first(group: Group) -> None:
    heard: list[str] = []
    group.stand_still()
    group.look()
    waiting = asyncio.create_task(group.membership.certain())
    asyncio.get_running_loop().call_soon_threadsafe(heard.append, "lost")
    group.look(owns=False)
    assert group.membership.in_doubt, "the loss is not heard of yet"
    waiting.add_done_callback(lambda _: heard.append("certain"))
    await waiting
    await asyncio.sleep(0)
    assert heard == ["lost", "certain"]


async def test_who_stands_still_again_asks_again(group: Group) -> None:
    group.stand_still()
    group.look()
    group.stand_still()
    group.taken()
    assert not await is_certain(group)
    group.look()
    assert group.repeated == 2
    group.taken()
    assert await is_certain(group)


async def test_who_has_nothing_to_ask_with_waits_for_the_answer_to_its_heartbeat(group: Group) -> None:
    group.anything_committed = False
    group.stand_still()
    group.look()
    assert not await is_certain(group)
    group.now += STILL_SECONDS
    group.look()
    assert not await is_certain(group)
    group.now += 0.1
    group.look()
    assert await is_certain(group)


@pytest.mark.parametrize("refused", [False, True])
async def test_who_hears_nothing_from_the_coordinator_waits_until_it_does(
    group: Group, refused: bool
) -> None:
    group.open, group.unheard = (0, True) if refused else (1, False)
    for _ in range(3):
        group.look()
        assert await is_certain(group)
        group.now += UNHEARD_SECONDS / 3 + 0.1
    group.look()
    assert not await is_certain(group)
    group.unheard = False
    while group.open:
        group.taken()
    assert await is_certain(group)


async def test_a_refusal_of_what_has_gone_since_is_doubted_once(group: Group) -> None:
    """Nothing is committed of what it has now, so that no commit would ever take the refusal back."""
    group.anything_committed, group.unheard = False, True
    doubts = 0
    for _ in range(20):
        before = group.membership.in_doubt
        group.look()
        doubts += await is_certain(group) < (not before)
        group.now += STILL_SECONDS / 2
    assert doubts == 1
    assert not group.membership.in_doubt


async def test_who_is_refused_asks_again_after_a_while(group: Group) -> None:
    group.stand_still()
    group.look()
    group.open = 0  # refused, of a partition that was given up since: nobody sends that again
    for asked in (2, 3):
        group.look()
        group.now += STILL_SECONDS
        group.look()
        assert group.repeated == asked - 1
        group.now += 0.1
        group.look()
        assert group.repeated == asked
        assert not await is_certain(group)
        group.open = 0
    group.now += STILL_SECONDS + 0.1
    group.look()
    while group.open:
        group.taken()
    assert await is_certain(group)


async def test_commits_that_are_answered_one_after_the_other_leave_no_doubt(group: Group) -> None:
    for _ in range(9):
        group.open = 2
        group.look()
        group.taken()
        group.now += 0.5
        group.look()
        assert await is_certain(group)
        group.open = 1
        group.taken()


async def test_a_thread_that_has_ended_is_not_waited_for(group: Group) -> None:
    group.stand_still()
    waiting = asyncio.create_task(group.membership.certain())
    await asyncio.sleep(0)
    group.membership.end()
    await asyncio.wait_for(waiting, 10)
    assert await is_certain(group)


async def test_who_was_late_by_a_hair_for_the_loop_alone_does_not_wait_for_ever(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread read its clock in time, and showed so after the loop had looked: it raises no doubt to be answered."""
    monkeypatch.setattr(module, "STILL_SECONDS", 0.01)
    group.now += 0.02
    waiting = asyncio.create_task(group.membership.certain())
    await asyncio.sleep(0)
    assert not waiting.done()
    group.membership._beat = group.now
    await asyncio.wait_for(waiting, 10)
