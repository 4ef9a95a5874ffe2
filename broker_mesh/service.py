"""The service side: takes records, sees that each is handled, lets offsets go when they are settled.

On the way of a message: between the consumer and the inbound pipeline. A record goes into its lane (`lanes.py`), or,
where its time has not come, into the waiting room first (`waiting.py`); `taking.py` tells. All of this lives on the
event loop; only `GroupConsumer`'s thread touches Kafka's consumer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from broker_mesh.assignment import Assignment
from broker_mesh.endpoint import Endpoint
from broker_mesh.entry import Entry
from broker_mesh.errors import InternalError, MeshError
from broker_mesh.guard import OutageGuard
from broker_mesh.kafka.consumer import GroupConsumer, Partition, Positions
from broker_mesh.lanes import Lanes
from broker_mesh.layer import Step
from broker_mesh.message import Message, Record, now_ms, received
from broker_mesh.newcomers import Newcomers, Survey
from broker_mesh.outcome import Outcome
from broker_mesh.parked import Survey as ParkedSurvey
from broker_mesh.relief import Relief
from broker_mesh.settings import Settings
from broker_mesh.settle import CarryOut
from broker_mesh.sidings import Sidings
from broker_mesh.taking import Taking
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
        settle: carries an outcome out without the pipeline, of a record that has been through it.
    """

    handle: Step[Outcome]
    put_back: Callable[[Message], Awaitable[None]]
    settle: CarryOut


class Service:
    """The handling side of a mesh, a `GroupListener`.

    Args:
        settings: with limits and the grace period.
        endpoints: what is handled.
        make_inbound: makes what this service hands its records to.
        on_committed: called with partitions on which the group has committed, once for each.
        survey: tells of the growths of topics.
        parked: tells what is parked in retry topics.
        guard: tells outages from what fails by itself.
    """

    def __init__(
        self,
        settings: Settings,
        endpoints: Iterable[Endpoint],
        make_inbound: Callable[[Service], Inbound],
        on_committed: Callable[[Collection[Partition]], None],
        survey: Survey,
        parked: ParkedSurvey,
        guard: OutageGuard,
    ) -> None:
        self._settings = settings
        self._guard = guard
        by_topic = {topic: endpoint for endpoint in endpoints for topic in endpoint.topics}
        self._endpoints: Mapping[str, Endpoint] = by_topic
        self._assignments: dict[Partition, Assignment] = {}
        self.sidings = Sidings(by_topic, self._assignments, parked, self._begin, self._broken)
        inbound = make_inbound(self)
        self._put_back = inbound.put_back
        self._entry = Entry(self._commit_awaited, self._let_in, self._broken)
        self._lanes = Lanes(
            by_topic,
            settings.concurrency,
            inbound.handle,
            self._finished,
            self.failed,
            self.certain,
            self._entry.singly,
            guard,
            lambda *waiting: self._taking.rests(*waiting),
            inbound.settle,
            self.sidings.may_park,
            self.sidings.in_line,
        )
        self._room = WaitingRoom(self._due, now_ms)
        self._on_committed = on_committed
        ordered = {each.name for each in by_topic.values() if each.ordering != "none"}
        self._newcomers = Newcomers(ordered, survey, self._begin, self._broken)
        self._taking = Taking(
            by_topic,
            self._assignments,
            self._newcomers,
            self.sidings,
            self._room,
            self._entry,
            self._give_back,
        )
        self._resting: set[Partition] = set()
        self._held: set[Partition] = set()
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
            key: Taken(
                each.tracker.position,
                each.in_work,
                each.tracker.oldest,
                key in self._resting,
                self._parked(key),
            )
            for key, each in self._assignments.items()
        }

    def _parked(self, partition: Partition) -> int:
        return 0 if self._is_retry(partition[0]) else self.sidings.parked(partition)

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
            self._guard.close()
            self._newcomers.close()
            self.sidings.close()
            if self._tender is not None:
                self._tender.cancel()
            await self._consumer.close(positions, timeout=10.0)

    def is_current(self, message: Message) -> bool:
        """Tell whether a message's partition is still assigned as it was when the message was taken."""
        assignment = self._assignments.get((message.topic, message.partition))
        return assignment is not None and assignment.epoch == message.epoch

    async def certain(self) -> None:
        """Wait until what is assigned is certain to be: after this process stood still, Kafka has to confirm it."""
        if self._consumer is not None:
            await self._consumer.membership.certain()

    def settled_below(self, message: Message) -> int:
        """Tell below which offset of a message's partition everything is settled; 0 where the partition is gone."""
        assignment = self._assignments.get((message.topic, message.partition))
        return 0 if assignment is None else assignment.tracker.position

    # ── GroupListener ─────────────────────────────────────────────────────────────────────────────────────

    def assigned(self, positions: Positions) -> None:
        """Take over partitions."""
        self._joined.set()
        for partition, position in positions.items():
            assignment = Assignment(partition, position, self._settings.concurrency)
            self._assignments[partition] = assignment
            if assignment.suspicion.singly:
                logger.warning(
                    "%s/%d: %d owners in a row have ended uncleanly at offset %d or before: %d records run one at a "
                    "time now",
                    *(*partition, assignment.suspicion.deaths, position.offset, assignment.suspicion.left),
                )
            if self._stopping:  # nothing begins any more, and nothing is to be found out for it
                assignment.draining.set()
                continue
            self._newcomers.assigned(assignment, position)
            self.sidings.assigned(assignment)
        self._hold_back()

    def received(self, batch: Sequence[Record]) -> None:
        """Put records into their lanes, and what is not due yet into the waiting room."""
        try:
            self._taking.take(batch)
        except Exception as bug:  # noqa: BLE001 - it is told; only logged by the loop it would strand the batch
            self._broken("taking records", bug)
        self._hold_back()

    def reached(self, positions: Positions) -> None:
        """Note how far partitions are read."""
        for partition, position in positions.items():
            if (assignment := self._assignments.get(partition)) is None or assignment.epoch != position.epoch:
                continue
            assignment.read_to = position.offset

    def _let_in(self, assignment: Assignment, record: Record) -> None:
        self._lanes.put(assignment, record)

    def _begin(self, records: Sequence[Record]) -> None:
        """Take what came of partitions while they were held."""
        try:
            self._taking.take_kept(records)
        except Exception as bug:  # noqa: BLE001 - it is told, as above
            self._broken("taking records", bug)
        self._hold_back()

    async def drain(self, partitions: Sequence[Partition]) -> Positions:
        """Finish what is being handled before a rebalance takes the partitions away."""
        return await self._drain(partitions, _REVOKE_BUDGET_SECONDS)

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Drop everything of partitions that another member may own already."""
        for partition in partitions:
            assignment = self._assignments.pop(partition, None)
            if assignment is not None:
                self._room.drop(assignment)
                self._newcomers.forget(assignment)
                self.sidings.forget(assignment)
                self._give_back(partition[0], assignment.end())
        self._hold_back()

    def acknowledged(self, positions: Positions) -> None:
        """Let go on what waited for a commit."""
        for partition, position in positions.items():
            if (assignment := self._assignments.get(partition)) is not None:
                assignment.acknowledged(position)

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

    def _due(self, assignment: Assignment, record: Record) -> None:
        self._taking.due(assignment, record)
        if self._held:
            self._hold_back()

    async def _write_again(self, assignment: Assignment, record: Record) -> None:
        """Write a record of a retry topic to the end of it."""
        await self._put_back(received(record, self._endpoints[record.topic].name, assignment.epoch))

    def _give_back(self, topic: str, count: int) -> None:
        if count and self._consumer is not None:
            self._consumer.finished(topic, count)

    def _hold_back(self) -> None:
        """Stop taking from partitions of which a commit can hardly say any more what is done beyond the position.

        What it can't say runs again after a crash. Nor take from retry topics while the waiting room is full.
        """
        resting = {
            partition
            for partition, assignment in self._assignments.items()
            if assignment.is_crowded(partition in self._resting)
        }
        for topic, number in resting - self._resting:
            logger.warning("%s/%d rests: too much is done behind records that are not", topic, number)
        self._resting = resting
        held = resting | {key for key in self._assignments if self._is_retry(key[0]) and self._room.full}
        held |= {*self._newcomers.held, *self.sidings.held}
        held |= {key for key in self._assignments if self._guard.holds(self._endpoints[key[0]].name)}
        if held != self._held and self._consumer is not None:
            self._held = held
            self._consumer.hold(held)

    def _is_retry(self, topic: str) -> bool:
        return topic != self._endpoints[topic].name

    # ── offsets ───────────────────────────────────────────────────────────────────────────────────────────

    async def _tend_regularly(self) -> None:
        clock = asyncio.get_running_loop().time
        renewed = clock()
        try:
            while True:
                await asyncio.sleep(_TENDING_SECONDS)
                if clock() - renewed >= _RENEWAL_SECONDS:
                    # Kafka may drop an offset by the time of its own last commit, also of an idle partition.
                    renewed = clock()
                    for assignment in self._assignments.values():
                        assignment.renew()
                self._tend(clock())
        except Exception as bug:  # noqa: BLE001 - it is told; without tending nothing would be committed any more
            self._broken("tending its partitions", bug)

    def _tend(self, now: float) -> None:
        self._relief.look()
        if self._consumer is not None:
            self._consumer.flow.adapt(now, idle=not self._lanes.busy)
            self._lanes.make_room(self._assignments.values(), self._consumer.lacks_room)
        self._guard.tend()
        # A position also moves without a lane that says so: a plain function may outlast its record.
        self._hold_back()
        kept = {*self._newcomers.held, *self.sidings.held}
        for key, assignment in self._assignments.items():
            if key not in kept:
                assignment.skip_markers()
            assignment.describe(self._parked(key), self._guard.state(self._endpoints[key[0]].name))
        due = {key: each.commit_due(now) for key, each in self._assignments.items()}
        positions = {key: position for key, position in due.items() if position is not None}
        if positions and self._consumer is not None:
            self._consumer.commit(positions)

    def _commit_awaited(self, positions: Positions) -> None:
        if self._consumer is not None:
            self._consumer.commit(positions, awaited=True)

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
        last = {key: assignment.commit_last() for key, assignment in drained.items()}
        positions = {key: position for key, position in last.items() if position is not None}
        # From here on the epoch is gone: a completion that comes later settles nothing.
        # Only theirs: where the loop was too slow, a partition may have come back under a new epoch already.
        self.lost([key for key, assignment in drained.items() if self._assignments.get(key) is assignment])
        return positions
