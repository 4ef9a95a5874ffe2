"""The service side: takes records, sees that each is handled, lets offsets go when they are settled.

On the way of a message: between the consumer and the inbound pipeline. A record goes into its lane (`lanes.py`), or,
where it comes from a retry topic before its time, into the waiting room first (`waiting.py`). All of this lives on the
event loop; only `GroupConsumer`'s thread touches Kafka's consumer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from broker_mesh import headers
from broker_mesh.assignment import Assignment
from broker_mesh.endpoint import Endpoint
from broker_mesh.errors import InternalError, MeshError
from broker_mesh.kafka.consumer import GroupConsumer, Partition, Position, Positions
from broker_mesh.lanes import Lanes
from broker_mesh.layer import Step
from broker_mesh.layers.retry import due_time
from broker_mesh.message import Message, Record, is_for_service, now_ms, received
from broker_mesh.outcome import Outcome
from broker_mesh.relief import Relief
from broker_mesh.settings import Settings
from broker_mesh.telemetry.backlog import Taken
from broker_mesh.waiting import WaitingRoom

logger = logging.getLogger(__name__)

_TENDING_SECONDS = 0.2
_RENEWAL_SECONDS = 3600.0
_REVOKE_BUDGET_SECONDS = 5.0


class Inbound(NamedTuple):
    """What a service hands its records to.

    Args:
        handle: the inbound pipeline; returns when a record's outcome is durable.
        put_back: writes a record that waits in its retry topic to the end of it.
    """

    handle: Step[Outcome]
    put_back: Callable[[Message], Awaitable[None]]


class Service:
    """The handling side of a mesh, a `GroupListener`.

    Args:
        settings: with limits and the grace period.
        endpoints: what is handled.
        make_inbound: makes what records are handed to, given the check that tells a current message.
        on_committed: called with partitions on which the group has committed, once for each.
    """

    def __init__(
        self,
        settings: Settings,
        endpoints: Iterable[Endpoint],
        make_inbound: Callable[[Callable[[Message], bool]], Inbound],
        on_committed: Callable[[Collection[Partition]], None],
    ) -> None:
        self._settings = settings
        by_topic = {topic: endpoint for endpoint in endpoints for topic in endpoint.topics}
        self._endpoints: Mapping[str, Endpoint] = by_topic
        inbound = make_inbound(self.is_current)
        self._put_back = inbound.put_back
        self._lanes = Lanes(by_topic, settings.concurrency, inbound.handle, self._finished, self.failed)
        self._room = WaitingRoom(self._due, now_ms)
        self._on_committed = on_committed
        self._resting: set[Partition] = set()
        self._held: set[Partition] = set()
        self._assignments: dict[Partition, Assignment] = {}
        self._relief = Relief(
            settings, self._room, self._assignments, self._write_again, self._hold_back, self._broken
        )
        self._stopping = False
        self._joined = asyncio.Event()
        self._consumer: GroupConsumer | None = None
        self._tender: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def topics(self) -> list[str]:
        """The operations and events that the service handles."""
        return list(dict.fromkeys(endpoint.name for endpoint in self._endpoints.values()))

    @property
    def partitions(self) -> int:
        """How many partitions of what the service handles are assigned now; their retries come with them."""
        return sum(not self._is_retry(topic) for topic, _ in self._assignments)

    @property
    def in_flight(self) -> int:
        """How many records are taken and not settled, without those whose next attempt is not due yet."""
        return sum(assignment.in_work for assignment in self._assignments.values())

    @property
    def waiting(self) -> int:
        """How many records of retry topics are taken and not due yet."""
        return len(self._room)

    def taken(self) -> dict[Partition, Taken]:
        """Tell of each partition how far it is settled, and what is in work."""
        return {
            key: Taken(each.tracker.position, each.in_work, each.tracker.oldest, held=key in self._resting)
            for key, each in self._assignments.items()
        }

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
        self._tender = asyncio.create_task(self._tend_regularly(), name="mesh-tender")
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
            self._room.close()
            if self._tender is not None:
                self._tender.cancel()
            await self._consumer.close(positions, timeout=10.0)

    def is_current(self, message: Message) -> bool:
        """Tell whether a message's partition is still assigned as it was when the message was taken."""
        assignment = self._assignments.get((message.topic, message.partition))
        return assignment is not None and assignment.epoch == message.epoch

    def settled_below(self, message: Message) -> int:
        """Tell below which offset of a message's partition everything is settled; 0 where the partition is gone."""
        assignment = self._assignments.get((message.topic, message.partition))
        return 0 if assignment is None else assignment.tracker.position

    # ── GroupListener ─────────────────────────────────────────────────────────────────────────────────────

    def assigned(self, positions: Positions) -> None:
        """Take over partitions."""
        self._joined.set()
        for partition, position in positions.items():
            self._assignments[partition] = Assignment(partition, position)
            if self._stopping:
                self._assignments[partition].draining.set()

    def received(self, batch: Sequence[Record]) -> None:
        """Put records into their lanes, and what is not due yet into the waiting room."""
        try:
            self._take(batch)
        except Exception as bug:  # noqa: BLE001 - it is told; only logged by the loop it would strand the batch
            self._broken("taking records", bug)
        self._hold_back()

    def _take(self, batch: Sequence[Record]) -> None:
        now = now_ms()
        for record in batch:
            assignment = self._assignments.get((record.topic, record.partition))
            if assignment is None or assignment.draining.is_set() or not assignment.take(record):
                self._give_back(record.topic, 1)
                continue
            if not is_for_service(record, self._endpoints[record.topic].name):
                self._give_back(record.topic, 1)
                assignment.done(record.offset)
                continue
            due = self._due_time(record)
            if due is not None and due > now:
                self._give_back(record.topic, 1)  # it counts again when it is due
                self._room.add(assignment, record, due)
            else:
                assignment.in_flight += 1
                self._lanes.put(assignment, record)

    async def drain(self, partitions: Sequence[Partition]) -> Positions:
        """Finish what is being handled before a rebalance takes the partitions away."""
        return await self._drain(partitions, _REVOKE_BUDGET_SECONDS)

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Drop everything of partitions that another member may own already."""
        for partition in partitions:
            assignment = self._assignments.pop(partition, None)
            if assignment is not None:
                self._room.drop(assignment)
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

    def _broken(self, doing: str, bug: Exception) -> None:
        """Stop for a bug of the mesh, before it strands what was to be done."""
        logger.error("%s failed inside the mesh", doing, exc_info=bug)
        stopped = InternalError(f"{type(bug).__name__} inside the mesh: {bug}")
        stopped.__cause__ = bug
        self.failed(stopped)

    # ── lanes and the waiting room ────────────────────────────────────────────────────────────────────────

    def _finished(self, assignment: Assignment) -> None:
        if assignment.in_flight:  # else ended meanwhile, and given back as a whole
            assignment.in_flight -= 1
            self._give_back(assignment.partition[0], 1)
        if assignment.partition in self._held:
            self._hold_back()

    def _due_time(self, record: Record) -> int | None:
        """Tell when a record's next attempt is due, epoch ms; only retry topics hold what is not due at once."""
        if not self._is_retry(record.topic):
            return None
        return due_time(headers.read(record.headers)[0].retry_at, written=record.timestamp)

    def _due(self, assignment: Assignment, record: Record) -> None:
        assignment.in_flight += 1
        if self._consumer is not None:
            self._consumer.resumed(record.topic, 1)
        self._lanes.put(assignment, record)
        if self._held:
            self._hold_back()

    async def _write_again(self, assignment: Assignment, record: Record) -> None:
        """Write a record of a retry topic to the end of it."""
        await self._put_back(received(record, self._endpoints[record.topic].name, assignment.epoch))

    def _give_back(self, topic: str, count: int) -> None:
        if count and self._consumer is not None:
            self._consumer.finished(topic, count)

    def _hold_back(self) -> None:
        """Stop taking from partitions where one record holds back the position of many that are done.

        Done records beyond the position are run again after a crash: their number is bounded like that in flight.
        And stop taking from all retry topics while the waiting room is full.
        """
        limit = self._settings.max_in_flight
        resting = {
            partition
            for partition, assignment in self._assignments.items()
            if assignment.tracker.beyond >= (max(1, limit // 2) if partition in self._resting else limit)
        }
        for topic, number in resting - self._resting:
            logger.warning("%s/%d rests: %d records are done behind one that is not", topic, number, limit)
        self._resting = resting
        held = resting | {key for key in self._assignments if self._is_retry(key[0]) and self._room.full}
        if held != self._held and self._consumer is not None:
            self._held = held
            self._consumer.hold(held)

    def _is_retry(self, topic: str) -> bool:
        return topic != self._endpoints[topic].name

    # ── offsets ───────────────────────────────────────────────────────────────────────────────────────────

    async def _tend_regularly(self) -> None:
        clock = asyncio.get_running_loop().time
        renewed = clock()
        while True:
            await asyncio.sleep(_TENDING_SECONDS)
            self._relief.look()
            # A position also moves without a lane that says so: a plain function may outlast its record.
            self._hold_back()
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
        clock = asyncio.get_running_loop().time
        until = clock() + budget
        tasks = [task for each in drained.values() for task in each.tasks]
        if tasks:
            await asyncio.wait(tasks, timeout=budget)
        for assignment in drained.values():
            if not assignment.relieving and clock() < until:
                self._relief.relieve(assignment, full=False)
        until = min(until, clock() + _REVOKE_BUDGET_SECONDS)  # also of a stop: Kafka may be away
        while moves := [task for each in drained.values() if each.relieving for task in each.tasks]:
            if clock() >= until:
                break
            await asyncio.wait(moves, timeout=until - clock(), return_when=asyncio.FIRST_COMPLETED)
        left = sum(len(each.tasks) for each in drained.values())
        if left:
            logger.warning("%d handlers did not finish within %g s: their records come again", left, budget)
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
