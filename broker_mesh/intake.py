"""What one wrapped consumer has taken and not settled: order by key, attempts, what may be committed.

On the way of a message: in place of `service.py` and `lanes.py`, for programs that poll. The adapter gives it the
records of its client (`take`), and gives the program what comes out of it (`next`): records that have passed all
checks, in order, each as a `Delivery`. No thread of its own: checks run where the program polls, and what must wait
for Kafka (a dead letter, a reply) is done by the mesh's event loop meanwhile.

States of a record::

    queued ── next() ──▶ checked ──▶ handed over ── program settles ──▶ settling ──▶ settled: its offset may go
      ▲                     │  refused: a dead letter, or dropped ──────────▲            │
      └── not due yet ◀─────┴── can't be checked now ────────────── retry in place ◀────┘

A lane is blocked while its first record is held by the program, waits for a check or for its next attempt, and from
the moment the program says anything but "done" of it; later records of the lane stay queued behind it. What the
program was handed and has said nothing of blocks nothing: it is done when the program polls on.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping
from typing import Any

from broker_mesh.attempts import Attempt, Attempts
from broker_mesh.delivery import Delivery, State, Tools
from broker_mesh.early import Early
from broker_mesh.errors import FailedPrecondition
from broker_mesh.holding import Holding
from broker_mesh.kafka.positions import Partition
from broker_mesh.layer import Step
from broker_mesh.layers.retry import due_time
from broker_mesh.message import Message, Record, now_ms, received, was_put_back
from broker_mesh.outcome import Outcome
from broker_mesh.queueing import Taken
from broker_mesh.stepping import Background

_LOOK_AGAIN_SECONDS = 0.01


class Intake:
    """The records of one wrapped consumer.

    `take`, `next`, `conclude` and all that tells of partitions are called by the one thread (or event loop) that polls;
    deliveries are settled from any.

    Args:
        steps: the inbound pipeline for wrapped clients; it hands over what has passed all checks.
        background: the mesh's event loop.
        operation_of: tells the topic that the program subscribed to, of a record's: itself, or that of a retry topic.
        lane_of: tells the lane of a record: those of one lane are handed over one after the other; None for none.
        is_mine: tells whether a message is for this consumer's group.
        put_back: writes a record of a retry topic that is not due to the end of it.
        tools: what deliveries need of the mesh.
        limit: how many records of a partition may be taken and not settled, beside what the program was handed last.
        longest_kept_ms: how old a record may grow in a retry topic before it is written anew.
        woken: called, from any thread and perhaps under a lock, when `next` may have something that it did not have
            before; it must not wait. None where the adapter looks again by itself, as `next_in` says.
    """

    def __init__(
        self,
        steps: Step[Outcome],
        background: Background,
        *,
        operation_of: Callable[[str], str],
        lane_of: Callable[[str, Record], Hashable],
        is_mine: Callable[[Message], bool],
        put_back: Callable[[Message], Awaitable[None]],
        tools: Tools,
        limit: int,
        longest_kept_ms: int,
        woken: Callable[[], None] | None = None,
    ) -> None:
        self._operation_of = operation_of
        self._lane_of = lane_of
        self._is_mine = is_mine
        self._limit = limit
        self._looks_again = woken is None
        self._epochs = itertools.count(1)
        self._numbers = itertools.count()
        self._work = Attempts(steps, background, tools, woken)
        self._early = Early(
            background,
            put_back,
            self._work.lock,
            moved=self._moved,
            failed=self._work.stop,
            most_beyond=limit,
            longest_kept_ms=longest_kept_ms,
        )
        self._in_hand: list[Attempt] = []  # what the program was given last

    # ── partitions ────────────────────────────────────────────────────────────────────────────────────────

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """Take over partitions; also after a seek, which begins a partition anew and leaves it paused if it was."""
        work = self._work
        partitions = list(partitions)
        paused = [key for key in partitions if key in work.holdings and work.queue.is_paused(key)]
        self.ended(partitions)
        with work.lock:
            work.queue.pause(paused)
            for partition in partitions:
                work.holdings[partition] = Holding(partition, next(self._epochs))

    def ended(self, partitions: Iterable[Partition]) -> None:
        """Drop everything of partitions that are revoked, lost or sought anew; settling it is refused from now on."""
        with self._work.lock:
            gone = {key for key in partitions if key in self._work.holdings}
            for key in gone:
                self._early.drop(self._work.holdings[key])
            self._in_hand = [each for each in self._in_hand if each.taken.partition not in gone]
        if gone:
            self._work.drop(gone)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Hand over nothing more of partitions, until they are resumed or given up."""
        with self._work.lock:
            self._work.queue.pause(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Hand over records of partitions again."""
        with self._work.lock:
            self._work.queue.resume(partitions)

    @property
    def full(self) -> set[Partition]:
        """The partitions of which no more records should be taken now: the adapter pauses its client on them."""
        with self._work.lock:
            if self._work.pending <= len(self._in_hand):
                return set()
            in_hand = Counter(each.taken.partition for each in self._in_hand if each.is_silent)
            return {
                key
                for key, holding in self._work.holdings.items()
                if holding.unfinished(in_hand[key]) >= self._limit
                or (self._early.full and self._operation_of(key[0]) != key[0])
            }

    def is_current(self, message: Message) -> bool:
        """Tell whether a message's partition is still assigned as it was when the message was taken."""
        holding = self._work.holdings.get((message.topic, message.partition))
        return holding is not None and holding.epoch == message.epoch

    # ── records in, deliveries out ────────────────────────────────────────────────────────────────────────

    def take(self, record: Record, source: Any) -> None:
        """Take a record that the client has delivered.

        Args:
            record: as Kafka has it.
            source: the client's own message; given back with the delivery.
        """
        work = self._work
        with work.lock:
            holding = work.holdings.get((record.topic, record.partition))
            if holding is None or not holding.take(record):
                return  # revoked meanwhile: it comes to its new owner; or delivered twice
            work.pending += 1
            operation = self._operation_of(record.topic)
            lane = self._lane_of(operation, record)
            taken = Taken(next(self._numbers), record, source, operation, lane, holding.epoch)
            is_retry = operation != record.topic
            if not (is_retry or was_put_back(record)):
                work.queue.put(taken)
                return
            message = received(record, operation)
            due = due_time(message.envelope.retry_at, written=record.timestamp) if is_retry else None
            if not self._is_mine(message):
                work.done(holding, record.offset)
            elif due is None or due <= now_ms():
                work.queue.put(taken)
            else:
                self._early.add(holding, taken, due)

    def next(self, exclude: Collection[Hashable] = ()) -> Delivery | None:
        """Give the next message for the program; None while there is none.

        Args:
            exclude: lanes of which nothing may be given now: a batch has no two records of one lane.

        Raises:
            MeshError: the mesh can't go on: an outcome could not be made durable, and never will.
        """
        work = self._work
        with work.lock:
            work.is_polled = True
            try:
                self._early.relieve(work.holdings.values())
                while True:
                    if work.failure is not None:
                        raise work.failure
                    if (attempt := self._pop_handed(exclude)) is not None:
                        return self._give(attempt)
                    self._queue_due()
                    if (taken := work.queue.next(exclude)) is None:
                        return None
                    work.start(taken)
            finally:
                work.is_polled = False

    def next_in(self) -> float | None:
        """Tell for how many seconds at most the adapter may wait for its client before it asks `next` again."""
        work = self._work
        with work.lock:
            # What is handed over and paused does not come before it is resumed: that must not keep anybody asking.
            comes = any(not work.queue.is_paused(each.taken.partition) for each in work.handed)
            if comes or work.queue or work.failure is not None:
                return 0.0
            due = [at for at in (work.next_due, self._early.next_due) if at is not None]
            waits = [max(0.0, (min(due) - now_ms()) / 1000)] if due else []
            # What another thread settles, or the mesh's loop checks, may be followed by something at any time.
            if self._looks_again and (work.checking or any(each.open for each in work.holdings.values())):
                waits.append(_LOOK_AGAIN_SECONDS)
            return min(waits, default=None)

    def conclude(self, only: Collection[Delivery] | None = None) -> None:
        """Settle as done what the program was given and has neither settled nor held: it polls on.

        Args:
            only: these alone, where other tasks of the program have others; None for all.
        """
        in_hand, self._in_hand = self._in_hand, []
        for attempt in in_hand:
            if (delivery := attempt.delivery) is None:
                continue
            if only is None or delivery in only:
                delivery.conclude()
            else:
                self._in_hand.append(attempt)

    def _pop_handed(self, exclude: Collection[Hashable]) -> Attempt | None:
        work = self._work
        for index, attempt in enumerate(work.handed):
            taken = attempt.taken
            if not (
                work.queue.is_paused(taken.partition) or (taken.lane is not None and taken.lane in exclude)
            ):
                del work.handed[index]
                return attempt
        return None

    def _give(self, attempt: Attempt) -> Delivery:
        taken, delivery = attempt.taken, attempt.delivery
        assert delivery is not None  # handed over, and not over
        self._work.holdings[taken.partition].give(taken.record.offset)
        self._in_hand.append(attempt)
        # A check may have blocked its lane until now; earlier attempts go on blocking it.
        if delivery.state is State.HANDED and taken.again is None:
            self._work.queue.free(taken)
        return delivery

    def _queue_due(self) -> None:
        self._work.queue_due()
        while (taken := self._early.pop_due()) is not None:
            self._work.queue.put(taken)

    def _moved(self, holding: Holding[Any], offset: int) -> None:
        self._work.done(holding, offset)
        self._work.changed.notify_all()

    # ── offsets ───────────────────────────────────────────────────────────────────────────────────────────

    def positions(self) -> dict[Partition, int]:
        """Tell of each partition one above the last offset that the program was given, where it was given any."""
        with self._work.lock:
            return {key: each.given for key, each in self._work.holdings.items() if each.given is not None}

    def reached(self) -> dict[Partition, int]:
        """Tell how far the program has come by what it was given, for a transaction that commits it.

        As `positions`, but never beyond what the program does not have in hand and is not settled: what waits for its
        next attempt or for a check, and what the program holds.
        """
        with self._work.lock:
            reached = {}
            for key, holding in self._work.holdings.items():
                if holding.given is not None:
                    in_hand = {at for at, attempt in holding.open.items() if attempt.is_silent}
                    first = holding.tracker.first_open(in_hand)
                    reached[key] = holding.given if first is None else min(holding.given, first)
            return reached

    def committable(self) -> dict[Partition, int]:
        """Give what may be committed and was not given here before: of each partition the end of its settled prefix."""
        with self._work.lock:
            ends = {key: holding.committable() for key, holding in self._work.holdings.items()}
            return {key: end for key, end in ends.items() if end is not None}

    def settle_up_to(self, wanted: Mapping[Partition, int]) -> dict[Partition, int]:
        """Settle as done, on the program's word, what it was given below some offsets; tell what may be committed.

        Args:
            wanted: of each partition the offset that the program wants to commit.

        Returns:
            Of each partition that is assigned that offset, or the end of the settled prefix where that is lower: what
            the mesh itself still works on (a retry, a dead letter that is being written), or has not given to the
            program, is never passed.

        Raises:
            FailedPrecondition: the program itself holds a message below, and says two things at once; then nothing is
                settled.
        """
        work = self._work
        with work.lock:
            not_given = {id(attempt) for attempt in work.handed}
            below = [
                delivery
                for key, offset in wanted.items()
                if (holding := work.holdings.get(key)) is not None
                for at, attempt in holding.open.items()
                if at < offset and id(attempt) not in not_given and (delivery := attempt.delivery) is not None
            ]
            for delivery in below:
                if delivery.state is State.HELD:
                    raise FailedPrecondition(_refusal(delivery, wanted))
        for delivery in below:
            delivery.conclude()
        with work.lock:
            held = work.holdings
            return {key: held[key].allowed(offset) for key, offset in wanted.items() if key in held}

    def wait_settled(self, partitions: Collection[Partition], timeout: float) -> bool:
        """Wait until no outcome of some partitions is being made durable, before they are given up.

        Args:
            partitions: which.
            timeout: seconds.

        Returns:
            Whether that came within the time.
        """
        until = time.monotonic() + timeout
        work = self._work
        with work.lock:
            while True:
                held = [holding for key, holding in work.holdings.items() if key in partitions]
                self._early.leave(held)
                if not any(holding.is_settling for holding in held):
                    return True
                rest = until - time.monotonic()
                if rest <= 0:
                    return False
                work.changed.wait(rest)


def _refusal(delivery: Delivery, wanted: Mapping[Partition, int]) -> str:
    topic, number, at = delivery.record.topic, delivery.record.partition, delivery.record.offset
    why = (
        "its caller waits for a reply: call its reply(…), retry() or dead_letter(…)"
        if delivery.message.expects_reply
        else "leave its settling() block, or call its retry() or dead_letter(…)"
    )
    return (
        f"{topic}/{number}: offset {wanted[topic, number]} can't be committed: the message at {at} is not settled; "
        f"{why}, or commit up to {at}"
    )
