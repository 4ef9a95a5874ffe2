"""What a program commits, and what that means for the offsets of a consumer group.

On the way of a message: after it is settled. A commit of the program settles what it covers, and never passes what the
mesh itself still works on: what is left of it is committed once that is settled. Retried messages, which are elsewhere
than the program sees them, are committed with what it was shown around them.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as PlainMessage

from broker_mesh.adapter import Delivery, Intake
from broker_mesh.errors import FailedPrecondition
from broker_mesh_adapters.confluent_kafka.consumer_conf import ConsumerConf
from broker_mesh_adapters.confluent_kafka.message import Message
from broker_mesh_adapters.confluent_kafka.places import Partition, at, key, moved
from broker_mesh_adapters.confluent_kafka.shown import Shown
from broker_mesh_adapters.confluent_kafka.subscription import Subscription
from broker_mesh_adapters.confluent_kafka.unseen import Unseen

logger = logging.getLogger(__name__)

_STORE_SECONDS = 0.1


class _Left(NamedTuple):
    """What the program has committed and the mesh could not yet."""

    offset: int
    waits: bool  # a message below was given out since: only the program's next commit covers that


class Commits:
    """The commits of one wrapped consumer.

    Args:
        raw: the client.
        intake: what has been taken.
        subscription: which topics the program sees.
        shown: the retried messages that it was shown.
        unseen: what was taken out of the intake, and has not come to the program.
        conf: who commits, and when.
    """

    def __init__(
        self,
        raw: Any,
        intake: Intake,
        subscription: Subscription,
        shown: Shown,
        unseen: Unseen,
        conf: ConsumerConf,
    ) -> None:
        self._raw = raw
        self._intake = intake
        self._subscription = subscription
        self._shown = shown
        self._unseen = unseen
        self._conf = conf
        self._by_program = conf.program_stores or not conf.commits_itself
        self._ownerships = itertools.count(1)
        self._owned: dict[Partition, int] = {}
        self._gone: set[Partition] = set()
        self._settled: dict[Partition, int] = {}  # the ends of the settled prefixes, as the intake told them
        self._left: dict[Partition, _Left] = {}
        self._in_transaction: dict[Partition, int] = {}
        self._stored_at = 0.0

    # ── partitions ────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, partitions: Iterable[Partition]) -> None:
        """Take note of partitions that are assigned."""
        for partition in partitions:
            self._owned[partition] = next(self._ownerships)
            self._gone.discard(partition)

    def end(self, partitions: Collection[Partition]) -> None:
        """Take note of partitions that have gone to other members: nothing of them is committed from now on."""
        self._gone |= {partition for partition in partitions if partition in self._owned}
        for partition in partitions:
            self._owned.pop(partition, None)
            self._settled.pop(partition, None)
            self._shown.forget(partition)
        self.rewound(partitions)

    def rewound(self, partitions: Iterable[Partition]) -> None:
        """Take note of partitions that are sought anew: what was to be committed of them later is void."""
        for partition in partitions:
            self._left.pop(partition, None)
        self._in_transaction.clear()

    def ownership(self, partition: Partition) -> int:
        """Tell which assignment of a partition this is; 0 where it is not assigned."""
        return self._owned.get(partition, 0)

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────

    def given(self, delivery: Delivery) -> None:
        """Take note of a message that is given to the program."""
        record = delivery.record
        place = record.topic, record.partition
        left = self._left.get(place)
        if left is not None and record.offset < left.offset:
            self._left[place] = left._replace(waits=True)
        if delivery.topic != record.topic:
            self._shown.note(delivery, self._intake.positions().get((delivery.topic, record.partition), 0))

    # ── the program commits ───────────────────────────────────────────────────────────────────────────────

    def commit(
        self,
        message: PlainMessage | None,
        offsets: list[TopicPartition] | None,
        *,
        asynchronous: bool,
    ) -> list[TopicPartition] | None:
        """Commit as `confluent_kafka.Consumer.commit`."""
        if message is not None and offsets is not None:
            raise ValueError("message and offsets are mutually exclusive")
        if message is not None and message.error() is not None:
            self._raw.commit(message=message, asynchronous=asynchronous)  # refuses it
        if message is None and offsets is None:
            committed = self._commit_given(asynchronous=asynchronous)
        else:
            targets = self._targets(message, offsets)
            committed = self._raw.commit(offsets=self._allowed(targets), asynchronous=asynchronous)
        return None if committed is None else self.as_shown(committed)

    def commit_own(self, offsets: Mapping[Partition, int], *, asynchronous: bool) -> Any:
        """Commit offsets that mean the program's own topics, whatever was shown under the same ones.

        Raises:
            FailedPrecondition: the program itself holds a message below.
            KafkaException: it can't be committed; ILLEGAL_GENERATION where a partition has gone to another member.
        """
        for place in offsets:
            self._refuse_gone(place, gone=place in self._gone)
        targets = self._with_covered(at(offsets))
        return self._raw.commit(offsets=self._allowed(targets), asynchronous=asynchronous)

    def store(self, message: PlainMessage | None, offsets: list[TopicPartition] | None) -> None:
        """Store as `confluent_kafka.Consumer.store_offsets`."""
        if message is None and offsets is None:
            raise ValueError("expected either message or offsets")
        if message is not None and offsets is not None:
            raise ValueError("message and offsets are mutually exclusive")
        if not self._conf.program_stores:
            raise KafkaException(
                KafkaError(
                    KafkaError._INVALID_ARG,
                    "StoreOffsets failed: the client stores offsets by itself: set enable.auto.offset.store=False",
                )
            )
        self._raw.store_offsets(offsets=self._allowed(self._targets(message, offsets)))

    def as_shown(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Leave out of what was committed that of which the program does not know."""
        return self._subscription.shown(partitions)

    def _commit_given(self, *, asynchronous: bool) -> list[TopicPartition] | None:
        if not self._conf.program_stores:
            self._store(self._settle(self._unseen.below(self._intake.positions())))
        try:
            committed: list[TopicPartition] | None = self._raw.commit(asynchronous=asynchronous)
        except KafkaException as error:
            if not self._left or error.args[0].code() != KafkaError._NO_OFFSET:
                raise
            return []  # there is something, and the mesh commits it once it is settled
        return committed

    def _targets(
        self, message: PlainMessage | None, offsets: list[TopicPartition] | None
    ) -> list[TopicPartition]:
        """Tell which places a commit of the program's really means."""
        if isinstance(message, Message):
            record = message.delivery.record
            place = record.topic, record.partition
            self._refuse_gone(place, gone=self._owned.get(place) != message.ownership)
            targets = [TopicPartition(*place, record.offset + 1)]
        elif message is not None:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            targets = self._meant(TopicPartition(topic, partition, offset + 1))
        else:
            targets = [meant for place in offsets or () for meant in self._meant(place)]
        return self._with_covered(targets)

    def _with_covered(self, targets: list[TopicPartition]) -> list[TopicPartition]:
        """Add the retried messages which the program was shown before what it commits."""
        covered: dict[Partition, int] = {}
        for target in targets:
            covered |= self._shown.covered(key(target), target.offset)
        return targets + at(
            {place: offset for place, offset in covered.items() if self._may_cover(place, offset)}
        )

    def _meant(self, place: TopicPartition) -> list[TopicPartition]:
        self._refuse_gone(key(place), gone=key(place) in self._gone)
        real = self._shown.place_of(key(place), place.offset - 1)
        if real is None:
            return [place]
        retried = moved(place, real, place.offset)
        if self._intake.positions().get(key(place)) != place.offset:
            return [retried]
        # The same offset of both was shown: whichever is meant, the other is done as well, unless it is held.
        return [retried, place] if self._may_cover(real, place.offset) else [place]

    def _refuse_gone(self, place: Partition, *, gone: bool) -> None:
        if gone and (place in self._gone or self._subscription.is_set):
            raise KafkaException(
                KafkaError(
                    KafkaError.ILLEGAL_GENERATION,
                    f"{place[0]} [{place[1]}] has gone to another member since: its messages come again there, and "
                    "their offsets are that member's to commit",
                )
            )

    def _may_cover(self, place: Partition, offset: int) -> bool:
        """Settle retries that a commit covers by the way; what the program holds is left for a later one."""
        if self._unseen.below({place: offset})[place] < offset:
            return False
        try:
            self._intake.settle_up_to({place: offset})
        except FailedPrecondition:
            return False
        return True

    def _allowed(self, targets: list[TopicPartition]) -> list[TopicPartition]:
        wanted: dict[Partition, int] = {}
        for target in targets:
            if target.offset >= 0:
                wanted[key(target)] = max(target.offset, wanted.get(key(target), 0))
        allowed = self._settle(wanted)
        for place, offset in allowed.items():
            self._shown.forget(place, offset)
        return [moved(target, key(target), allowed.get(key(target), target.offset)) for target in targets]

    def _settle(self, wanted: Mapping[Partition, int]) -> dict[Partition, int]:
        promised = {
            place: max(offset, self._left[place].offset) if place in self._left else offset
            for place, offset in wanted.items()
        }
        seen = self._unseen.below(promised)
        allowed = self._intake.settle_up_to(seen)
        for place, offset in allowed.items():
            if offset < promised[place]:
                self._left[place] = _Left(promised[place], waits=seen[place] < promised[place])
            else:
                self._left.pop(place, None)
        return allowed

    # ── transactions ──────────────────────────────────────────────────────────────────────────────────────

    def sent_to_transaction(self) -> None:
        """Take note that the program commits in a transaction, which retried messages can't join.

        The transaction has ended once the program polls on, and it has sought back where it has failed: what it was
        shown until now is committed then.
        """
        if self._by_program:
            self._in_transaction = self._shown.all()

    # ── meanwhile ─────────────────────────────────────────────────────────────────────────────────────────

    def keep_up(self, *, now: bool = False) -> None:
        """Commit what has come to be settled; called as the program polls.

        Args:
            now: because partitions go; also where it was done a moment ago. Nobody knows then how a transaction ended.
        """
        at_time = time.monotonic()
        if not now and at_time - self._stored_at < _STORE_SECONDS and not self._in_transaction:
            return
        self._stored_at = at_time
        settled = self._intake.committable()
        self._settled |= settled
        if not self._by_program:
            self._store(settled)
            return
        self._commit_left()
        if self._in_transaction and not now:
            ended, self._in_transaction = self._in_transaction, {}
            done = {place: min(offset, self._settled.get(place, 0)) for place, offset in ended.items()}
            self._commit({place: offset for place, offset in done.items() if offset})

    def _commit_left(self) -> None:
        done: dict[Partition, int] = {}
        for place, left in list(self._left.items()):
            end = self._settled.get(place, 0)
            if left.waits or not end:
                continue
            done[place] = min(end, left.offset)
            if end >= left.offset:
                del self._left[place]
        if self._conf.program_stores and self._conf.commits_itself:
            self._store(done)
        else:
            self._commit(done)

    def _commit(self, offsets: Mapping[Partition, int]) -> None:
        if not offsets:
            return
        self._raw.commit(offsets=at(offsets), asynchronous=True)
        for place, offset in offsets.items():
            self._shown.forget(place, offset)

    def _store(self, offsets: Mapping[Partition, int]) -> None:
        if not offsets:
            return
        try:
            self._raw.store_offsets(offsets=at(offsets))
        except KafkaException as error:
            logger.info("offsets of partitions that have just gone are not stored: %s", error)
            return
        for place, offset in offsets.items():
            self._shown.forget(place, offset)
