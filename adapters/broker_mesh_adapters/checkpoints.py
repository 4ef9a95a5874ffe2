"""Which messages a program takes that counts offsets upwards between two of its commits.

On the way of a message: between a wrapped consumer and a framework that commits by checkpoint, as Quix Streams does. A
message that comes again has a lower offset than what was processed since; it is kept until the next checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

Partition: TypeAlias = tuple[str, int]

M = TypeVar("M")


class Checkpoint(Generic[M]):
    """The checkpoint that a program is at, and the messages that are too early for it.

    Args:
        place_of: tells the partition and offset that the program sees of a message.
        comes: tells whether a kept message may still be given out; not where its partition has gone or was sought.
    """

    def __init__(self, place_of: Callable[[M], tuple[Partition, int]], comes: Callable[[M], bool]) -> None:
        self._place_of = place_of
        self._comes = comes
        self._last: dict[Partition, int] = {}  # the highest offset that was given within this checkpoint
        self.kept: list[M] = []

    def take(self, message: M) -> bool:
        """Take a message, or keep it for a later checkpoint; tells which."""
        if not self._has_room(message):
            self.kept.append(message)
            return False
        self._note(message)
        return True

    def due(self) -> M | None:
        """Give the lowest kept message that this checkpoint takes."""
        self.kept = [each for each in self.kept if self._comes(each)]
        message = min(filter(self._has_room, self.kept), key=self._place_of, default=None)
        if message is not None:
            self.kept.remove(message)
            self._note(message)
        return message

    def begin(self) -> None:
        """Begin the next checkpoint: what was given is committed."""
        self._last.clear()

    def rewind(self, partition: Partition) -> None:
        """Begin a partition anew that was sought: of what was kept of it, what does not come again stays kept."""
        self._last.pop(partition, None)
        self.kept = [each for each in self.kept if self._comes(each)]

    def _has_room(self, message: M) -> bool:
        partition, offset = self._place_of(message)
        return offset > self._last.get(partition, -1)

    def _note(self, message: M) -> None:
        partition, offset = self._place_of(message)
        self._last[partition] = offset
