"""What happens when partitions come and go: the program's callbacks, and the retries that come with its topics.

On the way of a message: before it is taken, and where it may no longer be settled. The group is subscribed to the
program's topics alone. Whoever has a partition reads the retries of it as well: those are assigned beside it, from
where the group has left them, and go with it. So retries stay with the member that has their keys, whichever assignor
the program has chosen, and take no part in how it spreads the program's partitions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition
from confluent_kafka import Consumer as PlainConsumer

from broker_mesh.adapter import Connection, Intake, Reception
from broker_mesh.errors import Unavailable
from broker_mesh_adapters.confluent_kafka.committing import Commits
from broker_mesh_adapters.confluent_kafka.mixing import Mixing
from broker_mesh_adapters.confluent_kafka.pausing import Pausing
from broker_mesh_adapters.confluent_kafka.places import Partition, keys, places
from broker_mesh_adapters.confluent_kafka.subscription import Subscription

logger = logging.getLogger(__name__)

Callback: TypeAlias = Callable[[Any, list[TopicPartition]], Any]

_DRAIN_SECONDS = 5.0
_QUERY_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 6 * 3600.0


class Rebalancing:
    """The assignment of one wrapped consumer.

    Args:
        consumer: the wrapped one, which callbacks are given.
        raw: the client.
        connection: the mesh's.
        reception: makes topics of retries and dead letters.
        subscription: what belongs to the program's topics.
        commits: what is committed before partitions go.
        pausing: what is paused.
        incremental: rebalances add and remove partitions, instead of replacing all.
    """

    def __init__(
        self,
        consumer: Any,
        raw: PlainConsumer,
        connection: Connection,
        reception: Reception,
        subscription: Subscription,
        commits: Commits,
        pausing: Pausing,
        *,
        incremental: bool,
    ) -> None:
        self._consumer = consumer
        self._raw = raw
        self._connection = connection
        self._reception = reception
        self._intake: Intake = reception.intake
        self._subscription = subscription
        self._commits = commits
        self._pausing = pausing
        self._mixing = Mixing(connection, reception)
        self._incremental = incremental
        self._in_assignment = False  # in the program's callback, before it has assigned anything
        self._in_revocation = False
        self._prepared: set[str] = set()
        self._unstarted: set[Partition] = set()  # retries whose committed offsets could not be read yet
        self._asked_at = 0.0
        self._kept_alive_at = time.monotonic()

    # ── subscriptions ─────────────────────────────────────────────────────────────────────────────────────

    def subscribe(
        self,
        topics: list[str],
        on_assign: Callback | None,
        on_revoke: Callback | None,
        on_lost: Callback | None,
    ) -> None:
        """Subscribe as `confluent_kafka.Consumer.subscribe`.

        Raises:
            FailedPrecondition: an operation of another service, or a topic of retries.
            MeshError: the topics of retries and dead letters can't be made.
        """
        self._subscription.choose(topics)
        self._prepared = set(self._connection.wait(self._reception.prepare(self._subscription.topics)))
        self._reception.may_park(self._subscription.is_set)
        self._raw.subscribe(
            topics,
            on_assign=lambda _, partitions: self._assigned(partitions, on_assign),
            on_revoke=lambda _, partitions: self._revoked(partitions, on_revoke),
            on_lost=lambda _, partitions: self._lost(partitions, on_lost or on_revoke),
        )

    def _assigned(self, partitions: list[TopicPartition], callback: Callback | None) -> None:
        mine = self._subscription.shown(partitions)
        self._in_assignment = True
        try:
            if callback is not None and (mine or not partitions):
                callback(self._consumer, mine)
        finally:
            # As without a wrapper: what the callback has not assigned is assigned for it, also where it raises.
            if self._in_assignment:
                self.assign(mine, incremental=self._incremental)
            self._mixing.rebalanced()

    def _revoked(self, partitions: list[TopicPartition], callback: Callback | None) -> None:
        gone = self._with_retries(partitions)
        try:
            self._tell(partitions, callback)
        finally:
            if not self._intake.wait_settled(gone, _DRAIN_SECONDS):
                logger.warning("partitions go before all of their messages are settled: those come again")
            self._commits.keep_up(now=True)
            self._let_go(gone)
            self._mixing.rebalanced()

    def _lost(self, partitions: list[TopicPartition], callback: Callback | None) -> None:
        try:
            self._tell(partitions, callback)
        finally:
            self._let_go(self._with_retries(partitions))

    def _tell(self, partitions: list[TopicPartition], callback: Callback | None) -> None:
        mine = self._subscription.shown(partitions)
        self._in_revocation = True
        try:
            if callback is not None and (mine or not partitions):
                callback(self._consumer, mine)
        finally:
            self._in_revocation = False

    def _let_go(self, gone: set[Partition]) -> None:
        if self._incremental:
            self._raw.incremental_unassign(places(gone))
        else:
            self._raw.unassign()
        self._end(gone)

    def _with_retries(self, partitions: Iterable[TopicPartition]) -> set[Partition]:
        """Give those of some partitions that are assigned, and where their retries are read."""
        gone = keys(partitions)
        gone |= {(self._subscription.retry_topic(topic), number) for topic, number in gone}
        return gone & keys(self._raw.assignment())

    # ── assignments ───────────────────────────────────────────────────────────────────────────────────────

    def assign(self, partitions: list[TopicPartition], *, incremental: bool) -> None:
        """Assign as `confluent_kafka.Consumer.assign` or `incremental_assign`; in a callback with the retries."""
        retries: list[TopicPartition] = []
        if self._in_assignment:
            self._in_assignment = False
            self._prepare({each.topic for each in partitions} - self._prepared)
            retries = self._from_committed(self._retries_of(partitions))
        elif not incremental:
            self._reception.may_park(self._subscription.is_set)
            self._end(keys(self._raw.assignment()))
        if incremental:
            self._raw.incremental_assign([*partitions, *retries])
        else:
            self._raw.assign([*partitions, *retries])
        self._raw.pause(places(self._unstarted))
        self._begin(keys([*partitions, *retries]) - self._unstarted)

    def _retries_of(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return [
            TopicPartition(self._subscription.retry_topic(each.topic), each.partition) for each in partitions
        ]

    def unassign(self, partitions: list[TopicPartition] | None) -> None:
        """Unassign as `confluent_kafka.Consumer.unassign` or, of some partitions, `incremental_unassign`.

        In a callback that is left to its end, when what is being settled of them is drained.
        """
        if self._in_revocation:
            return
        self._in_assignment = False  # the program has decided: nothing is assigned for it
        gone = keys(self._raw.assignment() if partitions is None else partitions)
        if partitions is None:
            self._raw.unassign()
        else:
            self._raw.incremental_unassign(partitions)
        self._end(gone)

    def seek(self, partition: Partition, offset: int) -> None:
        """Read a partition from an offset on, as if it were assigned anew."""
        self._raw.seek(TopicPartition(*partition, offset))
        self._intake.assigned([partition])
        self._pausing.begin([partition])

    def _begin(self, partitions: set[Partition]) -> None:
        self._intake.assigned(partitions)
        self._commits.begin(partitions)
        self._pausing.begin(partitions)

    def _end(self, partitions: set[Partition]) -> None:
        self._intake.ended(partitions)
        self._commits.end(partitions)
        self._pausing.end(partitions)
        self._unstarted -= partitions

    # ── retries ───────────────────────────────────────────────────────────────────────────────────────────

    def _from_committed(self, retries: list[TopicPartition]) -> list[TopicPartition]:
        """Have retries begin where the group has left them, and at their beginning where it never came.

        `auto.offset.reset` speaks of the program's topics: a retry that waits must not be skipped by it.
        """
        if not retries:
            return []
        try:
            committed = self._raw.committed(retries, timeout=_QUERY_SECONDS)
        except KafkaException as error:
            logger.warning("where retries were left can't be read, they start later: %s", error)
            self._unstarted |= keys(retries)
            return [TopicPartition(each.topic, each.partition, OFFSET_BEGINNING) for each in retries]
        return [_start(each) for each in committed]

    def keep_up(self) -> None:
        """Start what could not be started, and keep what would expire; called as the program polls."""
        self._mixing.keep_up(self._prepared)
        now = time.monotonic()
        if self._unstarted and now - self._asked_at >= _AGAIN_SECONDS:
            self._asked_at = now
            self._start_retries()
        if now - self._kept_alive_at >= _KEEP_ALIVE_SECONDS:
            self._kept_alive_at = now
            self._keep_alive()

    def _keep_alive(self) -> None:
        """Commit again where retries stand: Kafka drops offsets of topics that a group is not subscribed to.

        That comes `offsets.retention.minutes` (7 days) after the last commit (KIP-211); all retries that are still kept
        would come again.
        """
        retries = [place for place in self._raw.assignment() if self._subscription.is_hidden(place.topic)]
        if not retries:
            return
        try:
            committed = self._raw.committed(retries, timeout=_AGAIN_SECONDS)
        except KafkaException as error:
            logger.info("where retries were left can't be read, it is kept alive later: %s", error)
            return
        if known := [each for each in committed if each.offset >= 0]:
            self._raw.commit(offsets=known, asynchronous=True)

    def _start_retries(self) -> None:
        waiting = places(self._unstarted)
        try:
            committed = self._raw.committed(waiting, timeout=_AGAIN_SECONDS)
        except KafkaException:
            return  # said before; asked again
        for each in committed:
            self._raw.seek(_start(each))
        self._begin(keys(waiting))
        self._raw.resume(waiting)
        self._unstarted.clear()

    def _prepare(self, topics: set[str]) -> None:
        """Make the topics of retries and dead letters of what a pattern has found, or what came later."""
        if not topics:
            return
        preparing = self._connection.run(self._reception.prepare(topics))
        try:
            preparing.result(_QUERY_SECONDS)
            self._prepared |= topics
        except (TimeoutError, Unavailable) as error:
            logger.warning("topics of retries are not made yet, but with the first that is needed: %s", error)


def _start(committed: TopicPartition) -> TopicPartition:
    offset = committed.offset if committed.offset >= 0 and committed.error is None else OFFSET_BEGINNING
    return TopicPartition(committed.topic, committed.partition, offset)
