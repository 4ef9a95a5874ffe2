"""Assignments: one partition, from the moment it is this instance's to the moment it is not any more.

On the way of a message: made by `service.py` when the group gives a partition; `lanes.py` and `waiting.py` note in it
what becomes of its records.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from broker_mesh.circuit import CircuitState
from broker_mesh.kafka.consumer import NOTHING_COMMITTED, Partition, Position
from broker_mesh.kafka.offsets import OffsetTracker
from broker_mesh.message import Message, Record, now_ms
from broker_mesh.outcome import RetryLater
from broker_mesh.passage import Passage
from broker_mesh.progress import RESTS_ABOVE, Alone, Attempts, Progress
from broker_mesh.suspicion import Suspicion, attempts_found
from broker_mesh.turn import Turn

# So long after the last of its records was in work a partition counts as being at work: a commit for each pause
# between two records would be one too many.
_LINGERING_SECONDS = 1.0
# However little a commit has to say of it: so much is read again by the next owner, and none of it may be gone by then.
_MOST_BEYOND = 1_000_000


class Waiting(NamedTuple):
    """A record of a retry topic that is not due yet.

    Args:
        due: epoch ms.
        record: as it came.
        size: of its key, value and headers, bytes.
        source: what it came with; None where nothing did.
        line: what it waits in line with: it leaves behind those that came before it, and never for another place.
    """

    due: int
    record: Record
    size: int
    source: Any = None
    line: Hashable | None = None


class Nap(NamedTuple):
    """A message that waits for its next attempt in its place.

    Args:
        message: as it failed.
        outcome: with the time of that attempt.
        called: set when it is to leave its place.
    """

    message: Message
    outcome: RetryLater
    called: asyncio.Event


class Assignment:
    """One partition in one assignment; the epoch tells it from earlier ones.

    Args:
        partition: which.
        start: with the epoch, where reading starts, and what the owner before has left beside that offset.
        window: how many records may have been with their handlers when that owner ended.
    """

    def __init__(self, partition: Partition, start: Position, window: int = 100) -> None:
        found = Progress.read(start.metadata, start.offset)
        self.partition = partition
        self.epoch = start.epoch
        self.tracker = OffsetTracker(max(start.offset, 0), found.done)
        self.suspicion = Suspicion(found, window)
        self.attempts = attempts_found(found, now_ms())  # of what waits for another attempt in its place
        self.entering: list[Record] | None = []  # what came before the first commit; None once Kafka has that
        self.alone: Alone | None = None  # what runs singly
        self.lanes: dict[Hashable, deque[Record]] = {}
        self.waiting: dict[int, Waiting] = {}  # by offset, ascending but for what was given back
        self.lines: dict[
            int, bytes
        ] = {}  # by offset, of what is taken and not done: the line that it stands in
        self.naps: dict[Hashable, Nap] = {}  # by lane, of what waits for it in its place
        self.out_of_line: Callable[[Assignment, bytes, int], None] = lambda *_: None
        self.tasks: set[asyncio.Task[None]] = set()
        self.turns: set[Turn] = set()
        self.passages: dict[int, Passage] = {}  # by offset, of what waits outside of its lane
        self.draining = asyncio.Event()  # start nothing more
        self.relieving = False  # what waits at the front is being written again
        self.read_to = 0  # the offset that the consumer has read to; all records before it were received
        self.in_flight = 0  # what the consumer counts as taken and not finished
        # Where nothing is committed there is nothing to say before something is taken.
        self.committable = start.offset != NOTHING_COMMITTED
        self.changed = False  # there may be something to commit
        self.written = start  # what was handed over to be committed last
        self._in_work_at = float("-inf")
        self._said_running, self._said_singly = False, self.suspicion.left
        # As it was said last: what does not hold any more is taken back, also where nothing comes to be handled.
        self._in_flight, self._parked, self._circuit = found.in_flight, found.parked, found.circuit
        self._awaited: list[asyncio.Future[None]] = []

    @property
    def in_work(self) -> int:
        """How many records are taken, not settled, and due."""
        return self.tracker.pending - len(self.waiting)

    def is_crowded(self, rests: bool) -> bool:
        """Tell whether nothing more is to be taken, since commits could not say what is done beyond the position.

        Args:
            rests: whether that is so already; then until half of it is free.
        """
        if not self.tracker.pending:
            return False  # what was done before us runs together only as what lies between is taken and done
        share = 0.5 if rests else 1.0
        return len(self.written.metadata) > RESTS_ABOVE * share or self.tracker.beyond >= _MOST_BEYOND * share

    def take(self, record: Record) -> bool:
        """Note that a record is taken; tell whether there is anything to do with it."""
        before = self.tracker.position
        try:
            needs_work = self.tracker.take(record.offset, record.timestamp)
        except ValueError:
            return False  # delivered twice within one assignment: it is in work, or done
        if not needs_work:
            self.attempts.pop(record.offset, None)
            self.changed |= self.tracker.position != before
        return needs_work

    def skip_markers(self) -> None:
        """Let the position go past what is read and was not taken, which is no record; nothing may be kept aside.

        A commit that stays before a transaction's marker looks like lag, and, once retention has taken the marker, like
        records that were lost.
        """
        if not self.draining.is_set():
            self.changed |= self.tracker.skip_to(self.read_to)

    def done(self, offset: int) -> None:
        """Note that a record is settled."""
        moved = self.tracker.done(offset)
        self.suspicion.settled(moved=moved)
        self.attempts.pop(offset, None)
        self.changed = self.committable = True
        if (line := self.lines.pop(offset, None)) is not None:
            self.out_of_line(self, line, offset)

    def continued(self, message: Message) -> Message:
        """Give a message of this partition with the attempts that were made before, also by earlier owners."""
        known = self.attempts.get(_offset_of(message))
        if known is None:
            return message
        if known.made >= message.envelope.attempt:
            first_failure = known.first_failure or message.envelope.first_failure
            message = message.with_envelope(attempt=known.made + 1, first_failure=first_failure)
        return message._replace(died=known.died)

    def waits(self, message: Message) -> None:
        """Note that a message waits in its place for the attempt whose number it bears."""
        made, first_failure = message.envelope.attempt - 1, message.envelope.first_failure
        if made > 0 or message.died:
            self.attempts[_offset_of(message)] = Attempts(made, first_failure, message.died)
        else:
            self.attempts.pop(_offset_of(message), None)
        self.changed = True

    def describe(self, parked: int, circuit: CircuitState) -> None:
        """Note what people may want to know of this partition, which goes with its commits.

        Args:
            parked: how many keys are parked in it.
            circuit: the state of its operation's circuit; of a closed one there is nothing to say.
        """
        if self._awaited:
            return  # of a commit that another has followed nobody hears: it must not be one for people, again and again
        said = "" if circuit is CircuitState.CLOSED else circuit.value
        if (self.in_work, parked, said) != (self._in_flight, self._parked, self._circuit):
            self._in_flight, self._parked, self._circuit = self.in_work, parked, said
            self.changed = True

    # ── what is committed ─────────────────────────────────────────────────────────────────────────────────

    @property
    def _is_at_work(self) -> bool:
        """Whether a handler may run, or begin at any moment: what waits for its place begins without a commit."""
        return bool(self.entering or self.turns or self.alone or len(self.lanes) > len(self.naps))

    def progress(self, *, running: bool) -> Progress:
        """Put together what stands beside the position; the one place where that is done.

        Args:
            running: whether it is at work; at its end it is not, and nothing runs by itself.
        """
        return Progress(
            done=self.tracker.done_beyond,
            attempts=self.attempts,
            deaths=self.suspicion.deaths,
            singly=self.suspicion.left,
            running=running,
            alone=self.alone if running else None,
            in_flight=self._in_flight if running else 0,
            parked=self._parked,
            circuit=self._circuit,
        )

    def commit_due(self, now: float) -> Position | None:
        """Give what is to be committed, where it differs from what was given last.

        Args:
            now: by the loop's clock, seconds.
        """
        if self._is_at_work:
            self._in_work_at = now
        running = now - self._in_work_at < _LINGERING_SECONDS
        if not self.committable or not (self.changed or running is not self._said_running):
            return None
        self.changed = False
        before, position = self.written, self._write(running=running)
        return position if position != before else None

    def commit_now(self, now: float) -> tuple[Position, asyncio.Future[None]]:
        """Give what is to be committed at once, and what is done as soon as Kafka has it."""
        self.committable = True
        self._in_work_at = now
        self.changed = False
        awaited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.append(awaited)
        return self._write(running=True), awaited

    def commit_last(self) -> Position | None:
        """Give what is to be committed when the partition is given up in order; None where there is nothing to say."""
        return self._write(running=False) if self.committable else None

    def renew(self) -> None:
        """Have what was committed committed once more."""
        self.written = Position(self.epoch, NOTHING_COMMITTED)
        self.changed = self.committable

    def acknowledged(self, position: Position) -> None:
        """Note that Kafka has taken a commit."""
        if position == self.written:
            self.suspicion.acknowledged(self._said_singly)
            awaited, self._awaited = self._awaited, []
            for each in awaited:
                if not each.done():
                    each.set_result(None)

    def _write(self, *, running: bool) -> Position:
        self._said_running, self._said_singly = running, self.suspicion.left
        at = self.tracker.position
        self.written = Position(self.epoch, at, self.progress(running=running).write(at))
        return self.written

    def end(self) -> int:
        """Fence everything that is still in work; tell how many records that is."""
        self.draining.set()
        for turn in self.turns:
            turn.fenced = True
        for task in self.tasks:
            task.cancel()
        given_back, self.in_flight = self.in_flight, 0
        return given_back


def _offset_of(message: Message) -> int:
    return -1 if message.record is None else message.record.offset
