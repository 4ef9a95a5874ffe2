"""Relief: what waits at the front of a retry topic gives way where it holds things up.

On the way of a message: beside the waiting room (`waiting.py`), which says what has to move. A record that moves is
written again, to the end of its topic, and only then is it done where it stood.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from broker_mesh.assignment import Assignment, Waiting
from broker_mesh.errors import MeshError
from broker_mesh.kafka.positions import Partition
from broker_mesh.message import Record, now_ms
from broker_mesh.settings import Settings
from broker_mesh.settle import FencedError
from broker_mesh.waiting import WaitingRoom, longest_kept_ms, to_move

logger = logging.getLogger(__name__)

_MOVE_AGAIN_SECONDS = 10.0
# Of what is done between what waits a commit can say some 1,500 runs: the partition rests before that.
_MOST_BEYOND = 1_000


class Relief:
    """Moves what waits in the partitions of one service.

    Args:
        settings: with limits and retention.
        room: where it waits.
        assignments: the partitions of the service, kept up to date by it.
        put_back: writes a record of an assignment to the end of its topic.
        moved: told whenever a partition may have been relieved.
        broken: told of a bug of the mesh: what was being done, and the bug.
    """

    def __init__(
        self,
        settings: Settings,
        room: WaitingRoom,
        assignments: Mapping[Partition, Assignment],
        put_back: Callable[[Assignment, Record], Awaitable[None]],
        moved: Callable[[], None],
        broken: Callable[[str, Exception], None],
    ) -> None:
        self._settings = settings
        self._room = room
        self._assignments = assignments
        self._put_back = put_back
        self._moved = moved
        self._broken = broken
        self._moves_from = 0.0  # by the loop's clock; after a move that failed

    def look(self) -> None:
        """Begin to move what holds things up, in one batch of one partition."""
        # Going round a large topic must not take all of the machine. Of the fullest partition that has something to
        # move: what waits in another may stand behind a handler.
        full = self._room.full
        by_crowd = sorted(self._assignments.values(), key=lambda each: len(each.waiting), reverse=True)
        for assignment in by_crowd:
            if assignment.waiting and not (assignment.relieving or assignment.draining.is_set()):
                full = not self.relieve(assignment, full=full) and full

    def relieve(self, assignment: Assignment, *, full: bool) -> bool:
        """Begin to move what holds one partition up; tell whether there was anything.

        Args:
            assignment: of the partition; one that is draining moves what its next owner would run again.
            full: whether the waiting room is full, on account of this partition.
        """
        if asyncio.get_running_loop().time() < self._moves_from:
            return False
        try:
            chosen = to_move(
                assignment,
                now=now_ms(),
                full=full,
                leaving=assignment.draining.is_set(),
                most_beyond=min(self._settings.max_in_flight, _MOST_BEYOND),
                longest_kept=longest_kept_ms(self._settings),
            )
        except Exception as bug:  # noqa: BLE001 - it is told; what is settled must still be committed
            self._broken("choosing what gives way", bug)
            return False
        # Of attempts that were made in its place the copy would know nothing.
        chosen = [offset for offset in chosen if offset not in assignment.attempts]
        if chosen:
            assignment.relieving = True
            taken = [self._room.take(assignment, offset) for offset in chosen]
            task = asyncio.create_task(self._move_all(assignment, taken))
            assignment.tasks.add(task)
            task.add_done_callback(assignment.tasks.discard)
        return bool(chosen)

    async def _move_all(self, assignment: Assignment, taken: Sequence[Waiting]) -> None:
        try:
            await asyncio.gather(*(self._move(assignment, waiting) for waiting in taken))
        except Exception as bug:  # noqa: BLE001 - it is told
            self._broken("moving what waits", bug)
        assignment.relieving = False
        self._moved()
        self.relieve(assignment, full=False)

    async def _move(self, assignment: Assignment, waiting: Waiting) -> None:
        record = waiting.record
        try:
            await self._put_back(assignment, record)
        except FencedError:
            return
        except MeshError as error:
            # It goes on waiting where it is, and is handled when it is due.
            self._moves_from = asyncio.get_running_loop().time() + _MOVE_AGAIN_SECONDS
            logger.warning("%s/%d: what waits can't be moved: %s", record.topic, record.partition, error)
            if not assignment.draining.is_set():
                self._room.add(assignment, record, waiting.due)
        else:
            assignment.done(record.offset)
