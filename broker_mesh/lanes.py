"""Lanes: records of one key run one after the other, those of different keys side by side.

On the way of a message: between `service.py`, which takes records, and the inbound pipeline. A record holds its lane
through all attempts that are made in place; while it waits for the next one it takes no handler's place.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from weakref import WeakValueDictionary

from broker_mesh.assignment import Assignment, Nap
from broker_mesh.circuit import CircuitState
from broker_mesh.endpoint import Endpoint
from broker_mesh.entry import SinglePlace
from broker_mesh.errors import InternalError, MeshError
from broker_mesh.guard import OutageGuard
from broker_mesh.layer import Step
from broker_mesh.message import Message, Record, now_ms, received
from broker_mesh.outcome import Outcome, RetryLater
from broker_mesh.parking import too_many
from broker_mesh.passage import Passage
from broker_mesh.settle import CarryOut, FencedError
from broker_mesh.turn import HandedBack, Places, Turn

logger = logging.getLogger(__name__)

_LONGEST_SLEEP_SECONDS = 30.0


class Lanes:
    """The lanes of all partitions of one service.

    Args:
        endpoints: by topic.
        concurrency: how many handlers may run at once.
        pipeline: the inbound pipeline, with settlement; returns when the outcome is durable.
        finished: told after each record that its assignment has one less in work.
        failed: told what the service can't go on with.
        certain: waits until what is assigned is certain to be.
        singly: gives the place of an attempt that has to run singly, for a block; None where it runs in any place.
        guard: lets attempts begin; in an outage one by one.
        rests: has a record wait outside of its lane for its next attempt, due at a time (epoch ms); False where it
            keeps its place.
        settle: carries an outcome out without the pipeline, of a record that has been through it.
        may_park: tells whether a message that waits in its place could wait in the retry topic instead.
        in_line: tells whether a record goes behind others of its key that are parked, which they stay for a block.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        concurrency: int,
        pipeline: Step[Outcome],
        finished: Callable[[Assignment], None],
        failed: Callable[[MeshError], None],
        certain: Callable[[], Awaitable[None]],
        singly: Callable[[Assignment, Message, Places], AbstractContextManager[SinglePlace | None]],
        guard: OutageGuard,
        rests: Callable[[Assignment, Record, int], bool],
        settle: CarryOut,
        may_park: Callable[[Message], bool],
        in_line: Callable[[Record], AbstractContextManager[bool]],
    ) -> None:
        self._endpoints = endpoints
        self._places = asyncio.Semaphore(concurrency)
        self._pipeline = pipeline
        self._finished = finished
        self._failed = failed
        self._certain = certain
        self._singly = singly
        self._guard = guard
        self._rests = rests
        self._settle = settle
        self._may_park = may_park
        self._in_line = in_line
        # A key's first deliveries and its replays come from two partitions, each with lanes of its own.
        self._keys: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    @property
    def busy(self) -> bool:
        """Whether as many handlers run as may."""
        return self._places.locked()

    def put(self, assignment: Assignment, record: Record) -> None:
        """Put a record into its lane, and start the lane if it was empty."""
        key, lane_key = self._lane_of(record)
        lane = assignment.lanes.get(lane_key)
        if lane is not None:
            lane.append(record)
            return
        assignment.lanes[lane_key] = deque([record])
        task = asyncio.create_task(self._run(assignment, lane_key, self._key_turn(key)))
        assignment.tasks.add(task)
        task.add_done_callback(assignment.tasks.discard)

    def make_room(self, assignments: Iterable[Assignment], lacks_room: Callable[[str, int], bool]) -> None:
        """Have records that wait in their place, and fill a window, wait in the retry topic instead.

        Args:
            assignments: of all partitions.
            lacks_room: tells whether a topic of which so many records wait takes no more of them, or soon won't.
        """
        by_topic: dict[str, list[Assignment]] = {}
        for assignment in assignments:
            if assignment.in_flight:
                by_topic.setdefault(assignment.partition[0], []).append(assignment)
        for topic, of_topic in by_topic.items():
            naps = [(assignment, key, nap) for assignment in of_topic for key, nap in assignment.naps.items()]
            if not lacks_room(topic, sum(len(assignment.lanes[key]) for assignment, key, _ in naps)):
                continue
            held = {
                (assignment, key): len(assignment.lanes[key])
                for assignment, key, nap in naps
                if self._may_leave(nap)
            }
            for assignment, key in too_many(held, sum(each.in_flight for each in of_topic)):
                assignment.naps[key].called.set()

    def _may_leave(self, nap: Nap) -> bool:
        # What the mesh itself can't check waits here: the next one could not be checked either. In an outage what was
        # probed leaves a full window, one for each probe, or what would succeed behind it were never taken.
        is_probe = self._guard.state(nap.message.operation) is not CircuitState.CLOSED
        return (nap.outcome.counts or is_probe) and self._may_park(nap.message)

    def _lane_of(self, record: Record) -> tuple[Hashable | None, Hashable]:
        """Give the key that a record has to wait for, where it has one, and the lane that it stands in."""
        key = self._endpoints[record.topic].lane_of(record)
        return key, record.offset if key is None else key

    def _key_turn(self, key: Hashable | None) -> AbstractAsyncContextManager[object]:
        if key is None:
            return nullcontext()
        lock = self._keys.get(key)
        if lock is None:
            lock = self._keys[key] = asyncio.Lock()
        return lock

    async def _run(
        self, assignment: Assignment, lane_key: Hashable, key_turn: AbstractAsyncContextManager[object]
    ) -> None:
        lane = assignment.lanes[lane_key]
        topic, number = assignment.partition
        try:
            while lane and not assignment.draining.is_set():
                # What only goes to stand in line need not wait for a handler that has its key's turn.
                with self._in_line(lane[0]) as in_line:
                    async with nullcontext() if in_line else key_turn:
                        if assignment.draining.is_set():
                            return
                        leaves = await self._handle(assignment, lane[0], in_line=in_line)
                if leaves:
                    lane.popleft()
                    self._finished(assignment)
        except HandedBack:
            logger.debug("a record of %s/%d is handed back before its next attempt", topic, number)
        except FencedError:
            logger.info("a late completion on %s/%d is discarded: the partition has moved", topic, number)
        except MeshError as error:
            self._failed(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._failed(InternalError(f"work on a record of {topic}/{number} was cancelled inside the mesh"))
        except Exception as error:
            # A bug of the mesh must stop the service, not hang one lane.
            logger.exception("handling a record of %s/%d failed inside the mesh", topic, number)
            stopped = InternalError(f"{type(error).__name__} inside the mesh: {error}")
            stopped.__cause__ = error
            self._failed(stopped)
        finally:
            assignment.lanes.pop(lane_key, None)

    async def _handle(self, assignment: Assignment, record: Record, *, in_line: bool) -> bool:
        """See one record through its attempts, until it is settled or parked; its lane waits meanwhile.

        Args:
            assignment: of its partition.
            record: the first of its lane.
            in_line: whether it only goes to stand in line.

        Returns:
            Whether it leaves its lane; one that can't be put in line now is looked at anew.

        Raises:
            HandedBack: its partition is given up before an attempt.
        """
        message = received(record, self._endpoints[record.topic].name, assignment.epoch)
        message = assignment.continued(message)
        passage = assignment.passages.pop(record.offset, None)
        passage = passage or Passage(assignment.draining, assignment.waits)
        while True:
            async with self._guard.admitted(passage, message) as message:
                attempted = await self._attempt(assignment, message, passage)
            if attempted is None:
                continue  # an outage has begun while it waited for its place
            outcome, left_behind = attempted
            if not isinstance(outcome, RetryLater):
                break
            tell_of_retry(message, outcome)
            if outcome.parked:
                break
            await _until_returned(left_behind)
            if in_line:
                await _sleep_until(outcome.at, assignment.draining)
                return False
            failed, message = message, for_next_attempt(message, outcome)
            assignment.waits(message)
            if self._rests(assignment, record, outcome.at):
                assignment.passages[record.offset] = passage
                return True
            if await self._leaves(assignment, record, Nap(failed, outcome, asyncio.Event())):
                break
        assignment.done(record.offset)
        # The record is settled and its offset free; its key alone waits until a plain function has returned.
        await _until_returned(left_behind)
        return True

    async def _leaves(self, assignment: Assignment, record: Record, nap: Nap) -> bool:
        """Wait for the next attempt in place; tell whether the record was parked instead, to make room for others."""
        _, lane_key = self._lane_of(record)
        assignment.naps[lane_key] = nap
        try:
            await _sleep_until(nap.outcome.at, assignment.draining, nap.called)
        finally:
            del assignment.naps[lane_key]
        if not nap.called.is_set() or assignment.draining.is_set():
            return False
        became = await self._settle(nap.message, nap.outcome._replace(parked=True))
        if isinstance(became, RetryLater) and became.parked:
            return True
        await _sleep_until(nap.outcome.at, assignment.draining)
        return False

    async def _attempt(
        self, assignment: Assignment, message: Message, passage: Passage
    ) -> tuple[Outcome, Sequence[asyncio.Future[None]]] | None:
        with self._singly(assignment, message, self._places) as single:
            async with Turn(single or self._places, assignment.draining) as turn:
                await self._certain()
                turn.begin()  # it may have waited long for its time, or for a place
                if self._guard.is_overtaken(passage, message):
                    return None
                assignment.turns.add(turn)
                try:
                    outcome = await self._pipeline(message)
                finally:
                    assignment.turns.discard(turn)
        return outcome, turn.left_behind


def tell_of_retry(message: Message, outcome: RetryLater) -> None:
    """Log that an attempt failed, and when the next one is due."""
    logger.warning(
        "%s %s: attempt %d failed: %.2000s; next attempt in %.1f s",
        message.operation,
        message.envelope.id,
        message.envelope.attempt,
        outcome.error,
        max(0, outcome.at - now_ms()) / 1000,
    )


def for_next_attempt(message: Message, outcome: RetryLater) -> Message:
    """Give a message as it is for the next attempt in place."""
    failed_at = now_ms()
    if not outcome.counts:
        return message.with_envelope(last_failure=failed_at)
    envelope = message.envelope
    return message.with_envelope(
        attempt=envelope.attempt + 1,
        first_failure=envelope.first_failure or failed_at,
        last_failure=failed_at,
    )


async def _until_returned(left_behind: Sequence[asyncio.Future[None]]) -> None:
    """Wait for plain functions that were given up: they can't be stopped, and must not run beside their successors."""
    if left_behind:
        await asyncio.wait(left_behind)


async def _sleep_until(at: int, *interrupted: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(each.wait()) for each in interrupted]
    try:
        while (delay := (at - now_ms()) / 1000) > 0 and not any(each.is_set() for each in interrupted):
            # Asked again now and then: due times are of the wall clock, which may be set.
            await asyncio.wait(
                waits, timeout=min(delay, _LONGEST_SLEEP_SECONDS), return_when=asyncio.FIRST_COMPLETED
            )
    finally:
        for each in waits:
            each.cancel()
