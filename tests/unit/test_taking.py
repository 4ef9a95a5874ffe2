"""Taking records: what a partition that has gone can no longer say."""

from __future__ import annotations

from typing import Any, cast

from broker_mesh.assignment import Assignment
from broker_mesh.endpoint import Endpoint
from broker_mesh.entry import Entry
from broker_mesh.kafka.positions import Partition, Position
from broker_mesh.layers.retry import Retry
from broker_mesh.layers.validate import Decoder
from broker_mesh.message import Record, now_ms
from broker_mesh.newcomers import Newcomers
from broker_mesh.sidings import Sidings
from broker_mesh.taking import Taking
from broker_mesh.waiting import WaitingRoom

MAIN, RETRY = "fleet.v1.retire", "fleet.v1.retire.retry"


class Open:
    """Newcomers and sidings that keep nothing back, and note what is settled of a line."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def keep(self, _: Assignment, __: Record) -> bool:
        return False

    def is_copied(self, _: Record) -> bool:
        return False

    def line_of(self, record: Record) -> bytes | None:
        return record.key

    def taken(self, _: Record, __: bytes) -> None:
        pass

    def settled(self, _: Partition, __: bytes, offset: int) -> None:
        self.told.append(offset)


async def test_what_settles_after_its_partition_has_gone_frees_no_line() -> None:
    """A handler that outlasts its cancellation: the key may be parked by another owner now."""
    endpoint = Endpoint(MAIN, MAIN, cast(Decoder, None), "key", Retry())
    assignments = {(RETRY, 0): Assignment((RETRY, 0), Position(1, 0))}
    room, beside = WaitingRoom(lambda *_: None, now_ms), Open()
    taking = Taking(
        {MAIN: endpoint, RETRY: endpoint},
        assignments,
        cast(Newcomers, beside),
        cast(Sidings, beside),
        room,
        cast(Entry, None),
        lambda *_: None,
    )
    taking.take([Record(RETRY, 0, offset, now_ms(), b"k", b"v", []) for offset in range(2)])
    assignment = assignments[RETRY, 0]
    assignment.done(0)
    assert beside.told == [0]
    assignments[RETRY, 0] = Assignment((RETRY, 0), Position(2, 1))
    assignment.done(1)
    assert beside.told == [0]
    room.close()


async def test_what_waits_for_its_next_attempt_after_its_partition_has_gone_takes_no_room() -> None:
    """A handler that makes a failure of its cancellation: nobody would take the record out of the room again."""
    endpoint = Endpoint(MAIN, MAIN, cast(Decoder, None), "key", Retry())
    assignments = {(RETRY, 0): Assignment((RETRY, 0), Position(1, 0))}
    room, beside = WaitingRoom(lambda *_: None, now_ms), cast(Any, Open())
    endpoints = {MAIN: endpoint, RETRY: endpoint}
    taking = Taking(endpoints, assignments, beside, beside, room, cast(Entry, None), lambda *_: None)
    taken = Record(RETRY, 0, 0, now_ms(), b"k", b"v", [])
    assignment = assignments[RETRY, 0]
    assert taking.rests(assignment, taken, now_ms() + 60_000)
    room.drop(assignments.pop((RETRY, 0)))
    assert not taking.rests(assignment, taken, now_ms() + 60_000)
    assert len(room) == 0
    room.close()
