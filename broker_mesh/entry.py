"""Entry: what Kafka has to know before a record is given to a handler.

On the way of a message: between `service.py`, which takes records, and their lanes. A handler may take its process
down with it; the next owner can only tell so from what was committed before. So the first records of an assignment wait
until a commit is acknowledged that says that they are in work; and where owners before have ended uncleanly more than
once, each record waits for one that names it (`suspicion.py`), and for its partition's turn among all that run so
(`rotation.py`). While its handler waits for somebody else another record may run; then that one alone is named, since
who is named is blamed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from broker_mesh.assignment import Assignment
from broker_mesh.kafka.positions import Partition, Position, Positions
from broker_mesh.message import Message, Record
from broker_mesh.progress import Alone
from broker_mesh.rotation import Rotation
from broker_mesh.turn import HandedBack, Places

logger = logging.getLogger(__name__)


class SinglePlace:
    """The one place of all that runs singly, as one attempt takes it: Kafka knows its record by name while it runs.

    Args:
        entry: of the service.
        assignment: of the record's partition.
        alone: the record, and its attempt.
        places: where it runs once its partition's records need not run singly any more.
    """

    def __init__(self, entry: Entry, assignment: Assignment, alone: Alone, places: Places) -> None:
        self._entry = entry
        self._places = places
        self._is_single = False
        self._has_begun = False
        self.assignment = assignment
        self.alone = alone

    async def acquire(self) -> None:
        """Take the place, and have Kafka know of that, unless the partition is being given up.

        Raises:
            HandedBack: it is being given up, and the attempt has not begun: it needs no place at all.
        """
        self._is_single = await self._entry.single.acquire(self.assignment)
        if not self._is_single:
            if self.assignment.draining.is_set() and not self._has_begun:
                raise HandedBack
            await self._places.acquire()
            self._has_begun = True
            return
        try:
            await self._entry.name(self)
        except BaseException:
            self.release()
            raise
        self._has_begun = True

    def release(self) -> None:
        """Give the place to others; the record stays named until one of them begins, or its attempt is over."""
        if self._is_single:
            self._entry.single.release()
        else:
            self._places.release()


class Entry:
    """The entry to the handlers of one service.

    Args:
        commit: hands positions over to be committed at once.
        let_in: puts a record into its lane.
        broken: told of a bug of the mesh: what was being done, and the bug.
    """

    def __init__(
        self,
        commit: Callable[[Positions], None],
        let_in: Callable[[Assignment, Record], None],
        broken: Callable[[str, Exception], None],
    ) -> None:
        self._commit = commit
        self._let_in = let_in
        self._broken = broken
        self.single: Rotation[Assignment] = Rotation(_runs_singly)
        self._named: list[SinglePlace] = []  # what runs, or waits while nothing else has begun since
        self._acquitted: set[Assignment] = set()  # where Kafka may not know yet what became of the record

    def put(self, assignment: Assignment, record: Record) -> None:
        """Let a record in as soon as Kafka knows that its partition has records in work."""
        if assignment.entering is None:
            self._let_in(assignment, record)
            return
        assignment.entering.append(record)
        if len(assignment.entering) == 1:
            task = asyncio.create_task(self._open(assignment))
            assignment.tasks.add(task)
            task.add_done_callback(assignment.tasks.discard)

    @contextmanager
    def singly(
        self, assignment: Assignment, message: Message, places: Places
    ) -> Iterator[SinglePlace | None]:
        """Give the place in which an attempt has to run that is made in a block; None where any of `places` does."""
        if message.record is None or not assignment.suspicion.singly:
            yield None
            return
        place = SinglePlace(self, assignment, Alone(message.record.offset, message.envelope.attempt), places)
        try:
            yield place
        finally:
            # At once: what is settled must not be found guilty of an end that comes now.
            self._acquit(place)

    async def name(self, place: SinglePlace) -> None:
        """Have Kafka know by name of the record that goes on now, and of no other."""
        assignment = place.assignment
        if place in self._named:
            return
        # They wait for somebody else: an end that comes now is not theirs. This goes to Kafka before what follows.
        for other in self._named.copy():
            self._acquit(other)
        if assignment.draining.is_set() or not assignment.suspicion.singly:
            return
        self._named.append(place)
        assignment.alone = place.alone
        try:
            await self._confirmed(assignment)
        except HandedBack:
            logger.debug("%s/%d is being given up: its next owner finds nothing named", *assignment.partition)

    def _acquit(self, place: SinglePlace) -> None:
        if place not in self._named:
            return
        self._named.remove(place)
        assignment = place.assignment
        assignment.alone = None
        assignment.changed = True
        self._acquitted.add(assignment)
        now = asyncio.get_running_loop().time()
        if not assignment.draining.is_set() and (position := assignment.commit_due(now)) is not None:
            self._commit({assignment.partition: position})

    async def _open(self, assignment: Assignment) -> None:
        try:
            await self._confirmed(assignment)
            entering, assignment.entering = assignment.entering or [], None
            for record in entering:
                self._let_in(assignment, record)
        except HandedBack:
            logger.debug("%s/%d is handed back before its first record", *assignment.partition)
        except Exception as bug:  # noqa: BLE001 - it is told; only logged by the loop it would strand the records
            self._broken("beginning with a partition", bug)

    async def _confirmed(self, assignment: Assignment) -> None:
        """Commit what is known of a partition now, and wait until Kafka has it, however long brokers are away."""
        loop = asyncio.get_running_loop()
        position, acknowledged = assignment.commit_now(loop.time())
        self._commit(self._became_of_those_before(loop.time()) | {assignment.partition: position})
        leaving = loop.create_task(assignment.draining.wait())
        either: set[asyncio.Future[Any]] = {acknowledged, leaving}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        if assignment.draining.is_set():
            raise HandedBack

    def _became_of_those_before(self, now: float) -> dict[Partition, Position]:
        """Give what is known by now of partitions whose records ran singly since the last naming.

        Kafka takes it with the next record's name: an end of the process with that one must not undo what is settled.
        """
        acquitted, self._acquitted = self._acquitted, set()
        due = {each.partition: each.commit_due(now) for each in acquitted if not each.draining.is_set()}
        return {partition: position for partition, position in due.items() if position is not None}


def _runs_singly(assignment: Assignment) -> bool:
    """Tell whether records of a partition have to run singly; of one that is being given up none begins at all."""
    return assignment.suspicion.singly and not assignment.draining.is_set()
