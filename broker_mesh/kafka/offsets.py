"""The offset tracker: which offset of a partition may be committed.

On the way of a message: told when a record is taken and when it is settled. Only the contiguous done prefix is
ever committed, so that a commit never passes a record that is still being worked on or waits for its retry.

States of an offset::

    (not taken) ── take() ──▶ pending ── done() ──▶ done ── all before it done ──▶ below `position`

`position` is what Kafka's commit means: the offset of the first record that is not done. Compacted-away and
transaction-marker offsets never arrive; they are passed over when the next record is taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container


class OffsetTracker:
    """The tracker of one partition in one assignment. Not thread-safe: it lives on the event loop.

    Args:
        position: where the assignment starts reading.
    """

    def __init__(self, position: int) -> None:
        self._position = position
        self._pending: deque[int] = deque()  # taken and not below the position, ascending; done ones too
        self._open: dict[int, int] = {}  # those of them that are not done, with their timestamps
        self._next = position  # lowest offset that may be taken

    @property
    def position(self) -> int:
        """The offset to commit: everything before it is done."""
        return self._position

    @property
    def beyond(self) -> int:
        """How many records are done beyond the position: they run again if the process dies now."""
        return len(self._pending) - len(self._open)

    @property
    def pending(self) -> int:
        """How many records are taken and not done."""
        return len(self._open)

    def open_before(self, done: int) -> list[int]:
        """Give the offsets that keep so many of the done records beyond the position, ascending."""
        blocking: list[int] = []
        for offset in self._pending:
            if done <= 0:
                break
            if offset in self._open:
                blocking.append(offset)
            else:
                done -= 1
        return blocking

    def first_open(self, beside: Container[int]) -> int | None:
        """Give the first offset that is taken and not done, beside some; None where there is none."""
        return next((offset for offset in self._open if offset not in beside), None)

    @property
    def oldest(self) -> int | None:
        """The timestamp of the first record that is taken and not done; None where there is none, or it has none."""
        timestamp = next(iter(self._open.values()), -1)
        return None if timestamp < 0 else timestamp

    def take(self, offset: int, timestamp: int = -1) -> None:
        """Note that a record is taken; offsets ascend.

        Args:
            offset: of the record.
            timestamp: of the record, epoch ms; -1 where it has none.

        Raises:
            ValueError: the offset was taken before.
        """
        if offset < self._next:
            raise ValueError(f"offset {offset} was taken already: the next is {self._next} or higher")
        if not self._pending:
            self._position = offset  # nothing open: gaps before this record hold nothing to do
        self._pending.append(offset)
        self._open[offset] = timestamp
        self._next = offset + 1

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
        moved = False
        while self._pending and self._pending[0] not in self._open:
            self._pending.popleft()
            moved = True
        if moved:
            self._position = self._pending[0] if self._pending else self._next
        return moved
