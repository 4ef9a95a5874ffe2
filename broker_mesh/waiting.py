"""The waiting room: records of retry topics whose next attempt is not due yet.

On the way of a message: between `service.py`, which takes a record from its retry topic, and its lane. A record that
waits here takes no handler's place and does not count as in flight, so that one that is due never stands behind one
that is not. What the room may hold is bounded by count and by bytes, and where it would hold things up it gives way:
the record at the front is written again, to the end of its topic (`to_move` says when).

Records of a key that are handled in order stand in line: one at a time leaves, in the order of their offsets, the next
one when that is settled, and none is ever moved.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from bisect import insort
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from broker_mesh.assignment import Assignment, Waiting
from broker_mesh.kafka.offsets import OffsetTracker
from broker_mesh.message import Record
from broker_mesh.settings import Settings

MAX_RECORDS = 10_000
"""How many records may wait in one process: with their headers and bookkeeping some 3 KB each beside their values."""

MAX_BYTES = 64 * 1024 * 1024
"""How many bytes of keys, values and headers may wait in one process: as much as librdkafka's own queue holds."""

ROTATION_MS = 30_000
"""While the room is full, how long a record stays before it may be moved, and how near its time it is not moved."""

_DAY_MS = 86_400_000
_SOON_MS = 1_000
_LONGEST_SLEEP_SECONDS = 1.0  # due times are of the wall clock, which may be set while a timer runs
# A write is better than to run once more, which may fail, and wait twice from then on.
_MOVES_FOR_A_RUN = 10
_MOST_MOVES = 100  # at once, of one partition: what is being written is not counted as waiting


class Holder(Protocol):
    """One partition in one assignment, as far as records wait in it."""

    @property
    def tracker(self) -> OffsetTracker:
        """Which of its records are settled."""

    @property
    def waiting(self) -> dict[int, Waiting]:
        """What waits, by offset; ascending but for what was given back."""


H = TypeVar("H", bound=Holder)


class _Entry(NamedTuple, Generic[H]):
    due: int
    number: int  # in order of arrival among those due together
    holder: H
    offset: int


class Room(Generic[H]):
    """All records of one process, or of one client, that are not due yet.

    Args:
        max_records, max_bytes: how much may wait before nothing more is to be taken.
    """

    def __init__(self, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._queue: list[_Entry[H]] = []
        self._numbers = itertools.count()
        self._bytes = 0
        self._count = 0
        self._full = False

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Whether nothing more is to be taken; from then on until a tenth of the room is free."""
        return self._full

    @property
    def next_due(self) -> int | None:
        """When something is due next, epoch ms; None where nothing waits."""
        while self._queue and not _is_waiting(self._queue[0]):
            heapq.heappop(self._queue)
        return self._queue[0].due if self._queue else None

    def add(
        self, holder: H, record: Record, due: int, source: Any = None, line: Hashable | None = None
    ) -> None:
        """Have a record wait."""
        size = len(record.key or b"") + len(record.value or b"")
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
        holder.waiting[record.offset] = Waiting(due, record, size, source, line)
        self._weigh(1, size)
        self._queue_up(holder, record.offset)

    def take(self, holder: H, offset: int) -> Waiting:
        """Take a record out before it is due."""
        waiting = holder.waiting.pop(offset)
        self._weigh(-1, -waiting.size)
        return waiting

    def pop_due(
        self, now: int, leaves: Callable[[H, int], bool] = lambda _, __: True
    ) -> tuple[H, Waiting] | None:
        """Take out what is due first, if it is.

        Args:
            now: epoch ms.
            leaves: whether a record that is due leaves, by its partition and offset; what does not stays, to be queued
                up again, taken or dropped.
        """
        while (due := self.next_due) is not None and due <= now:
            entry = heapq.heappop(self._queue)
            if leaves(entry.holder, entry.offset):
                return entry.holder, self.take(entry.holder, entry.offset)
        return None

    def drop(self, holder: H) -> None:
        """Forget what waits of a partition that is not ours any more."""
        for offset in list(holder.waiting):
            self.take(holder, offset)
        self._tidy()

    def _queue_up(self, holder: H, offset: int) -> None:
        due = holder.waiting[offset].due
        heapq.heappush(self._queue, _Entry(due, next(self._numbers), holder, offset))
        self._tidy()

    def _weigh(self, count: int, size: int) -> None:
        self._count += count
        self._bytes += size
        share = 0.9 if self._full else 1.0
        self._full = self._count >= self._max_records * share or self._bytes >= self._max_bytes * share

    def _tidy(self) -> None:
        """Let entries go whose record was taken out, before they outnumber the others."""
        if len(self._queue) > 2 * self._count + 64:
            self._queue = [entry for entry in self._queue if _is_waiting(entry)]
            heapq.heapify(self._queue)


class _Line:
    """The records of one line in one assignment."""

    __slots__ = ("offsets", "out")

    def __init__(self) -> None:
        self.offsets: list[int] = []  # those that wait, ascending
        self.out: int | None = None  # the one that has left, and is not settled


class WaitingRoom(Room[Assignment]):
    """The room of a native service, on its event loop: it lets records go by itself when they are due.

    Args:
        release: takes a record that has become due.
        clock: gives epoch ms.
        max_records, max_bytes: how much may wait before nothing more is to be taken.
    """

    def __init__(
        self,
        release: Callable[[Assignment, Record], None],
        clock: Callable[[], int],
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__(max_records, max_bytes)
        self._release = release
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._lines: dict[Assignment, dict[Hashable, _Line]] = {}

    def add(
        self,
        holder: Assignment,
        record: Record,
        due: int,
        source: Any = None,
        line: Hashable | None = None,
    ) -> None:
        """Have a record wait: for its time, and in its line, where it has one, by its offset."""
        if line is not None:
            lined_up = self._lines.setdefault(holder, {}).setdefault(line, _Line())
            insort(lined_up.offsets, record.offset)
            if lined_up.out == record.offset:
                lined_up.out = None
        before = self.next_due
        super().add(holder, record, due, source, line)
        if before is None or due < before:
            self._set_timer()

    def settled(self, holder: Assignment, line: Hashable, offset: int) -> None:
        """Let the next one of a line go when it is due: the one that had left is settled."""
        lines = self._lines.get(holder, {})
        lined_up = lines.get(line)
        if lined_up is None or lined_up.out != offset:
            return
        lined_up.out = None
        if lined_up.offsets:
            self._queue_up(holder, lined_up.offsets[0])
            self._set_timer()
        else:
            del lines[line]

    def drop(self, holder: Assignment) -> None:
        """Forget what waits of a partition that is not ours any more."""
        super().drop(holder)
        self._lines.pop(holder, None)

    def close(self) -> None:
        """Release nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (due := self.next_due) is not None:
            delay = min(max((due - self._clock()) / 1000, 0.0), _LONGEST_SLEEP_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(delay, self._release_due)

    def _release_due(self) -> None:
        now = self._clock()
        while (released := self.pop_due(now, self._leaves)) is not None:
            assignment, waiting = released
            self._release(assignment, waiting.record)
        self._set_timer()

    def _leaves(self, assignment: Assignment, offset: int) -> bool:
        # Where its partition is being given up it stays: it is moved, or dropped with all others.
        if assignment.draining.is_set():
            return False
        line = assignment.waiting[offset].line
        if line is None:
            return True
        lined_up = self._lines[assignment][line]
        if lined_up.out is not None or lined_up.offsets[0] != offset:
            return False  # it is queued up again when it is the first
        lined_up.out = lined_up.offsets.pop(0)
        return True


def _is_waiting(entry: _Entry[Any]) -> bool:
    waiting = entry.holder.waiting.get(entry.offset)
    return waiting is not None and waiting.due == entry.due  # else it was put back with another time


def longest_kept_ms(settings: Settings) -> int:
    """Tell how old a record may grow in its retry topic before it is written anew: retention must not come for it."""
    return round(settings.request_retention_days * _DAY_MS / 4)


def to_move(
    assignment: Holder, *, now: int, full: bool, leaving: bool, most_beyond: int, longest_kept: int
) -> list[int]:
    """Decide which waiting records of a partition are written again, to the end of their topic.

    Four reasons: too many records are done behind the first one that waits (they run again after a crash, so that
    the partition would have to rest); the room is full, and what is behind what waits may be due sooner; the topic's
    retention would come for a record before its time does; the partition is given up in order, and what is done
    behind what waits would run again elsewhere.

    Args:
        assignment: of the partition.
        now: epoch ms.
        full: whether the room is.
        leaving: whether the partition is being given up.
        most_beyond: how many records may be done behind one that is not.
        longest_kept: how old a record may grow in its topic, ms.

    Returns:
        Offsets, ascending, of records that stand in no line; none while the first record of the partition is in work,
        which settles by itself.
    """
    waiting = assignment.waiting
    first = waiting.get(assignment.tracker.position)
    if first is None:
        return []
    moves = first.line is None  # else the position stays where it is whatever moves behind it
    kept_too_long = now - longest_kept
    limit = max(1, most_beyond // 2)
    beyond = assignment.tracker.beyond
    chosen: Iterable[int] = ()
    if leaving:
        blocking = assignment.tracker.open_before(beyond) if moves else []
        if len(blocking) <= beyond * _MOVES_FOR_A_RUN:
            chosen = itertools.takewhile(
                lambda offset: offset in waiting and waiting[offset].line is None, blocking
            )
    elif moves and beyond >= limit and first.due > now + _SOON_MS:
        chosen = (
            offset for offset in assignment.tracker.open_before(beyond - limit // 2) if offset in waiting
        )
    elif first.record.timestamp < kept_too_long:
        chosen = (offset for offset, item in waiting.items() if item.record.timestamp < kept_too_long)
    elif full:
        chosen = (
            offset
            for offset, item in waiting.items()
            if item.record.timestamp < now - ROTATION_MS and item.due > now + ROTATION_MS
        )
    out_of_line = (offset for offset in chosen if waiting[offset].line is None)
    return list(itertools.islice(out_of_line, _MOST_MOVES))
