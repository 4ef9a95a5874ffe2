"""Records of retry topics that a wrapped consumer has read before their time.

On the way of a message: between `intake.py`, which takes them, and its queue. What waits here holds back nothing that
is due: its number and size are bounded as `waiting.py` says, and what would stand in the way for long is written again,
to the end of its topic, by the mesh's event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from broker_mesh.assignment import Waiting
from broker_mesh.errors import InternalError, MeshError, Unavailable
from broker_mesh.holding import Holding
from broker_mesh.message import Message, now_ms, received
from broker_mesh.queueing import Taken
from broker_mesh.settle import FencedError
from broker_mesh.stepping import Background
from broker_mesh.waiting import Room, to_move

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_MOVE_AGAIN_SECONDS = 10.0


class Early:
    """What one consumer has read before its time. All calls are made under the intake's lock.

    Args:
        background: the mesh's event loop.
        put_back: writes a record of a retry topic to the end of it, as it is.
        lock: the intake's.
        moved: told, under the lock, that a record was written again: it is done where it stood.
        failed: told, under the lock, what the mesh can't go on with.
        most_beyond: how many records may be done behind one that waits.
        longest_kept_ms: how old a record may grow in its topic.
    """

    def __init__(
        self,
        background: Background,
        put_back: Callable[[Message], Awaitable[None]],
        lock: threading.RLock,
        *,
        moved: Callable[[Holding[Any], int], None],
        failed: Callable[[MeshError], None],
        most_beyond: int,
        longest_kept_ms: int,
    ) -> None:
        self._background = background
        self._put_back = put_back
        self._lock = lock
        self._moved = moved
        self._failed = failed
        self._most_beyond = most_beyond
        self._longest_kept_ms = longest_kept_ms
        self._room: Room[Holding[Any]] = Room()
        self._look_at = 0.0

    @property
    def full(self) -> bool:
        """Whether nothing more of retry topics is to be taken."""
        return self._room.full

    @property
    def next_due(self) -> int | None:
        """When something is due next, epoch ms; None where nothing waits."""
        return self._room.next_due

    def add(self, holding: Holding[Any], taken: Taken, due: int) -> None:
        """Have a record wait for its time, epoch ms."""
        self._room.add(holding, taken.record, due, taken)

    def pop_due(self) -> Taken | None:
        """Take out what is due first, if it is."""
        due = self._room.pop_due(now_ms())
        if due is None:
            return None
        taken: Taken = due[1].source
        return taken

    def drop(self, holding: Holding[Any]) -> None:
        """Forget what waits of a partition that is given up."""
        self._room.drop(holding)

    def relieve(self, holdings: Iterable[Holding[Any]]) -> None:
        """Have what waits at the front of a partition give way, where it holds things up; looks now and then only."""
        now = time.monotonic()
        if len(self._room) == 0 or now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        # Of the fullest that has something to move: what waits in another may stand behind the program.
        full = self._room.full
        for holding in sorted(holdings, key=lambda each: len(each.waiting), reverse=True):
            full = not self._move_what_blocks(holding, full=full) and full

    def leave(self, holdings: Iterable[Holding[Any]]) -> None:
        """Have what waits give way in partitions that are given up: what is done behind it would run again."""
        for holding in holdings:
            self._move_what_blocks(holding, leaving=True)

    def _move_what_blocks(self, holding: Holding[Any], *, full: bool = False, leaving: bool = False) -> bool:
        if holding.moving or not holding.waiting:
            return False
        offsets = to_move(
            holding,
            now=now_ms(),
            full=full,
            leaving=leaving,
            most_beyond=self._most_beyond,
            longest_kept=self._longest_kept_ms,
        )
        for offset in offsets:
            self._move(holding, self._room.take(holding, offset))
        return bool(offsets)

    def _move(self, holding: Holding[Any], waiting: Waiting) -> None:
        taken: Taken = waiting.source
        message = received(taken.record, taken.operation, taken.epoch)
        holding.moving += 1

        def ended(task: asyncio.Task[Any]) -> None:
            with self._lock:
                holding.moving -= 1
                self._after_move(holding, waiting, _failure_of(task))

        try:
            self._background.begin(lambda: self._put_back(message), contextvars.Context(), ended)
        except Unavailable as closed:
            holding.moving -= 1
            self._after_move(holding, waiting, closed)

    def _after_move(self, holding: Holding[Any], waiting: Waiting, error: BaseException | None) -> None:
        record = waiting.record
        if holding.is_over:
            return
        if error is None:
            self._moved(holding, record.offset)
        elif isinstance(error, MeshError):
            # It goes on waiting where it is, and is handled when it is due.
            self._look_at = time.monotonic() + _MOVE_AGAIN_SECONDS
            logger.warning("%s/%d: what waits can't be moved: %s", record.topic, record.partition, error)
            self._room.add(holding, record, waiting.due, waiting.source)
        elif not isinstance(error, FencedError):
            logger.error("moving what waits failed inside the mesh", exc_info=error)
            stopped = InternalError(f"{type(error).__name__} inside the mesh: {error}")
            stopped.__cause__ = error
            self._failed(stopped)


def _failure_of(task: asyncio.Task[Any]) -> BaseException | None:
    return FencedError() if task.cancelled() else task.exception()
