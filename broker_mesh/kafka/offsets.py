"""The offset tracker: which offset of a partition may be committed, and what is done beyond it.

On the way of a message: told when a record is taken and when it is settled. Only the contiguous done prefix is
ever committed, so that a commit never passes a record that is still being worked on or waits for its retry. What is
done beyond it goes beside the commit (`progress.py`), and the next owner's tracker begins with it.

States of an offset::

    (not taken) ── take() ──▶ open ── done() ──▶ done ── all before it done ──▶ below `position`
         └───── take(), done by an earlier owner ─────▲

`position` is what Kafka's commit means: the offset of the first record that is not done. Offsets that never arrive
(compacted away, transaction markers) hold nothing to do: they count as done as soon as a later one is taken. Only what
is open is kept, so that it costs no memory how much is done beyond a record that hangs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from typing import NamedTuple

from broker_mesh.progress import Ranges


class _Open(NamedTuple):
    """A record that is taken and not done.

    Args:
        number: how many records were opened before it.
        timestamp: epoch ms; -1 where it has none.
    """

    number: int
    timestamp: int


class OffsetTracker:
    """The tracker of one partition in one assignment. Not thread-safe: it lives on the event loop.

    Args:
        position: where the assignment starts reading.
        done: what an earlier owner has done beyond it.
    """

    def __init__(self, position: int, done: Ranges = ()) -> None:
        self._position = position
        self._open: dict[int, _Open] = {}  # ascending
        self._opened = 0  # how many records have been open
        self._next = position  # lowest offset that may be taken
        self._earlier = deque(done)  # of these ranges, what is not below `_next`

    @property
    def position(self) -> int:
        """The offset to commit: everything before it is done."""
        return self._position

    @property
    def beyond(self) -> int:
        """How many records were settled in this assignment, and lie beyond the position."""
        first = next(iter(self._open.values()), None)
        return 0 if first is None else self._opened - first.number - len(self._open)

    @property
    def done_beyond(self) -> Ranges:
        """Offsets beyond the position that need no work any more, also what an earlier owner has done there."""
        return tuple(_touching_joined(self._ranges()))

    @property
    def pending(self) -> int:
        """How many records are taken and not done."""
        return len(self._open)

    def open_before(self, done: int) -> list[int]:
        """Give the offsets that keep so many of the done records beyond the position, ascending."""
        blocking: list[int] = []
        first: int | None = None
        for offset, (number, _) in self._open.items():
            first = number if first is None else first
            if number - first - len(blocking) >= done:
                break
            blocking.append(offset)
        return blocking

    def first_open(self, beside: Container[int]) -> int | None:
        """Give the first offset that is taken and not done, beside some; None where there is none."""
        return next((offset for offset in self._open if offset not in beside), None)

    @property
    def oldest(self) -> int | None:
        """The timestamp of the first record that is taken and not done; None where there is none, or it has none."""
        first = next(iter(self._open.values()), None)
        return None if first is None or first.timestamp < 0 else first.timestamp

    def take(self, offset: int, timestamp: int = -1) -> bool:
        """Note that a record is taken; offsets ascend.

        Args:
            offset: of the record.
            timestamp: of the record, epoch ms; -1 where it has none.

        Returns:
            Whether it needs work: False where an earlier owner has done it.

        Raises:
            ValueError: the offset was taken before.
        """
        if offset < self._next:
            raise ValueError(f"offset {offset} was taken already: the next is {self._next} or higher")
        while self._earlier and self._earlier[0][1] <= offset:
            self._earlier.popleft()
        is_done = bool(self._earlier) and self._earlier[0][0] <= offset
        self._next = offset + 1
        if not is_done:
            self._open[offset] = _Open(self._opened, timestamp)
            self._opened += 1
        self._settle_position()
        return not is_done

    def done(self, offset: int) -> bool:
        """Note that a record is settled.

        Returns:
            Whether the position moved.

        Raises:
            ValueError: the offset is not pending.
        """
        if offset not in self._open:
            raise ValueError(f"offset {offset} is not pending")
        del self._open[offset]
        if offset != self._position:
            return False
        self._settle_position()
        return True

    def skip_to(self, offset: int) -> bool:
        """Note that what lies before an offset and was not taken is nothing to take: transactions' markers, gaps.

        Returns:
            Whether the position moved.
        """
        if offset <= self._next:
            return False
        while self._earlier and self._earlier[0][1] <= offset:
            self._earlier.popleft()
        self._next = offset
        before = self._position
        self._settle_position()
        return self._position != before

    def _settle_position(self) -> None:
        self._position = next(iter(self._open), self._next)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """Give what is done beyond the position, ascending: what is not open, then what was done before."""
        start = self._position
        for offset in self._open:
            if offset > start:
                yield start, offset
            start = offset + 1
        if self._next > start:
            yield start, self._next
        for earlier, end in self._earlier:
            if end > self._next:
                yield max(earlier, self._next), end


def _touching_joined(ranges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    joined: tuple[int, int] | None = None
    for start, end in ranges:
        if joined is not None and joined[1] == start:
            joined = joined[0], end
            continue
        if joined is not None:
            yield joined
        joined = start, end
    if joined is not None:
        yield joined
