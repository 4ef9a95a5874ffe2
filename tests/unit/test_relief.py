"""Relief: what gives way, and what must not."""

from __future__ import annotations

import asyncio

from broker_mesh.assignment import Assignment
from broker_mesh.kafka.positions import Position
from broker_mesh.message import Record, now_ms
from broker_mesh.progress import Attempts
from broker_mesh.relief import Relief
from broker_mesh.settings import Settings
from broker_mesh.waiting import WaitingRoom

RETRY = ("fleet.v1.retire.retry", 0)


async def test_what_has_made_attempts_in_its_place_is_not_written_again_as_it_came() -> None:
    """The copy would begin anew with the attempts that its headers tell of, with each move."""
    assignment = Assignment(RETRY, Position(1, 0))
    room = WaitingRoom(lambda *_: None, now_ms)
    moved: list[int] = []

    async def put_back(_: Assignment, record: Record) -> None:
        moved.append(record.offset)

    def broken(doing: str, bug: Exception) -> None:
        raise AssertionError(doing) from bug

    for offset in range(4):
        record = Record(*RETRY, offset, now_ms(), None, b"v", [])
        assignment.take(record)
        if offset < 3:
            room.add(assignment, record, now_ms() + 60_000)
    assignment.attempts[1] = Attempts(2)
    assignment.done(3)
    assignment.draining.set()
    relief = Relief(Settings(), room, {RETRY: assignment}, put_back, lambda: None, broken)
    assert relief.relieve(assignment, full=False)
    while assignment.relieving:
        await asyncio.sleep(0)
    assert moved == [0, 2]
    last = assignment.commit_last()
    assert last is not None
    assert last.offset == 1
    room.close()
