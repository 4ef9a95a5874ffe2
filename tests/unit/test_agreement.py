"""Agreement of an instance with its group: what is in dispute, and when the instance joins anew."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence

import pytest

from broker_mesh import agreement
from broker_mesh.agreement import disputed, watch
from broker_mesh.errors import Unavailable
from broker_mesh.kafka.groups import Member
from broker_mesh.kafka.positions import Partition

A, B, C = ("topic", 0), ("topic", 1), ("topic", 2)


def member(has: Collection[Partition], target: Collection[Partition] | None) -> Member:
    return Member("me", "here", tuple(has), None if target is None else tuple(target))


@pytest.mark.parametrize(
    ("own", "seen", "found"),
    [
        ([A], member([A], [A]), []),
        ([A, B], member([A, B], [A]), [B]),  # it was to give it up, and has not heard
        ([A], member([A, B], [A, B]), [B]),  # it has it, and has not heard
        ([A], member([A], [A, B]), []),  # another one has still to give it up
        ([], member([], []), []),
        ([A], member([A, B], None), []),  # the classic protocol
    ],
)
def test_what_is_in_dispute(own: list[Partition], seen: Member, found: list[Partition]) -> None:
    assert disputed(own, seen) == set(found)


async def looks(
    monkeypatch: pytest.MonkeyPatch, seen: Sequence[tuple[list[Partition], Member | Exception | None]]
) -> list[set[Partition]]:
    """Look as often as there is something to see; give what it was to join anew with."""
    joined: list[set[Partition]] = []
    own: list[Partition] = []
    over = asyncio.Event()
    views: Iterator[tuple[list[Partition], Member | Exception | None]] = iter(seen)

    async def sleep(_: float) -> None:
        view = next(views, None)
        if view is None:
            over.set()
            await asyncio.Event().wait()
        else:
            own[:], answers[:] = view[0], [view[1]]

    answers: list[Member | Exception | None] = []

    async def ask() -> Member | None:
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    monkeypatch.setattr(asyncio, "sleep", sleep)
    watching = asyncio.create_task(watch(lambda: own, ask, lambda has: joined.append(set(has))))
    await over.wait()
    watching.cancel()
    return joined


OUT_OF_STEP = ([A, B], member([A, B], [A]))


async def test_a_dispute_that_lasts_has_it_join_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await looks(monkeypatch, [OUT_OF_STEP] * 3) == [{A, B}]


async def test_what_joining_anew_does_not_mend_is_tried_more_and_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await looks(monkeypatch, [OUT_OF_STEP] * 11) == [{A, B}] * 2, "once was not enough"
    assert await looks(monkeypatch, [OUT_OF_STEP] * 23) == [{A, B}] * 3
    joining: tuple[list[Partition], None] = ([], None)
    again = [*[OUT_OF_STEP] * 6, joining, *[OUT_OF_STEP] * 5]
    assert len(await looks(monkeypatch, again)) == 2, "while it joins there is nothing to agree about"
    mended = ([A], member([A], [A]))
    assert len(await looks(monkeypatch, [*[OUT_OF_STEP] * 6, mended, *[OUT_OF_STEP] * 3])) == 3


async def test_a_watch_that_fails_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agreement, "LOOK_SECONDS", 0.0)

    async def ask() -> Member | None:
        raise KeyError("group")

    await asyncio.wait_for(watch(lambda: [A], ask, lambda _: None), 10)
    assert "can't be watched any more" in caplog.text


async def test_a_rebalance_on_its_way_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = ([A], member([A], [A]))
    other = ([A, B], member([A, B], [B]))
    assert await looks(monkeypatch, [OUT_OF_STEP, OUT_OF_STEP, settled, OUT_OF_STEP, OUT_OF_STEP]) == []
    assert await looks(monkeypatch, [OUT_OF_STEP, OUT_OF_STEP, other, other]) == []


async def test_who_can_not_ask_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    away = ([A, B], Unavailable("no broker answers"))
    nobody = ([A, B], None)
    assert await looks(monkeypatch, [OUT_OF_STEP, away, OUT_OF_STEP, away]) == []
    assert await looks(monkeypatch, [nobody] * 5) == []
