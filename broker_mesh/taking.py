"""Taking records: which of those that Kafka delivers go on at once, later, or not at all.

On the way of a message: between `service.py`, which hears of it first, and its lane. A record is kept while nobody
knows what comes before its partition (`newcomers.py`) or what of it is parked (`sidings.py`); it is passed over where
it is done, or another group's; it waits where it is not due yet, or stands in line (`waiting.py`); else it goes on
(`entry.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from broker_mesh import headers
from broker_mesh.assignment import Assignment
from broker_mesh.endpoint import Endpoint
from broker_mesh.entry import Entry
from broker_mesh.kafka.positions import Partition
from broker_mesh.layers.retry import due_time
from broker_mesh.message import Record, is_for_service, now_ms
from broker_mesh.newcomers import Newcomers
from broker_mesh.sidings import Sidings
from broker_mesh.waiting import WaitingRoom

_SOON_MS = 1_000


class Taking:
    """Takes the records of one service.

    Args:
        endpoints: by topic.
        assignments: the partitions of the service, kept up to date by it.
        newcomers, sidings: keep records back.
        room: where records wait for their time.
        entry: lets records in.
        finished: told of so many records of a topic that are in flight no more; with less than 0, again.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        assignments: Mapping[Partition, Assignment],
        newcomers: Newcomers,
        sidings: Sidings,
        room: WaitingRoom,
        entry: Entry,
        finished: Callable[[str, int], None],
    ) -> None:
        self._endpoints = endpoints
        self._assignments = assignments
        self._newcomers = newcomers
        self._sidings = sidings
        self._room = room
        self._entry = entry
        self._finished = finished

    def take(self, batch: Iterable[Record]) -> None:
        """Take records as they were delivered."""
        now = now_ms()
        for record in batch:
            assignment = self._assignments.get((record.topic, record.partition))
            if assignment is None or self._is_kept(assignment, record):
                self._finished(record.topic, 1)  # what is kept counts again when its partition begins
                continue
            if assignment.draining.is_set() or not assignment.take(record):
                self._finished(record.topic, 1)
                continue
            operation = self._endpoints[record.topic].name
            if not is_for_service(record, operation) or self._sidings.is_copied(record):
                self._finished(record.topic, 1)
                assignment.done(record.offset)
                continue
            due = self._due_time(record)
            line = self._sidings.line_of(record)
            if line is not None:
                self._line_up(assignment, record, line)
            if line is not None or (due is not None and due > now):
                self._finished(record.topic, 1)  # it counts again when it is due
                self._room.add(assignment, record, due or now, line=line)
            else:
                assignment.in_flight += 1
                self._entry.put(assignment, record)

    def take_kept(self, records: Iterable[Record]) -> None:
        """Take what came of partitions while they were held."""
        records = list(records)
        for record in records:
            self._finished(record.topic, -1)
        self.take(records)

    def due(self, assignment: Assignment, record: Record) -> None:
        """Let a record in that has waited for its time."""
        assignment.in_flight += 1
        self._finished(record.topic, -1)
        self._entry.put(assignment, record)

    def rests(self, assignment: Assignment, record: Record, due: int) -> bool:
        """Have a record of a retry topic wait in the waiting room for its next attempt, where that is not made soon.

        Args:
            assignment: of its partition.
            record: that has failed, and keeps its place among those of its key.
            due: when its next attempt is, epoch ms.

        Returns:
            Whether it does; else it waits in its lane, and in the consumer's window.
        """
        if self._assignments.get(assignment.partition) is not assignment:
            return False  # a handler outlasted its cancellation: nobody would ever take the record out of the room
        endpoint = self._endpoints[record.topic]
        if record.topic == endpoint.name or endpoint.ordering != "key" or due - now_ms() <= _SOON_MS:
            return False
        self._room.add(assignment, record, due, line=self._sidings.line_of(record))
        return True

    def _is_kept(self, assignment: Assignment, record: Record) -> bool:
        return self._newcomers.keep(assignment, record) or self._sidings.keep(assignment, record)

    def _line_up(self, assignment: Assignment, record: Record, line: bytes) -> None:
        """Hold the key of a record from now on until it is settled."""
        assignment.lines[record.offset] = line
        assignment.out_of_line = self._out_of_line
        self._sidings.taken(record, line)

    def _out_of_line(self, assignment: Assignment, line: bytes, offset: int) -> None:
        if self._assignments.get(assignment.partition) is not assignment:
            return  # it is another's by now, or came anew: what its handler did since counts for nothing
        self._room.settled(assignment, line, offset)
        self._sidings.settled(assignment.partition, line, offset)

    def _due_time(self, record: Record) -> int | None:
        """Tell when a record's next attempt is due, epoch ms; only retry topics hold what is not due at once."""
        if record.topic == self._endpoints[record.topic].name:
            return None
        return due_time(headers.read(record.headers)[0].retry_at, written=record.timestamp)
