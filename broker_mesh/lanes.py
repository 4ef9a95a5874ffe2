"""Lanes: records of one key run one after the other, those of different keys side by side.

On the way of a message: between `service.py`, which takes records, and the inbound pipeline. A record holds its lane
through all attempts that are made in place; while it waits for the next one it takes no handler's place.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from weakref import WeakValueDictionary

from broker_mesh.assignment import Assignment
from broker_mesh.endpoint import Endpoint
from broker_mesh.errors import InternalError, MeshError
from broker_mesh.layer import Step
from broker_mesh.message import Message, Record, now_ms, received
from broker_mesh.outcome import Outcome, RetryLater
from broker_mesh.settle import FencedError
from broker_mesh.turn import HandedBack, Turn

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
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        concurrency: int,
        pipeline: Step[Outcome],
        finished: Callable[[Assignment], None],
        failed: Callable[[MeshError], None],
    ) -> None:
        self._endpoints = endpoints
        self._places = asyncio.Semaphore(concurrency)
        self._pipeline = pipeline
        self._finished = finished
        self._failed = failed
        # A key's first deliveries and its replays come from two partitions, each with lanes of its own.
        self._keys: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    def put(self, assignment: Assignment, record: Record) -> None:
        """Put a record into its lane, and start the lane if it was empty."""
        key = self._endpoints[record.topic].lane_of(record)
        lane_key: Hashable = record.offset if key is None else key
        lane = assignment.lanes.get(lane_key)
        if lane is not None:
            lane.append(record)
            return
        assignment.lanes[lane_key] = deque([record])
        task = asyncio.create_task(self._run(assignment, lane_key, self._key_turn(key)))
        assignment.tasks.add(task)
        task.add_done_callback(assignment.tasks.discard)

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
                async with key_turn:
                    if assignment.draining.is_set():
                        return
                    await self._handle(assignment, lane.popleft())
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

    async def _handle(self, assignment: Assignment, record: Record) -> None:
        """See one record through its attempts, until it is settled or parked; its lane waits meanwhile.

        Raises:
            HandedBack: its partition is given up before an attempt.
        """
        message = received(record, self._endpoints[record.topic].name, assignment.epoch)
        while True:
            outcome, left_behind = await self._attempt(assignment, message)
            if not isinstance(outcome, RetryLater):
                break
            tell_of_retry(message, outcome)
            if outcome.parked:
                break
            await _until_returned(left_behind)
            message = for_next_attempt(message, outcome)
            await _sleep_until(outcome.at, assignment.draining)
        assignment.done(record.offset)
        # The record is settled and its offset free; its key alone waits until a plain function has returned.
        await _until_returned(left_behind)

    async def _attempt(
        self, assignment: Assignment, message: Message
    ) -> tuple[Outcome, Sequence[asyncio.Future[None]]]:
        async with Turn(self._places, assignment.draining) as turn:
            turn.begin()  # it may have waited long for its time, or for a place
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


async def _sleep_until(at: int, interrupted: asyncio.Event) -> None:
    while (delay := (at - now_ms()) / 1000) > 0 and not interrupted.is_set():
        with suppress(TimeoutError):
            # Asked again now and then: due times are of the wall clock, which may be set.
            async with asyncio.timeout(min(delay, _LONGEST_SLEEP_SECONDS)):
                await interrupted.wait()
