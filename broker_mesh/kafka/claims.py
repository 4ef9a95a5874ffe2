"""Claims: which dead letters have been put back or dropped, on the compacted topic `_mesh.claims`.

On the way of a message: behind its end. Whoever settles dead letters writes the claim in the same transaction as what
is put back, under a transactional id that belongs to the dead letters' partition: opening it ends the transaction of
whoever had it before, so that claims read from then on, to their end, are all there are. A claim names ranges of
offsets, and the id of their topic: one that was deleted and made anew begins without claims.
"""

from __future__ import annotations

import json
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeAlias

from confluent_kafka import Consumer, KafkaError, TopicPartition

from broker_mesh.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from broker_mesh.headers import LATEST_TIME
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.fenced import NewRecord
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.reader import end_offset, open_consumer, watermarks
from broker_mesh.kafka.table import make_table_topic
from broker_mesh.settings import Settings

CLAIMS_TOPIC = "_mesh.claims"

Partition: TypeAlias = tuple[str, int]
Range: TypeAlias = tuple[int, int]

_MAX_OFFSET = 2**63 - 1

_POLL_SECONDS = 0.1
_BATCH = 500
_ASK_AGAIN_SECONDS = 0.05
# A transaction that its owner left open ends after its time-out of 10 s, which the broker looks for each 10 s.
_COMPLETE_SECONDS = 45.0


class Action(StrEnum):
    """What was done with a dead letter."""

    REPLAYED = "replayed"
    DROPPED = "dropped"


class Claim(NamedTuple):
    """What was done with dead letters.

    Args:
        action: what.
        replay_id: by which replay.
        at: when, epoch ms.
        target: the topic they were put back to; empty where they were dropped.
        position: where the claim stands on the topic of claims; later ones have higher numbers.
    """

    action: Action
    replay_id: str
    at: int
    target: str
    position: int = -1


class ClaimedOffsets:
    """The claims of one partition: 36 bytes for each range of offsets."""

    def __init__(self) -> None:
        self._firsts = array("q")
        self._lasts = array("q")
        self._times = array("q")
        self._positions = array("q")
        self._deeds = array("l")
        self._known: list[tuple[Action, str, str]] = []
        self._numbers: dict[tuple[Action, str, str], int] = {}

    def add(self, ranges: Sequence[Range], claim: Claim) -> None:
        """Take in a claim on ranges of offsets, both ends included."""
        deed = (claim.action, claim.replay_id, claim.target)
        number = self._numbers.setdefault(deed, len(self._known))
        if number == len(self._known):
            self._known.append(deed)
        for first, last in ranges:
            at = bisect_right(self._firsts, first)  # at the end, but for replays of chosen letters
            for column, value in (
                (self._firsts, first),
                (self._lasts, last),
                (self._times, claim.at),
                (self._positions, claim.position),
                (self._deeds, number),
            ):
                column.insert(at, value)

    def of(self, offset: int) -> Claim | None:
        """Give the claim on an offset; None where there is none."""
        at = bisect_right(self._firsts, offset) - 1
        if at < 0 or offset > self._lasts[at]:
            return None
        action, replay_id, target = self._known[self._deeds[at]]
        return Claim(action, replay_id, self._times[at], target, self._positions[at])


def claim_record(partition: Partition, topic_id: str, offsets: Sequence[int], claim: Claim) -> NewRecord:
    """Make the record that claims some dead letters.

    Args:
        partition: topic and number of the dead letters' partition.
        topic_id: of that topic.
        offsets: ascending, at least one.
        claim: what is done with them.
    """
    topic, number = partition
    # An offset is claimed once, so the first one names the claim; one of a deleted topic of that name is replaced.
    key = f"{topic}/{number}/{offsets[0]}"
    value = {
        "topic_id": topic_id,
        "ranges": list(ranges_of(offsets)),
        "action": claim.action,
        "replay_id": claim.replay_id,
        "at": claim.at,
        "target": claim.target,
    }
    return NewRecord(CLAIMS_TOPIC, key.encode(), json.dumps(value, separators=(",", ":")).encode())


def ranges_of(offsets: Sequence[int]) -> Iterator[Range]:
    """Join ascending offsets into ranges, both ends included."""
    first = last = offsets[0]
    for offset in offsets[1:]:
        if offset != last + 1:
            yield first, last
            first = offset
        last = offset
    yield first, last


class Claims:
    """The claims on some partitions, as of the last read. Blocking; for one thread at a time.

    Args:
        settings: with `bootstrap_servers` set.
        topic_ids: the ids of the dead-letter topics that matter, by name; others' claims are not kept.
        client_id: how brokers name this client.
    """

    def __init__(self, settings: Settings, topic_ids: Mapping[str, str], *, client_id: str) -> None:
        self.position = 0
        self._settings = settings
        self._topic_ids = topic_ids
        self._client_id = client_id
        self._claimed: dict[Partition, ClaimedOffsets] = {}
        self._unreadable: dict[bytes, int] = {}  # keys of records that are no claims, with their offsets

    def of(self, partition: Partition, offset: int) -> Claim | None:
        """Give the claim on a dead letter; None where there is none."""
        claimed = self._claimed.get(partition)
        return None if claimed is None else claimed.of(offset)

    def read(self) -> None:
        """Read what has been claimed since the last read, as far as it is settled now: to look at, not to act on.

        Raises:
            MeshError: Kafka can't be asked.
        """
        consumer = self._open()
        try:
            self._read(consumer, self._bounds(consumer, create=False)[1], _COMPLETE_SECONDS)
        except NotFound:
            return  # nothing has ever been claimed
        finally:
            consumer.close()

    def read_all(self) -> None:
        """Read all that has been claimed up to now, and wait for what is open.

        A reader of committed records sees nothing behind the first open transaction, though what stands there
        may be committed: a claim on the very partition that is about to be settled, behind one on another.

        Raises:
            Unavailable: a transaction was left open, and Kafka has not ended it.
            MeshError: Kafka can't be asked.
        """
        consumer = self._open()
        try:
            self._bounds(consumer, create=True)
            self._read(consumer, self._true_end(), _COMPLETE_SECONDS)
        finally:
            consumer.close()

    def _open(self, isolation: Literal["read_committed", "read_uncommitted"] = "read_committed") -> Consumer:
        more = {
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
            "queued.min.messages": 1000,
            "queued.max.messages.kbytes": 4 * 1024,
        }
        return open_consumer(self._settings, self._client_id, OutageLog("reader of claims"), more)

    def _bounds(self, consumer: Consumer, *, create: bool) -> tuple[int, int]:
        """Ask for the first offset and the end of what is settled, once the topic is there."""
        deadline = time.monotonic() + self._settings.connect_timeout_seconds
        made = False
        while True:
            try:
                low, end = watermarks(consumer, CLAIMS_TOPIC, 0)
            except NotFound:
                if not create or time.monotonic() >= deadline:
                    raise
                if not made:
                    make_table_topic(self._settings, CLAIMS_TOPIC, client_id=self._client_id)
                    made = True
                time.sleep(_ASK_AGAIN_SECONDS)
            else:
                self.position = max(self.position, low)
                return low, end

    def _true_end(self) -> int:
        """Ask for the end, open transactions included."""
        consumer = self._open(isolation="read_uncommitted")
        try:
            return end_offset(consumer, CLAIMS_TOPIC, 0)
        finally:
            consumer.close()

    def _read(self, consumer: Consumer, end: int, patience: float) -> None:
        if end < self.position:
            raise DataLoss(
                f"topic {CLAIMS_TOPIC!r} ends at offset {end} and was read to {self.position} before: it was deleted "
                "or cut, and what it said can't be known: nothing is put back"
            )
        deadline = time.monotonic() + patience
        consumer.assign([TopicPartition(CLAIMS_TOPIC, 0, self.position)])
        while self.position < end:
            first = consumer.poll(_POLL_SECONDS)
            for message in [] if first is None else [first, *consumer.consume(_BATCH, 0)]:
                error, offset = message.error(), message.offset() or 0
                if error is None:
                    self._apply(message.key() or b"", message.value(), offset)
                    self.position = offset + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    self.position = max(self.position, offset)  # over markers and what was compacted away
                elif not error.retriable():
                    raise translate(error, f"reading topic {CLAIMS_TOPIC!r}")
            if self.position < end and time.monotonic() >= deadline:
                raise Unavailable(
                    f"topic {CLAIMS_TOPIC!r} could be read to offset {self.position} of {end} only: a replay was ended "
                    "in a transaction, or Kafka is away; try again"
                )
        for key, offset in self._unreadable.items():
            # To go on could put something back twice.
            raise FailedPrecondition(
                f"the record at offset {offset} of {CLAIMS_TOPIC!r} is no claim of the mesh: nothing is put back until "
                f"a tombstone (a null value) of its key {key[:100]!r} stands behind it"
            )

    def _apply(self, key: bytes, value: bytes | None, offset: int) -> None:
        # What follows of a key replaces what stood there, also where Kafka has not compacted it away yet.
        self._unreadable.pop(key, None)
        if value is None:
            return
        try:
            partition, topic_id, ranges, claim = _parsed(key, value, offset)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            self._unreadable[key] = offset
            return
        if self._topic_ids.get(partition[0]) == topic_id:
            self._claimed.setdefault(partition, ClaimedOffsets()).add(ranges, claim)


def _parsed(key: bytes, value: bytes, offset: int) -> tuple[Partition, str, list[Range], Claim]:
    topic, number, _ = key.decode().rsplit("/", 2)
    content: dict[str, Any] = json.loads(value)
    action, replay_id, target = (str(content[name]) for name in ("action", "replay_id", "target"))
    claim = Claim(Action(action), replay_id, int(content["at"]), target, offset)
    ranges = [(int(first), int(last)) for first, last in content["ranges"]]
    if not 0 <= claim.at <= LATEST_TIME or not all(
        0 <= first <= last <= _MAX_OFFSET for first, last in ranges
    ):
        raise ValueError(value)
    return (topic, int(number)), str(content["topic_id"]), ranges, claim
