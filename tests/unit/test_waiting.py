"""The waiting room: what is due leaves in time, what is not holds nothing up, and its bounds hold."""

from __future__ import annotations

import asyncio

from broker_mesh.assignment import Assignment
from broker_mesh.kafka.consumer import Position
from broker_mesh.message import Record, now_ms
from broker_mesh.waiting import ROTATION_MS, WaitingRoom, to_move

TOPIC = "s.v1.x.retry"
NOW = 10_000_000
HOUR = 3_600_000
PATIENCE = 30.0


def record(offset: int, *, written: int = NOW, value: bytes = b"12345") -> Record:
    return Record(TOPIC, 0, offset, written, b"key", value, [("name", b"value")])


def assignment() -> Assignment:
    return Assignment((TOPIC, 0), Position(1, 0))


class Released:
    """A room, and what it has let go, in order."""

    def __init__(self, **bounds: int) -> None:
        self.offsets: list[int] = []
        self.late: list[int] = []
        self.all = asyncio.Event()
        self.wanted = 0
        self.due: dict[int, int] = {}
        self.room = WaitingRoom(self._release, now_ms, **bounds)

    def add(self, place: Assignment, offset: int, due: int) -> None:
        self.due[offset] = due
        self.room.add(place, record(offset), due)

    def _release(self, _: Assignment, released: Record) -> None:
        assert now_ms() >= self.due[released.offset], "released before its time"
        self.offsets.append(released.offset)
        if len(self.offsets) == self.wanted:
            self.all.set()


async def test_records_leave_when_they_are_due_and_in_that_order() -> None:
    released, here, there = Released(), assignment(), assignment()
    now = now_ms()
    delays = {0: 10**9, 1: 60, 2: 20, 3: 40, 4: 20, 5: -5}
    released.wanted = 5
    for offset, delay in delays.items():
        released.add(here if offset % 2 else there, offset, now + delay)
    async with asyncio.timeout(PATIENCE):
        await released.all.wait()
    assert released.offsets == [5, 2, 4, 3, 1]
    assert len(released.room) == 1
    released.room.close()


async def test_what_was_taken_out_or_dropped_is_not_released() -> None:
    released, kept, lost = Released(), assignment(), assignment()
    now = now_ms()
    for offset in range(200):
        released.add(kept, offset, now + 20)
        released.add(lost, offset + 200, now + 20)
    taken = [released.room.take(kept, offset) for offset in range(199)]
    released.room.drop(lost)
    released.wanted = 1
    async with asyncio.timeout(PATIENCE):
        await released.all.wait()
    assert [each.record.offset for each in taken] == list(range(199))
    assert released.offsets == [199]
    assert len(released.room) == 0
    assert not released.room.full


async def test_what_becomes_due_while_its_partition_is_given_up_stays() -> None:
    released, kept, leaving = Released(), assignment(), assignment()
    leaving.draining.set()
    released.add(leaving, 1, now_ms() - 5)
    released.add(kept, 2, now_ms() + 20)
    released.wanted = 1
    async with asyncio.timeout(PATIENCE):
        await released.all.wait()
    assert released.offsets == [2]
    assert list(leaving.waiting) == [1]
    released.room.drop(leaving)
    assert len(released.room) == 0


async def test_what_was_moved_over_and_over_leaves_nothing_behind() -> None:
    released, here = Released(), assignment()
    for offset in range(5000):
        released.add(here, offset, now_ms() + HOUR)
        released.room.take(here, offset)
    assert len(released.room._queue) < 100
    released.room.close()


async def test_the_room_is_full_by_count_or_by_bytes_until_a_tenth_is_free() -> None:
    here = assignment()
    by_count, by_bytes = Released(max_records=20), Released(max_bytes=20 * 17)  # each has 3 + 5 + 4 + 5 bytes
    for released in (by_count, by_bytes):
        filling = []
        for offset in range(20):
            filling.append(released.room.full)
            released.add(here, offset, now_ms() + HOUR)
        assert not any(filling)
        emptying = []
        for offset in range(3):
            emptying.append(released.room.full)
            released.room.take(here, offset)
        assert emptying == [True, True, True], "to take more at the first gap would be to stop again at once"
        assert not released.room.full
        released.room.close()
        here.waiting.clear()


# ── what is written again ─────────────────────────────────────────────────────────────────────────────────


def fill(*states: str, due: int = NOW + HOUR, written: int = NOW) -> Assignment:
    """A partition with a record for each word: "waiting", "working" or "done"."""
    place = assignment()
    room = WaitingRoom(lambda *_: None, lambda: NOW)
    for offset, state in enumerate(states):
        place.tracker.take(offset)
        if state == "waiting":
            room.add(place, record(offset, written=written), due)
    for offset, state in enumerate(states):
        if state == "done":
            place.done(offset)
    room.close()
    return place


def moved(
    place: Assignment,
    *,
    full: bool = False,
    leaving: bool = False,
    most_beyond: int = 4,
    longest_kept: int = HOUR,
) -> list[int]:
    return to_move(
        place, now=NOW, full=full, leaving=leaving, most_beyond=most_beyond, longest_kept=longest_kept
    )


async def test_what_waits_before_too_many_done_is_moved() -> None:
    assert moved(fill("waiting", "waiting", "done")) == []
    assert moved(fill("waiting", "waiting", "done", "done", "waiting")) == [0, 1]
    assert moved(fill("waiting", "done", "waiting", "done", "waiting", "done")) == [0, 2]


async def test_nothing_is_moved_where_that_would_not_help() -> None:
    # The first is in work: the position waits for it, whatever is moved behind it.
    assert moved(fill("working", "waiting", "done", "done", "done")) == []
    # It is due in a moment, and leaves by itself.
    assert moved(fill("waiting", "done", "done", "done", due=NOW + 500)) == []


async def test_with_one_record_in_flight_at_most_a_head_still_gives_way() -> None:
    assert moved(fill("waiting", "done"), most_beyond=1) == [0]
    assert moved(fill("waiting", "waiting"), most_beyond=1) == []


async def test_in_a_full_room_what_stood_long_and_has_long_to_wait_is_moved() -> None:
    waiting = ["waiting"] * 150
    long_ago = NOW - ROTATION_MS - 1
    assert moved(fill(*waiting, written=long_ago)) == []
    assert len(moved(fill(*waiting, written=long_ago), full=True)) == 100, "so many at once at most"
    assert moved(fill(*waiting, written=NOW - ROTATION_MS), full=True) == []
    assert moved(fill(*waiting, written=long_ago, due=NOW + ROTATION_MS), full=True) == []


async def test_what_waits_before_anything_done_is_moved_when_the_partition_is_given_up() -> None:
    assert moved(fill("waiting", "waiting", "done", "waiting"), leaving=True) == [0, 1]
    assert moved(fill("waiting", "done", due=NOW + 1), leaving=True) == [0]
    assert moved(fill("waiting", "waiting"), leaving=True) == [], "nothing would run again"
    # A handler that did not finish keeps the position: what waits behind it would be written for nothing.
    assert moved(fill("waiting", "working", "waiting", "done"), leaving=True) == [0]
    many = fill(*["waiting"] * 11, "done")
    assert moved(many, leaving=True) == [], "one more run is cheaper than to write all of them"
    assert len(moved(fill(*["waiting"] * 150, *["done"] * 50), leaving=True)) == 100, (
        "so many at once at most"
    )


async def test_what_retention_would_come_for_is_moved() -> None:
    assert moved(fill("waiting", "waiting", written=NOW - HOUR - 1)) == [0, 1]
    assert moved(fill("waiting", "waiting", written=NOW - HOUR)) == []


async def test_in_line_one_at_a_time_leaves_in_the_order_of_offsets_and_none_before_its_time() -> None:
    released, place = Released(), assignment()
    now = now_ms()
    for offset, delay in {0: 120, 1: 0, 2: 0, 3: 0}.items():
        released.due[offset] = now + delay
        released.room.add(place, record(offset), now + delay, line=b"a" if offset < 3 else b"b")
    for offset in (3, 0, 1, 2):  # another line is let go meanwhile
        async with asyncio.timeout(PATIENCE):
            while offset not in released.offsets:
                await asyncio.sleep(0.005)
        assert released.offsets[-1] == offset
        released.room.settled(place, b"b" if offset == 3 else b"a", offset)
    assert released.offsets == [3, 0, 1, 2]
    assert len(released.room) == 0
    released.room.close()


async def test_what_fails_again_goes_back_to_the_head_of_its_line() -> None:
    released, place = Released(), assignment()
    for offset in range(3):
        released.due[offset] = 0
        released.room.add(place, record(offset), now_ms(), line=b"a")
    for offset in (0, 0, 1, 2):
        async with asyncio.timeout(PATIENCE):
            while not released.offsets or released.offsets[-1] != offset:
                await asyncio.sleep(0.005)
        if released.offsets == [0]:
            released.offsets.append(-1)
            released.due[0] = now_ms() + 50
            released.room.add(place, record(0), released.due[0], line=b"a")
        else:
            released.room.settled(place, b"a", offset)
    assert released.offsets == [0, -1, 0, 1, 2]
    released.room.close()


async def test_what_stands_in_line_is_never_moved() -> None:
    place = fill("waiting", "done", "done", "waiting", "done")
    place.waiting[0] = place.waiting[0]._replace(line=b"a")
    assert moved(place) == []
    assert moved(place, leaving=True) == []
    behind = fill("waiting", "waiting", "done", "done", written=NOW - HOUR - 1)
    behind.waiting[1] = behind.waiting[1]._replace(line=b"a")
    assert moved(behind) == [0]
