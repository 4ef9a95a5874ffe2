"""The service side: takes records, runs handlers in order per key, lets offsets go when they are settled.

On the way of a message: between the consumer and the inbound pipeline. Records of one key wait in one lane and
run one after the other; lanes of different keys run side by side, up to `concurrency` handlers at once. All of
this lives on the event loop; only `GroupConsumer`'s thread touches Kafka's consumer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from broker_mesh import naming
from broker_mesh.errors import InternalError, MeshError
from broker_mesh.kafka.consumer import NOTHING_COMMITTED, GroupConsumer, Partition, Position, Positions
from broker_mesh.kafka.offsets import OffsetTracker
from broker_mesh.layer import Step
from broker_mesh.layers.retry import Retry
from broker_mesh.layers.validate import Decoder
from broker_mesh.message import Message, Record, now_ms, received
from broker_mesh.outcome import Outcome, RetryLater
from broker_mesh.settings import Settings
from broker_mesh.settle import FencedError
from broker_mesh.turn import Turn

logger = logging.getLogger(__name__)

Ordering: TypeAlias = Literal["key", "partition", "none"]

_COMMIT_INTERVAL_SECONDS = 0.2
_RENEWAL_SECONDS = 3600.0
_REVOKE_BUDGET_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One thing that a service handles: an operation, or an event it subscribes to.

    Args:
        name: the operation or event, which is the topic too.
        stem: what the retry and dead-letter topics are named after.
        decoder: for requests or events.
        ordering: which records wait for each other.
        retry: what follows a failed attempt.
    """

    name: str
    stem: str
    decoder: Decoder
    ordering: Ordering
    retry: Retry

    @property
    def topics(self) -> tuple[str, str]:
        """What its records come from: first deliveries, and what waits for another attempt or was replayed."""
        return self.name, naming.retry_topic(self.stem)


class _Assignment:
    """One partition, from its assignment to its revocation; the epoch tells it from earlier ones."""

    def __init__(self, start: Position) -> None:
        self.epoch = start.epoch
        self.tracker = OffsetTracker(max(start.offset, 0))
        self.lanes: dict[Hashable, deque[Record]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.turns: set[Turn] = set()
        self.draining = asyncio.Event()  # start nothing more
        self.in_flight = 0  # what the consumer counts as taken and not finished
        self.moved = False  # the position has grown since it was last committed
        self.committable = (
            start.offset != NOTHING_COMMITTED
        )  # else there is nothing to say before it has grown

    def end(self) -> int:
        """Fence everything that is still in work; tell how many records that is."""
        self.draining.set()
        for turn in self.turns:
            turn.fenced = True
        for task in self.tasks:
            task.cancel()
        given_back, self.in_flight = self.in_flight, 0
        return given_back


class Service:
    """The handling side of a mesh, a `GroupListener`.

    Args:
        settings: with limits and the grace period.
        endpoints: what is handled.
        make_pipeline: makes the inbound pipeline, given the check that tells a current message.
        on_committed: called with partitions on which the group has committed, once for each.
    """

    def __init__(
        self,
        settings: Settings,
        endpoints: Iterable[Endpoint],
        make_pipeline: Callable[[Callable[[Message], bool]], Step[Outcome]],
        on_committed: Callable[[Collection[Partition]], None],
    ) -> None:
        self._settings = settings
        by_topic = {topic: endpoint for endpoint in endpoints for topic in endpoint.topics}
        self._endpoints: Mapping[str, Endpoint] = by_topic
        self._pipeline = make_pipeline(self.is_current)
        self._on_committed = on_committed
        self._places = asyncio.Semaphore(settings.concurrency)
        self._held: set[Partition] = set()
        self._assignments: dict[Partition, _Assignment] = {}
        self._stopping = False
        self._joined = asyncio.Event()
        self._consumer: GroupConsumer | None = None
        self._committer: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def topics(self) -> list[str]:
        """The operations and events that the service handles."""
        return list(dict.fromkeys(endpoint.name for endpoint in self._endpoints.values()))

    @property
    def partitions(self) -> int:
        """How many partitions of what the service handles are assigned now; their retries come with them."""
        return sum(topic == self._endpoints[topic].name for topic, _ in self._assignments)

    @property
    def in_flight(self) -> int:
        """How many records are taken and not settled."""
        return sum(assignment.tracker.pending for assignment in self._assignments.values())

    @property
    def has_joined(self) -> bool:
        """Whether this instance has joined its group, with or without partitions."""
        return self._joined.is_set()

    async def joined(self) -> None:
        """Wait until this instance has joined its group, with or without partitions."""
        await self._joined.wait()

    def start(self, consumer: GroupConsumer) -> None:
        """Begin to take records from a consumer, which was made with this service as its listener."""
        self._consumer = consumer
        self._committer = asyncio.create_task(self._commit_regularly(), name="mesh-committer")
        consumer.start()

    async def failure(self) -> None:
        """Wait until the service can't go on, and raise why; ends only so or by cancellation."""
        await asyncio.shield(self._failure)

    async def stop(self) -> None:
        """Take nothing more, let handlers finish within the grace period, commit, leave the group.

        What is not finished by then is handed back: it is not committed, and comes again elsewhere.
        """
        if self._consumer is None:
            return
        self._stopping = True
        self._consumer.stop_delivering()
        in_work = self.in_flight
        if in_work:
            logger.info("stopping: up to %g s for what is in work", self._settings.grace_seconds)
        positions: Positions = {}
        try:
            positions = await self._drain(list(self._assignments), self._settings.grace_seconds)
        finally:
            # Also when the wait was cut short: a member that is left behind would keep its partitions from others.
            self.lost(list(self._assignments))
            if self._committer is not None:
                self._committer.cancel()
            await self._consumer.close(positions, timeout=10.0)

    def is_current(self, message: Message) -> bool:
        """Tell whether a message's partition is still assigned as it was when the message was taken."""
        assignment = self._assignments.get((message.topic, message.partition))
        return assignment is not None and assignment.epoch == message.epoch

    # ── GroupListener ─────────────────────────────────────────────────────────────────────────────────────

    def assigned(self, positions: Positions) -> None:
        """Take over partitions."""
        self._joined.set()
        for partition, position in positions.items():
            self._assignments[partition] = _Assignment(position)
            if self._stopping:
                self._assignments[partition].draining.set()

    def received(self, batch: Sequence[Record]) -> None:
        """Put records into their lanes, and start the lanes that were empty."""
        for record in batch:
            partition = record.topic, record.partition
            assignment = self._assignments.get(partition)
            if assignment is None or assignment.draining.is_set():
                self._give_back(record.topic, 1)
                continue
            try:
                assignment.tracker.take(record.offset)
            except ValueError:
                self._give_back(record.topic, 1)  # delivered twice within one assignment: in work, or done
                continue
            assignment.in_flight += 1
            lane_key = self._lane_key(record)
            lane = assignment.lanes.get(lane_key)
            if lane is not None:
                lane.append(record)
                continue
            assignment.lanes[lane_key] = deque([record])
            task = asyncio.create_task(self._run_lane(partition, assignment, lane_key))
            assignment.tasks.add(task)
            task.add_done_callback(assignment.tasks.discard)
        self._hold_back()

    async def drain(self, partitions: Sequence[Partition]) -> Positions:
        """Finish what is being handled before a rebalance takes the partitions away."""
        return await self._drain(partitions, _REVOKE_BUDGET_SECONDS)

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Drop everything of partitions that another member may own already."""
        for partition in partitions:
            assignment = self._assignments.pop(partition, None)
            if assignment is not None:
                self._give_back(partition[0], assignment.end())
        self._hold_back()

    def committed(self, partitions: Collection[Partition]) -> None:
        """Pass on that the group has committed."""
        self._on_committed(partitions)

    def failed(self, error: MeshError) -> None:
        """Make `failure` raise, and begin nothing more: what waits behind a record that failed must not pass it."""
        self._stopping = True
        for assignment in self._assignments.values():
            assignment.draining.set()
        if not self._failure.done():
            logger.error("the service can't go on: %s", error)
            self._failure.set_exception(error)
            self._failure.exception()  # marks it as retrieved: a stop may come before anyone waits

    # ── lanes ─────────────────────────────────────────────────────────────────────────────────────────────

    def _lane_key(self, record: Record) -> Hashable:
        match self._endpoints[record.topic].ordering:
            case "partition":
                return record.topic
            case "key" if record.key is not None:
                return record.key
            case _:
                return record.offset

    async def _run_lane(self, partition: Partition, assignment: _Assignment, lane_key: Hashable) -> None:
        lane = assignment.lanes[lane_key]
        try:
            while lane and not assignment.draining.is_set():
                record = lane.popleft()
                await self._handle(assignment, record)
                if assignment.in_flight:  # else ended meanwhile, and given back as a whole
                    assignment.in_flight -= 1
                    self._give_back(partition[0], 1)
                if partition in self._held:
                    self._hold_back()
        except FencedError:
            logger.info("a late completion on %s/%d is discarded: the partition has moved", *partition)
        except MeshError as error:
            self.failed(error)
        except Exception as error:
            # A bug of the mesh must stop the service, not hang one lane.
            logger.exception("handling a record of %s/%d failed inside the mesh", *partition)
            stopped = InternalError(f"{type(error).__name__} inside the mesh: {error}")
            stopped.__cause__ = error
            self.failed(stopped)
        finally:
            assignment.lanes.pop(lane_key, None)

    async def _handle(self, assignment: _Assignment, record: Record) -> None:
        """See one record through all its attempts; its successors in the lane wait meanwhile."""
        message = received(record, self._endpoints[record.topic].name, assignment.epoch)
        while True:
            outcome, left_behind = await self._attempt(assignment, message)
            if not isinstance(outcome, RetryLater):
                break
            await _until_returned(left_behind)
            message = _next_attempt(message, outcome)
            logger.warning(
                "%s %s: attempt %d failed: %s; next attempt in %.1f s",
                message.operation,
                message.envelope.id,
                message.envelope.attempt - outcome.counts,
                outcome.error,
                max(0, outcome.at - now_ms()) / 1000,
            )
            await _sleep_until(outcome.at, assignment.draining)
            if assignment.draining.is_set():
                raise FencedError
        if assignment.tracker.done(record.offset):
            assignment.moved = assignment.committable = True
        # The record is settled and its offset free; its key alone waits until a plain function has returned.
        await _until_returned(left_behind)

    async def _attempt(
        self, assignment: _Assignment, message: Message
    ) -> tuple[Outcome, Sequence[asyncio.Future[None]]]:
        async with Turn(self._places) as turn:
            assignment.turns.add(turn)
            try:
                outcome = await self._pipeline(message)
            finally:
                assignment.turns.discard(turn)
        return outcome, turn.left_behind

    def _give_back(self, topic: str, count: int) -> None:
        if count and self._consumer is not None:
            self._consumer.finished(topic, count)

    def _hold_back(self) -> None:
        """Stop taking from partitions where one record holds back the position of many that are done.

        Done records beyond the position are run again after a crash: their number is bounded like that in flight.
        """
        held = set()
        for partition, assignment in self._assignments.items():
            limit = self._settings.max_in_flight
            if assignment.tracker.beyond >= (limit // 2 if partition in self._held else limit):
                held.add(partition)
        if held != self._held and self._consumer is not None:
            for topic, number in held - self._held:
                logger.warning(
                    "%s/%d rests: %d records are done behind one that is not",
                    topic,
                    number,
                    self._settings.max_in_flight,
                )
            self._held = held
            self._consumer.hold(held)

    # ── offsets ───────────────────────────────────────────────────────────────────────────────────────────

    async def _commit_regularly(self) -> None:
        clock = asyncio.get_running_loop().time
        renewed = clock()
        while True:
            await asyncio.sleep(_COMMIT_INTERVAL_SECONDS)
            if clock() - renewed >= _RENEWAL_SECONDS:
                # Kafka may drop an offset by the time of its own last commit, also of a partition that is just idle.
                renewed = clock()
                for assignment in self._assignments.values():
                    assignment.moved = assignment.committable
            positions = self._take_moved()
            if positions and self._consumer is not None:
                self._consumer.commit(positions)

    def _take_moved(self) -> dict[Partition, Position]:
        positions = {}
        for partition, assignment in self._assignments.items():
            if assignment.moved:
                assignment.moved = False
                positions[partition] = Position(assignment.epoch, assignment.tracker.position)
        return positions

    async def _drain(self, partitions: Sequence[Partition], budget: float) -> Positions:
        drained = {key: self._assignments[key] for key in partitions if key in self._assignments}
        for assignment in drained.values():
            assignment.draining.set()
        tasks = [task for assignment in drained.values() for task in assignment.tasks]
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=budget)
            if unfinished:
                logger.warning(
                    "%d handlers did not finish within %g s: their records come again",
                    len(unfinished),
                    budget,
                )
        # All of them, not only those that moved since the last commit: that one may still be queued.
        positions = {
            key: Position(assignment.epoch, assignment.tracker.position)
            for key, assignment in drained.items()
            if assignment.committable
        }
        # From here on the epoch is gone: a completion that comes later settles nothing.
        # Only theirs: where the loop was too slow, a partition may have come back under a new epoch already.
        self.lost([key for key, assignment in drained.items() if self._assignments.get(key) is assignment])
        return positions


def _next_attempt(message: Message, outcome: RetryLater) -> Message:
    envelope = message.envelope
    failed_at = now_ms()
    return message.with_envelope(
        attempt=envelope.attempt + 1 if outcome.counts else envelope.attempt,
        first_failure=envelope.first_failure or failed_at,
        last_failure=failed_at,
    )


async def _until_returned(left_behind: Sequence[asyncio.Future[None]]) -> None:
    """Wait for plain functions that were given up: they can't be stopped, and must not run beside their successors."""
    if left_behind:
        await asyncio.wait(left_behind)


async def _sleep_until(at: int, interrupted: asyncio.Event) -> None:
    delay = (at - now_ms()) / 1000
    if delay <= 0:
        return
    try:
        async with asyncio.timeout(delay):
            await interrupted.wait()
    except TimeoutError:
        return
