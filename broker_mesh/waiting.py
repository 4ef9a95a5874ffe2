"""The waiting room: records of retry topics whose next attempt is not due yet.

On the way of a message: between `service.py`, which takes a record from its retry topic, and its lane. A record that
waits here takes no handler's place and does not count as in flight, so that one that is due never stands behind one
that is not. What the room may hold is bounded by count and by bytes, and where it would hold things up it gives way:
the record at the front is written again, to the end of its topic (`to_move` says when).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable
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

    def add(self, holder: H, record: Record, due: int, source: Any = None) -> None:
        """Have a record wait."""
        size = len(record.key or b"") + len(record.value or b"")
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
        holder.waiting[record.offset] = Waiting(due, record, size, source)
        self._weigh(1, size)
        heapq.heappush(self._queue, _Entry(due, next(self._numbers), holder, record.offset))
        self._tidy()

    def take(self, holder: H, offset: int) -> Waiting:
        """Take a record out before it is due."""
        waiting = holder.waiting.pop(offset)
        self._weigh(-1, -waiting.size)
        return waiting

    def pop_due(self, now: int, leaves: Callable[[H], bool] = lambda _: True) -> tuple[H, Waiting] | None:
        """Take out what is due first, if it is.

        Args:
            now: epoch ms.
            leaves: whether what is due of a partition leaves; what does not stays, to be taken or dropped.
        """
        while (due := self.next_due) is not None and due <= now:
            entry = heapq.heappop(self._queue)
            if leaves(entry.holder):
                return entry.holder, self.take(entry.holder, entry.offset)
        return None

    def drop(self, holder: H) -> None:
        """Forget what waits of a partition that is not ours any more."""
        for offset in list(holder.waiting):
            self.take(holder, offset)
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

    def add(self, holder: Assignment, record: Record, due: int, source: Any = None) -> None:
        """Have a record wait."""
        before = self.next_due
        super().add(holder, record, due, source)
        if before is None or due < before:
            self._set_timer()

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
        # Where its partition is being given up it stays: it is moved, or dropped with all others.
        while (
            released := self.pop_due(now, lambda assignment: not assignment.draining.is_set())
        ) is not None:
            assignment, waiting = released
            self._release(assignment, waiting.record)
        self._set_timer()


def _is_waiting(entry: _Entry[Any]) -> bool:
    return entry.offset in entry.holder.waiting


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
        Offsets, ascending; none while the first record of the partition is in work, which settles by itself.
    """
    waiting = assignment.waiting
    first = waiting.get(assignment.tracker.position)
    if first is None:
        return []
    kept_too_long = now - longest_kept
    limit = max(1, most_beyond // 2)
    beyond = assignment.tracker.beyond
    chosen: Iterable[int] = ()
    if leaving:
        blocking = assignment.tracker.open_before(beyond)
        if len(blocking) <= beyond * _MOVES_FOR_A_RUN:
            chosen = itertools.takewhile(waiting.__contains__, blocking)
    elif beyond >= limit and first.due > now + _SOON_MS:
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
    return list(itertools.islice(chosen, _MOST_MOVES))
