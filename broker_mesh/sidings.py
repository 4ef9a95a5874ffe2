"""Sidings: the retry partition beside each partition of a service, where keys that fail are parked.

On the way of a message: between the consumer and the lanes when a partition is taken over, and around the settlement of
what is parked. A partition is not handled before it is known what of it stands in the retry partition of its number:
that has to be assigned to this instance too, and is read once to its end as of then (`parked.py`). From there on
`parking.py` is told of all that is written, taken and settled there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from broker_mesh.assignment import Assignment
from broker_mesh.endpoint import Endpoint
from broker_mesh.errors import MeshError
from broker_mesh.kafka.positions import Partition
from broker_mesh.message import Message, Record, now_ms, received
from broker_mesh.outcome import Outcome, Parked, RetryLater
from broker_mesh.parked import Found, Survey, Wanted
from broker_mesh.parking import MAX_KEYS, Copied, Parking, Settled, identity, name_of, total
from broker_mesh.seldom import Seldom
from broker_mesh.settle import CarryOut

logger = logging.getLogger(__name__)

FAR_MS = 5_000
"""From how far off on a next attempt is waited for in the retry topic, ms; what is nearer keeps its place."""

_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 10.0
_TELL_AGAIN_SECONDS = 60.0


class _Siding(NamedTuple):
    """A partition that is handled.

    Args:
        assignment: of it.
        parking: the keys of it that are parked; None where nothing can be.
        copies: what of it stood in the retry partition already when it was taken over, and has not come yet.
    """

    assignment: Assignment
    parking: Parking | None
    copies: set[Copied]


class Sidings:
    """What is parked beside the partitions of one service; on its event loop.

    Args:
        endpoints: by topic.
        assignments: the partitions of the service, kept up to date by it.
        survey: asks Kafka.
        begin: takes the records of partitions that are let go, which came before the consumer stopped taking more, in
            order; and has the consumer take more.
        broken: told of a bug of the mesh: what was being done, and the bug.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        assignments: Mapping[Partition, Assignment],
        survey: Survey,
        begin: Callable[[list[Record]], None],
        broken: Callable[[str, Exception], None],
    ) -> None:
        self._endpoints = endpoints
        self._assignments = assignments
        self._survey = survey
        self._begin = begin
        self._broken = broken
        self._parkings: dict[Partition, Parking] = {}  # by retry partition
        self._sidings: dict[Partition, _Siding] = {}  # by the partition beside it
        self._held: dict[Partition, Assignment] = {}
        self._held_since: dict[Partition, float] = {}
        self._kept: dict[Partition, list[Record]] = {}
        self._unread: set[Partition] = set()  # handled already; the retry partition has come anew
        self._read_to: dict[
            Partition, int
        ] = {}  # of retry partitions: as far as they were read on taking over
        self._ends: dict[Partition, int] = {}  # of retry partitions that may be anybody's
        self._telling = Seldom(_TELL_AGAIN_SECONDS, most=100)
        self._arrived = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._stop = threading.Event()

    # ── for the service ───────────────────────────────────────────────────────────────────────────────────

    @property
    def held(self) -> Collection[Partition]:
        """The partitions that are not handled yet."""
        return self._held.keys()

    def parked(self, partition: Partition) -> int:
        """Tell how many keys are parked beside a partition, or in a retry partition itself."""
        parking = self._parkings.get(self._retry_of(partition))
        return 0 if parking is None else len(parking)

    def assigned(self, assignment: Assignment) -> None:
        """Take over a partition: hold it until it is known what of it is parked."""
        partition = assignment.partition
        endpoint = self._endpoints[partition[0]]
        if endpoint.ordering == "partition":
            return
        if endpoint.ordering == "key":
            self._parkings.setdefault(self._retry_of(partition), Parking())
        if partition[0] == endpoint.name:
            self._held[partition] = assignment
            self._held_since[partition] = asyncio.get_running_loop().time()
            self._kept[partition] = []
        elif endpoint.ordering == "key" and (beside := (endpoint.name, partition[1])) in self._sidings:
            self._unread.add(beside)
        self._arrived.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_regularly(), name="mesh-sidings")

    def keep(self, assignment: Assignment, record: Record) -> bool:
        """Keep a record of a partition that is held; False where it is not."""
        if self._held.get(assignment.partition) is not assignment:
            return False
        self._kept[assignment.partition].append(record)
        return True

    def forget(self, assignment: Assignment) -> None:
        """Forget a partition that is given up, with what was kept of it."""
        partition = assignment.partition
        if self._held.get(partition) is assignment:
            del self._held[partition], self._held_since[partition], self._kept[partition]
        siding = self._sidings.get(partition)
        if siding is not None and siding.assignment is assignment:
            del self._sidings[partition]
        self._ends.pop(partition, None)
        self._unread.discard(partition)
        retry, beside = self._retry_of(partition), (self._endpoints[partition[0]].name, partition[1])
        if retry not in self._assignments and beside not in self._assignments:
            self._parkings.pop(retry, None)
            self._read_to.pop(retry, None)

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._looking is not None:
            self._looking.cancel()

    def is_copied(self, record: Record) -> bool:
        """Tell whether a record stood in its retry topic already when its partition was taken over."""
        siding = self._sidings.get((record.topic, record.partition))
        if siding is None or not siding.copies:
            return False
        copy = identity(received(record, self._endpoints[record.topic].name))
        if copy not in siding.copies:
            return False
        siding.copies.discard(copy)
        return True

    def line_of(self, record: Record) -> bytes | None:
        """Tell which line a record of a retry topic stands in: that of its key, where keys have an order."""
        endpoint = self._endpoints[record.topic]
        if record.topic == endpoint.name or record.key is None or endpoint.ordering != "key":
            return None
        return name_of(record.key)

    def taken(self, record: Record, line: bytes) -> None:
        """Note that a record of a line was read from its retry topic."""
        self._parkings[record.topic, record.partition].taken(line, record.offset)

    def settled(self, partition: Partition, line: bytes, offset: int) -> None:
        """Note that a record of a line is settled."""
        parking = self._parkings.get(partition)
        if parking is None:
            return
        parking.settled(line, offset)
        position = self._assignments[partition].tracker.position
        if position >= self._read_to.get(partition, position + 1):
            # What was read and has not come is gone by retention; nobody will settle it.
            parking.passed(self._read_to.pop(partition))

    # ── for the layers and the settlement ─────────────────────────────────────────────────────────────────

    def is_parked(self, message: Message) -> bool:
        """Tell whether earlier records of a message's key wait in the retry topic, and it is none of them."""
        parking = self._parking_of(message)
        return parking is not None and message.key is not None and parking.holds(name_of(message.key))

    @contextmanager
    def in_line(self, record: Record) -> Iterator[bool]:
        """Tell whether a record goes behind others of its key; if so, the key stays parked while a block runs."""
        siding = self._sidings.get((record.topic, record.partition))
        parking = None if siding is None or record.key is None else siding.parking
        line = name_of(record.key or b"")
        if parking is None or not parking.holds(line):
            yield False
            return
        parking.writing(line)
        try:
            yield True
        finally:
            parking.not_written(line)

    def parks(self, message: Message, due: int) -> bool:
        """Tell whether a failed message waits in the retry topic for its next attempt.

        Args:
            message: that has failed.
            due: when the attempt is, epoch ms.
        """
        ordering = self._endpoints[message.operation].ordering
        # Without a key it stands in no line: what is in the way is moved, and takes its attempts with it only so.
        if ordering == "none" or (
            ordering == "key" and message.key is None and message.topic != message.operation
        ):
            return True
        return due - now_ms() > FAR_MS and self.may_park(message)

    def may_park(self, message: Message) -> bool:
        """Tell whether a message that has an order, and waits in its place, could wait in the retry topic instead."""
        parking = self._parking_of(message)
        if parking is None or (message.topic != message.operation and message.key is not None):
            return False
        if self._retry_of((message.topic, message.partition)) not in self._assignments:
            return False  # where it is handled nobody here would hear that the key is free
        return message.key is None or self.is_parked(message) or total(self._parkings.values()) < MAX_KEYS

    def settling(self, carry_out: CarryOut) -> CarryOut:
        """Have a key held while a record of it is written to the retry topic, and from then on."""

        async def settle(message: Message, outcome: Outcome) -> Outcome:
            is_written = isinstance(outcome, Parked) or (isinstance(outcome, RetryLater) and outcome.parked)
            parking = self._parking_of(message) if is_written else None
            if parking is None or message.key is None:
                return await carry_out(message, outcome)
            line, offset = name_of(message.key), None
            parking.writing(line)
            try:
                became = await carry_out(message, outcome)
                if isinstance(became, Parked | RetryLater) and became.place is not None:
                    offset = became.place.offset
            finally:
                if offset is None:
                    parking.not_written(line)
                else:
                    parking.written(line, offset)
            return became

        return settle

    def _parking_of(self, message: Message) -> Parking | None:
        """Give the parking beside the partition that a message was taken from, while it is assigned as it was then."""
        siding = self._sidings.get((message.topic, message.partition))
        if siding is None or siding.assignment.epoch != message.epoch:
            return None
        return siding.parking

    def _retry_of(self, partition: Partition) -> Partition:
        return self._endpoints[partition[0]].topics[1], partition[1]

    # ── taking over ───────────────────────────────────────────────────────────────────────────────────────

    async def _look_regularly(self) -> None:
        try:
            while self._held or self._unread:
                self._arrived.clear()
                try:
                    await self._look()
                except MeshError as error:
                    self._tell("unknown", "partitions wait until it is known what is parked: %s", error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS if self._held or self._unread else 0):
                        await self._arrived.wait()
        except Exception as bug:  # noqa: BLE001 - it is told; what is held would be held for ever
            self._broken("looking for what is parked", bug)

    async def _look(self) -> None:
        """Let go of what is known. What can't be found out stays held."""
        held, unread = dict(self._held), set(self._unread)
        self._unread -= unread
        try:
            counts = await self._survey.counts(
                {topic for partition in held for topic in self._endpoints[partition[0]].topics}
            )
            together = {key for key in held if self._is_beside(key, counts)} | {
                key for key in unread if self._retry_of(key) in self._assignments
            }
            found = await self._read(together)
            without = {key for key in held.keys() - together if await self._needs_nothing(key, counts)}
        except BaseException:
            self._unread |= unread & self._sidings.keys()
            raise
        records: list[Record] = []
        for key in [*together, *without]:
            if key in found and not self._enter(key, found[key]):
                continue
            if key in held and self._held.get(key) is held[key]:
                records += self._open(key, found.get(key))
        self._begin(records)

    def _is_beside(self, key: Partition, counts: Mapping[str, int]) -> bool:
        """Tell whether a partition and its retry partition are both here, and will stay together."""
        topic, retry = key[0], self._retry_of(key)
        if counts.get(topic, 0) != counts.get(retry[0], 0):
            return False
        if retry not in self._assignments:
            since = self._held_since.get(key)  # None where it was given up meanwhile
            if since is not None and asyncio.get_running_loop().time() - since > _PATIENCE_SECONDS:
                self._tell(
                    f"{key}",
                    "%s/%d waits for %s/%d to be assigned to this instance too: is another one of the group "
                    'subscribed to only one of them, or "partition.assignment.strategy" not range?',
                    *(*key, *retry),
                )
            return False
        return True

    async def _read(self, together: Collection[Partition]) -> dict[Partition, tuple[Assignment, Found]]:
        """Read the retry partitions beside some that are all here."""
        # Only now: what the owner before has written was written before the partition became ours.
        retries = {key: self._assignments[self._retry_of(key)] for key in together}
        if not retries:
            return {}
        bounds = await self._survey.bounds([each.partition for each in retries.values()])
        wanted = [
            Wanted(
                retry.partition,
                self._endpoints[key[0]].name,
                _settled(retry),
                (key, self._assignments[key].tracker.position if key in self._assignments else 0),
            )
            for key, retry in retries.items()
        ]
        found = await asyncio.to_thread(self._survey.read, wanted, bounds, self._stop)
        return {key: (retry, found[retry.partition]) for key, retry in retries.items()}

    async def _needs_nothing(self, key: Partition, counts: Mapping[str, int]) -> bool:
        """Tell whether a partition can be handled without a retry partition that goes with it."""
        retry = self._retry_of(key)
        before, after = counts.get(retry[0], 0), counts.get(key[0], 0)
        if retry[1] >= before or self._endpoints[key[0]].ordering == "none":
            return retry[1] >= before or before != after
        if before == after:
            return False  # it is only not here yet
        # Whose it is nobody can say, and with the next rebalance it may be another's: nothing is parked any more, and
        # what was parked before is waited for.
        end = self._ends.get(key)
        if end is None:
            end = await self._survey.end(retry)
            if key in self._held:  # else it was given up meanwhile, and is asked for anew when it comes back
                self._ends[key] = end
        if (await self._survey.committed([retry])).get(retry, 0) >= end:
            return True
        self._tell(
            f"{key}",
            "%s/%d waits until what stands in %s/%d is handled, since their topics have different numbers of "
            "partitions; 'mesh topics grow' makes them equal",
            *(*key, *retry),
        )
        return False

    def _enter(self, key: Partition, read: tuple[Assignment, Found]) -> bool:
        """Enter what was found beside a partition; False where its retry partition has gone meanwhile."""
        retry, found = read
        if self._assignments.get(retry.partition) is not retry:
            self._unread |= {key} & self._sidings.keys()
            return False
        parking = self._parkings.get(retry.partition)
        if parking is not None:
            parking.found(found.last, found.end, _settled(retry))
            self._read_to[retry.partition] = found.end
        return True

    def _open(self, key: Partition, read: tuple[Assignment, Found] | None) -> list[Record]:
        """Let a partition go; give what came of it meanwhile."""
        parking = None if read is None else self._parkings.get(self._retry_of(key))
        copies = set() if read is None else read[1].copies
        self._sidings[key] = _Siding(self._held.pop(key), parking, copies)
        if parking or copies:
            logger.info(
                "%s/%d begins: %d keys are parked, %d of its records stand in the retry topic already",
                *(*key, 0 if parking is None else len(parking), len(copies)),
            )
        del self._held_since[key]
        return self._kept.pop(key)

    def _tell(self, what: str, sentence: str, *facts: object) -> None:
        """Warn of something, but not with each look."""
        if self._telling.is_due(what):
            logger.warning(sentence, *facts)


def _settled(assignment: Assignment) -> Settled:
    return Settled(assignment.tracker.position, assignment.tracker.done_beyond)
