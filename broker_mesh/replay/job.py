"""One replay at work: partition after partition, batch after batch, each in one transaction with its claim.

On the way of a message: from behind its end to a new beginning. Blocking; in one thread. What is settled once is
settled for good: whoever opens the writer of a dead-letter partition fences all others from it, and reads the claims
to their end before anything is put back. Batches are small, since an open transaction hides what follows it from the
services.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from broker_mesh.dead_letters.letter import DeadLetter
from broker_mesh.dead_letters.reading import DeadPartition, Progress, Reading, size_of, topic_ids
from broker_mesh.errors import Aborted, InvalidArgument, MeshError, MessageTooLarge, NotFound, Unavailable
from broker_mesh.kafka.claims import Action, Claim, Claims, claim_record
from broker_mesh.kafka.fenced import FencedWriter
from broker_mesh.message import now_ms
from broker_mesh.replay.copies import Copy
from broker_mesh.replay.report import Refusal, Report
from broker_mesh.settings import Settings

_BATCH = 300
_BATCH_BYTES = 4 * 1024 * 1024

_WRITE_SECONDS = 30.0
_FIRST_BACKOFF_SECONDS = 0.1
_LONGEST_BACKOFF_SECONDS = 2.0
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Order:
    """What a job is to do.

    Args:
        action: replay, or drop.
        replay_id: of this replay.
        prepare: makes the copy of a dead letter, or None where nothing is put back; raises what speaks against it.
        needs_bodies: whether `prepare` wants letters decoded.
        batch: settle at most so many together.
        rate: at most so many a second; None for as fast as it goes.
        limit: settle at most so many; None for all.
        dry_run: settle none.
    """

    action: Action
    replay_id: str
    prepare: Callable[[DeadLetter], Copy | None]
    needs_bodies: bool = False
    batch: int | None = None
    rate: float | None = None
    limit: int | None = None
    dry_run: bool = False

    def settled(self, report: Report) -> int:
        """Tell how many a report counts as settled; in a dry run those that would be."""
        if self.dry_run:
            return report.selected - report.refused - report.taken_by_others
        return report.replayed + report.dropped

    def is_met(self, report: Report) -> bool:
        """Tell whether the limit is reached."""
        return self.limit is not None and self.settled(report) >= self.limit


class _Ready(NamedTuple):
    letter: DeadLetter
    copy: Copy | None


class Job:
    """Settles the dead letters of some partitions.

    Args:
        settings: with `bootstrap_servers` set.
        partitions: that can hold what is meant.
        reading: how they are read.
        order: what is to be done.
        client_id: how brokers name this client.

    Attributes:
        report: what came of it so far.
        settled_before: one that was meant and had been settled before, with the claim on it.
    """

    def __init__(
        self,
        settings: Settings,
        partitions: list[DeadPartition],
        reading: Reading,
        order: Order,
        *,
        client_id: str,
    ) -> None:
        self.settings = settings
        self.reading = reading
        self.order = order
        self.client_id = client_id
        self.claims = Claims(settings, topic_ids(partitions), client_id=client_id)
        self.began_at = 0  # claims from this position on are made while this job runs
        self.report = Report(order.replay_id)
        self.settled_before: tuple[DeadLetter, Claim] | None = None
        # Where each partition goes on: everything before is settled, or was looked at.
        self._positions = {partition: partition.first for partition in partitions}
        self._due = time.monotonic()

    def run(self, stop: threading.Event, progress: Progress) -> Report:
        """Do it.

        Args:
            stop: ends it early, between two batches.
            progress: told of each record that was looked at.

        Raises:
            Aborted: other replays of the same partitions were faster for two minutes.
            Unavailable: Kafka is away; what was settled stays so.
            MeshError: what else Kafka reports.
        """
        self.claims.read()
        self.began_at = self.claims.position
        waiting = deque(self._positions)
        backoff, beaten_since = _FIRST_BACKOFF_SECONDS, None
        while waiting and not stop.is_set() and not self.order.is_met(self.report):
            partition = waiting.popleft()
            before = self._positions[partition]
            try:
                _Turn(self, partition, before, stop).run(progress)
            except Aborted as error:
                # Rivals fence each other in turns: at random, one of them gets through. Others go first meanwhile,
                # unless what may have been settled here all the same counts towards a limit.
                if self.order.limit is None:
                    waiting.append(partition)
                else:
                    waiting.appendleft(partition)
                if self._positions[partition] > before:
                    backoff, beaten_since = _FIRST_BACKOFF_SECONDS, None
                # From the first time on that it was beaten: with a rate, or with edits, a turn may take any time.
                elif beaten_since is None:
                    beaten_since = time.monotonic()
                elif time.monotonic() - beaten_since > _PATIENCE_SECONDS:
                    raise Aborted(
                        f"other replays of {partition.source.topic} were faster for {_PATIENCE_SECONDS:g} s; "
                        "run it again once they are done"
                    ) from error
                stop.wait(random.uniform(0, backoff))  # noqa: S311 - nothing secret about it
                backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)
            except Unavailable as error:
                raise Unavailable(
                    f"{error.message}; {self.order.settled(self.report)} dead letters were {self.order.action} "
                    "before, and running it again goes on with the others",
                    details=error.details,
                ) from error
            else:
                beaten_since = None
        return self.report

    def advance(self, partition: DeadPartition, position: int, found: Report) -> None:
        """Note that a partition is done with up to an offset, and what was found there."""
        self._positions[partition] = position
        self.report = self.report.plus(found)

    def batch_limit(self, found: Report) -> int:
        """Tell how many may be settled together now, beside what was found settled by this replay already."""
        sizes = [self.order.batch or _BATCH]
        if self.order.rate is not None:
            sizes.append(max(1, math.floor(self.order.rate)))
        if self.order.limit is not None:
            sizes.append(self.order.limit - self.order.settled(self.report.plus(found)))
        return min(sizes)

    def wait_until_due(self, stop: threading.Event) -> None:
        """Wait as long as the rate demands before anything more is settled."""
        if self.order.rate is not None and not self.order.dry_run:
            stop.wait(max(0.0, self._due - time.monotonic()))

    def pace(self, count: int) -> None:
        """Note that so many are settled now."""
        if self.order.rate is not None:
            self._due = max(self._due, time.monotonic()) + count / self.order.rate


class _Turn:
    """One turn at a partition, from an offset until its end, or until a rival takes it over."""

    def __init__(self, job: Job, partition: DeadPartition, start: int, stop: threading.Event) -> None:
        self._job = job
        self._order = job.order
        self._partition = partition
        self._start = start
        self._stop = stop
        self._writer: FencedWriter | None = None
        self._found = Report(self._order.replay_id)  # what the batch adds to the report, once it is settled
        self._batch: list[_Ready] = []
        self._size = 0  # of its records, bytes

    def run(self, progress: Progress) -> None:
        try:
            with closing(
                self._job.reading.chunks({self._partition: self._start}, self._stop, progress)
            ) as chunks:
                for chunk in chunks:
                    for letter in self._job.reading.meant(chunk, decode=self._order.needs_bodies):
                        self._take(letter)
                        if self._is_complete():
                            self._settle_up_to(letter.place.offset + 1)
                        if self._stop.is_set() or self._order.is_met(self._job.report):
                            return
            self._settle_up_to(self._partition.end)
        finally:
            for ready in self._batch:  # what this turn did not settle; to end a span twice does nothing
                _end_span(ready, Aborted("another replay has put it back, or this one was ended"))
            self._close_writer()

    def _take(self, letter: DeadLetter) -> None:
        if self._is_claimed(letter):
            return
        if not self._batch:
            # Before the first is prepared, not before they are written: a deadline counts from then on.
            self._job.wait_until_due(self._stop)
            if self._stop.is_set():
                return
        try:
            copy = self._order.prepare(letter)
        except (InvalidArgument, NotFound) as error:
            self._found = self._found.with_refusal(Refusal(letter.place, error.message))
        else:
            self._batch.append(_Ready(letter, copy))
            self._size += size_of(letter.record)

    def _is_claimed(self, letter: DeadLetter) -> bool:
        """Tell whether a letter is settled, and count by whom."""
        claim = self._job.claims.of(self._partition.key, letter.place.offset)
        if claim is None:
            return False
        if (
            claim.replay_id == self._order.replay_id
        ):  # by this one, in a transaction whose end it was not told
            self._found = self._found.plus(_settled(self._order, 1))
        elif claim.position >= self._job.began_at:
            self._found = self._found.plus(Report("", selected=1, taken_by_others=1))
        else:
            self._found = self._found.plus(Report("", already_settled=1))
            self._job.settled_before = self._job.settled_before or (letter, claim)
        return True

    def _is_complete(self) -> bool:
        """Tell whether what was taken is to be settled now: a batch is full, or the limit reached."""
        return len(self._batch) >= self._job.batch_limit(self._found) or self._size >= _BATCH_BYTES

    def _settle_up_to(self, position: int) -> None:
        if self._stop.is_set():
            return
        if self._order.dry_run:
            self._found = self._found.plus(Report("", selected=len(self._batch)))
        elif self._batch:
            self._job.pace(len(self._batch))
            self._settle()
        self._job.advance(self._partition, position, self._found)
        self._found, self._batch, self._size = Report(self._order.replay_id), [], 0

    def _settle(self) -> None:
        groups = [self._batch]
        while groups:
            group = groups.pop(0)
            if self._writer is None:
                self._writer = self._open_writer()
            unclaimed = [ready for ready in group if not self._is_claimed(ready.letter)]
            if not unclaimed:
                continue
            try:
                self._commit(self._writer, unclaimed)
            except MessageTooLarge as error:
                # A producer can't go on after a refused batch, whose sequence numbers are missing then.
                self._close_writer()
                if len(unclaimed) == 1:
                    self._refuse(unclaimed[0], error)
                else:  # Kafka refuses them together: which of them it is comes out by halves
                    middle = len(unclaimed) // 2
                    groups[:0] = [unclaimed[:middle], unclaimed[middle:]]

    def _open_writer(self) -> FencedWriter:
        """Become the only one who settles this partition, and only then learn what is settled."""
        topic, number = self._partition.key
        writer = FencedWriter(
            self._job.settings,
            f"mesh.replay.{topic}.{number}",
            client_id=self._job.client_id,
            deadline=time.monotonic() + _WRITE_SECONDS,
        )
        try:
            self._job.claims.read_all()
        except BaseException:
            writer.close()
            raise
        return writer

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _commit(self, writer: FencedWriter, group: list[_Ready]) -> None:
        records = [ready.copy.record for ready in group if ready.copy is not None]
        target = records[0].topic if records else ""
        claim = Claim(self._order.action, self._order.replay_id, now_ms(), target)
        offsets = [ready.letter.place.offset for ready in group]
        claimed = claim_record(self._partition.key, self._partition.topic_id, offsets, claim)
        writer.commit([*records, claimed], deadline=time.monotonic() + _WRITE_SECONDS)
        self._found = self._found.plus(_settled(self._order, len(group)))
        for ready in group:
            _end_span(ready, None)

    def _refuse(self, ready: _Ready, error: MessageTooLarge) -> None:
        _end_span(ready, error)
        reason = f"with the headers of a replay it is too large: {error.message}"
        self._found = self._found.with_refusal(Refusal(ready.letter.place, reason))


def _settled(order: Order, count: int) -> Report:
    if order.action is Action.DROPPED:
        return Report("", selected=count, dropped=count)
    return Report("", selected=count, replayed=count)


def _end_span(ready: _Ready, error: MeshError | None) -> None:
    if ready.copy is not None:
        ready.copy.end_span(error)
