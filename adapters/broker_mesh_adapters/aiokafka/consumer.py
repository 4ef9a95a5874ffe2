"""aiokafka's consumer behind the mesh: the program's face of it.

On the way of a message: around `receiving.py`, which gives messages out, `membership.py`, which holds the partitions,
and `commits.py`, which knows what may be committed. All is done on the program's event loop, and nothing blocks that.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import aiokafka
from aiokafka.errors import ConsumerStoppedError, IllegalOperation, IllegalStateError, RecordTooLargeError
from aiokafka.structs import TopicPartition

from broker_mesh import Mesh, Retry
from broker_mesh.adapter import Connection, Declaration, Reception
from broker_mesh.errors import FailedPrecondition
from broker_mesh_adapters.aiokafka import groups, lifecycle
from broker_mesh_adapters.aiokafka.commits import Commits
from broker_mesh_adapters.aiokafka.hands import Caller, Hands, calling
from broker_mesh_adapters.aiokafka.membership import Membership
from broker_mesh_adapters.aiokafka.messages import Deserializer, MeshRecord
from broker_mesh_adapters.aiokafka.options import reading_committed, with_addresses
from broker_mesh_adapters.aiokafka.receiving import Receiving, Waking
from broker_mesh_adapters.aiokafka.subscriptions import Subscriber, Wish, subscribed
from broker_mesh_adapters.aiokafka.telling import Telling

logger = logging.getLogger(__name__)

_AT_MOST = 500
_COMMIT_SECONDS = 5.0


class AIOKafkaConsumer(Telling):
    """`aiokafka.AIOKafkaConsumer` with every layer of the mesh applied; made, as that one, on a running event loop.

    Messages are aiokafka's `ConsumerRecord` with more: see `MeshRecord`. A message counts as done when the task that
    got it asks for the next; offsets follow what is done. Retries come through the same methods.

    Args:
        *topics: to subscribe to.
        mesh: whose service receives.
        ordering: which messages wait for one that is tried again: those of its "key", of its "partition", or "none".
        retry: what follows a failed attempt; None for the mesh's default.
        declared: operations and events whose values are models; this service's own are registered.
        **options: all arguments of aiokafka's. `bootstrap_servers` comes from the mesh where it is not given, and
            with it TLS and SASL. With `enable_auto_commit` what is done is committed every
            `auto_commit_interval_ms`, before a rebalance and by `stop`.

    Raises:
        SettingsError: an option can't be used; `isolation_level="read_uncommitted"` is one.
    """

    def __init__(
        self,
        *topics: str,
        mesh: Mesh,
        ordering: Literal["key", "partition", "none"] = "key",
        retry: Retry | None = None,
        declared: Sequence[Declaration] = (),
        **options: Any,
    ) -> None:
        options = reading_committed(with_addresses(options, mesh))
        self._mesh = mesh
        self._ordering = ordering
        self._retry = retry
        self._declared = list(declared)
        self._group_id: str | None = options.get("group_id")
        self._client_id: str = options.get("client_id") or ""
        self._auto_commit = bool(options.pop("enable_auto_commit", True))
        interval = options.get("auto_commit_interval_ms")
        self._commit_seconds = _COMMIT_SECONDS if interval is None else interval / 1000
        self._at_most: int = options.get("max_poll_records") or _AT_MOST
        self._key_deserializer: Deserializer | None = options.pop("key_deserializer", None)
        self._value_deserializer: Deserializer | None = options.pop("value_deserializer", None)
        self._inner = aiokafka.AIOKafkaConsumer(enable_auto_commit=False, **options)
        self._failures: deque[Exception] = deque()  # what the program hears of with its next call
        self._connection: Connection | None = None
        self._subscriber = Subscriber(self._inner, has_group=self._group_id is not None)
        self._is_stopped = False
        if topics:
            self.subscribe(topics)

    def __repr__(self) -> str:
        return f"<AIOKafkaConsumer of {self._mesh!r}, group {self._group_id!r}>"

    # ── lifetime ──────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Connect to the mesh and to Kafka, and join the group, as aiokafka's.

        Raises:
            Unavailable: Kafka can't be reached, or the access rules can't be read.
            SettingsError: a setting or a declaration is wrong.
            FailedPrecondition: a topic is another service's operation.
            KafkaError: aiokafka can't connect.
        """
        connection = await lifecycle.joined(self._mesh, self, self._declared)
        try:
            self._receive(connection)
        except BaseException:
            await lifecycle.left(connection, self)
            raise
        self._connection = connection
        try:
            await self._subscriber.start(connection, self._reception, self._membership, self._receiving.fail)
            await self._inner.start()
            self._membership.look()
        except BaseException:
            self._connection = None
            self._subscriber.stop()
            self._membership.give_up()
            await self._inner.stop()
            await lifecycle.left(connection, self)
            raise
        if self._group_id is not None:
            groups.join(self, self._group_id)

    def _receive(self, connection: Connection) -> None:
        waking = Waking(asyncio.get_running_loop())
        self._reception = Reception(
            connection,
            group=self._group_id,
            ordering=self._ordering,
            retry=self._retry,
            client_id=self._client_id,
            woken=waking.wake,
        )
        intake = self._reception.intake
        self._commits = Commits(
            intake, lambda topic: self._membership.is_retry(topic), self._inner.assignment
        )
        self._hands = Hands(intake, waking.wake)
        self._membership = Membership(
            self._inner,
            self._reception,
            self._commits,
            self._hands,
            auto_commit=self._auto_commit,
            commit_seconds=None if self._group_id is None else self._commit_seconds,
            changed=waking.wake,
            found=self._subscriber.found,
            failed=lambda error: self._receiving.fail(error),
        )
        self._receiving = Receiving(
            self._inner,
            connection,
            intake=intake,
            commits=self._commits,
            hands=self._hands,
            membership=self._membership,
            waking=waking,
            failures=self._failures,
            key_deserializer=self._key_deserializer,
            value_deserializer=self._value_deserializer,
        )

    def stop(self) -> Coroutine[Any, Any, None]:
        """Leave the group and disconnect, as aiokafka's.

        What the calling task has is done by that, unless an exception is propagating, and so is what ended tasks had;
        with `enable_auto_commit` it is committed. The rest comes again.
        """
        return self._stop(calling(), failing=sys.exc_info()[1] is not None)

    async def _stop(self, caller: Caller, *, failing: bool) -> None:
        if self._is_stopped:
            return
        self._is_stopped = True
        groups.leave(self)
        self._subscriber.stop()
        connection, self._connection = self._connection, None
        if connection is None:
            await self._inner.stop()
            return
        try:
            await self._receiving.stop()
            if not failing:
                self._hands.asks_for_more(caller)
                self._hands.settle_ended(stays=False)
            await self._membership.finish(waits_for_program=False)
            self._membership.give_up()  # where a rebalance has brought another one meanwhile
        finally:  # also where the program gives up waiting for the mesh
            try:
                await self._inner.stop()
            finally:
                await lifecycle.left(connection, self)

    async def __aenter__(self) -> AIOKafkaConsumer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._stop(calling(), failing=error is not None)

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────

    def getone(self, *partitions: TopicPartition) -> Coroutine[Any, Any, MeshRecord]:
        """Give the next message, as aiokafka's: what the task got before is done. One that is cancelled loses nothing.

        Raises:
            ConsumerStoppedError: the consumer is stopped.
            KafkaError: as aiokafka's.
            MeshError: the mesh can't go on: an outcome could not be made durable, and never will.
        """
        return self._one(partitions, calling())

    async def _one(self, partitions: tuple[TopicPartition, ...], caller: Caller) -> MeshRecord:
        assert all(isinstance(each, TopicPartition) for each in partitions)
        return await self._started().one(partitions, caller)

    def getmany(
        self, *partitions: TopicPartition, timeout_ms: float = 0, max_records: int | None = None
    ) -> Coroutine[Any, Any, dict[TopicPartition, list[MeshRecord]]]:
        """Give messages by partition, as aiokafka's; what the task got before is done by that.

        With ordering "key" there is one message of each key at most, with "partition" one of each partition: what
        becomes of it decides whether the next may follow.

        Args:
            *partitions: of which; none for all.
            timeout_ms: how long to wait for the first message, milliseconds.
            max_records: how many at most; None for `max_poll_records`, or 500.

        Raises:
            ValueError: `max_records` is no positive number.
            As `getone`.
        """
        return self._many(partitions, timeout_ms, max_records, calling())

    async def _many(
        self,
        partitions: tuple[TopicPartition, ...],
        timeout_ms: float,
        max_records: int | None,
        caller: Caller,
    ) -> dict[TopicPartition, list[MeshRecord]]:
        assert all(isinstance(each, TopicPartition) for each in partitions)
        if max_records is not None and (not isinstance(max_records, int) or max_records < 1):
            raise ValueError("`max_records` must be a positive Integer")
        return await self._started().many(partitions, timeout_ms / 1000, max_records or self._at_most, caller)

    def __aiter__(self) -> AIOKafkaConsumer:
        if self._is_stopped:
            raise ConsumerStoppedError
        return self

    def __anext__(self) -> Coroutine[Any, Any, MeshRecord]:
        return self._following(calling())

    async def _following(self, caller: Caller) -> MeshRecord:
        while True:
            try:
                return await self._one((), caller)
            except ConsumerStoppedError:
                raise StopAsyncIteration from None
            except RecordTooLargeError as error:
                logger.error("%s", error)

    def _started(self) -> Receiving:
        if self._is_stopped:
            raise ConsumerStoppedError
        if self._connection is None:
            raise FailedPrecondition(f"{self!r} is not started: await start() first, or use 'async with'")
        return self._receiving

    # ── what is read ──────────────────────────────────────────────────────────────────────────────────────

    def subscribe(self, topics: Iterable[str] = (), pattern: Any = None, listener: Any = None) -> None:
        """Subscribe, as aiokafka's; the listener hears of the program's partitions alone.

        Raises:
            TypeError, ValueError, IllegalStateError: as aiokafka's.
        """
        self._subscriber.wish(subscribed(topics, pattern, listener))

    def subscription(self) -> frozenset[str]:
        """Tell the topics that are subscribed to, as aiokafka's."""
        return self._subscriber.topics()

    def unsubscribe(self) -> None:
        """Unsubscribe from all topics and clear the assignment, as aiokafka's."""
        self._subscriber.clear()

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read some partitions without the group's assignment, as aiokafka's; retries are made in place then.

        Raises:
            IllegalStateError: topics are subscribed to.
        """
        self._subscriber.wish(Wish(partitions=tuple(partitions)))

    def assignment(self) -> set[TopicPartition]:
        """Tell the partitions that are assigned, as aiokafka's."""
        assigned = set(self._inner.assignment())
        return assigned if self._connection is None else self._membership.own(assigned)

    # ── offsets ───────────────────────────────────────────────────────────────────────────────────────────

    async def commit(self, offsets: Mapping[TopicPartition, Any] | None = None) -> None:
        """Commit offsets, as aiokafka's: what the program was given below them is done by that.

        What the mesh still works on (a retry, a dead letter that is being written) is not passed; it is, by itself,
        as soon as that is settled.

        Args:
            offsets: of each partition the next offset, or that and metadata; None for all that was given.

        Raises:
            FailedPrecondition: the program holds a message below, or a caller waits for its reply.
            IllegalOperation, IllegalStateError, CommitFailedError, KafkaError, ValueError: as aiokafka's.
        """
        if self._group_id is None:
            raise IllegalOperation("Requires group_id")
        if not self._subscriber.is_used:
            raise IllegalStateError("Not subscribed to any topics")
        self._started()
        if not self._inner.assignment():
            raise IllegalStateError("No partitions assigned")
        allowed = self._commits.all_given() if offsets is None else self._commits.asked(offsets)
        await self._membership.write(allowed)

    def covered(self, offsets: Mapping[TopicPartition, Any]) -> Mapping[TopicPartition, Any]:
        """Give what a transaction may commit for offsets: `commit`'s rules, for a wrapped producer of this process.

        Raises:
            FailedPrecondition: the program holds a message below.
        """
        return self._commits.asked_in_transaction(offsets)

    async def position(self, partition: TopicPartition) -> int:
        """Tell the offset of the next message that the program is given, as aiokafka's.

        Raises:
            IllegalStateError: the partition is not assigned.
        """
        if partition in self.assignment():
            known = self._commits.position((partition.topic, partition.partition))
            if known is not None:
                return known
        return int(await self._inner.position(partition))

    # ── where to read ─────────────────────────────────────────────────────────────────────────────────────

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at an offset, as aiokafka's; what was taken of the partition and is not settled is forgotten.

        Raises:
            ValueError, IllegalStateError: as aiokafka's.
        """
        self._inner.seek(partition, offset)
        self._membership.sought([partition], offset)

    async def seek_to_beginning(self, *partitions: TopicPartition) -> bool:
        """Go on at the beginning of partitions, or of all, as aiokafka's."""
        return await self._membership.go_to(partitions, self._inner.seek_to_beginning)

    async def seek_to_end(self, *partitions: TopicPartition) -> bool:
        """Go on at the end of partitions, or of all, as aiokafka's."""
        return await self._membership.go_to(partitions, self._inner.seek_to_end)

    async def seek_to_committed(self, *partitions: TopicPartition) -> dict[TopicPartition, int | None]:
        """Go on where the group has committed in partitions, or in all, as aiokafka's."""
        committed: dict[TopicPartition, int | None] = {}
        for partition in self._membership.chosen(partitions):
            offset = committed[partition] = await self.committed(partition)
            if offset is not None:
                self.seek(partition, offset)
        return committed

    # ── pausing ───────────────────────────────────────────────────────────────────────────────────────────

    def pause(self, *partitions: TopicPartition) -> None:
        """Give nothing of partitions until they are resumed, their retries included, as aiokafka's."""
        self._refuse_others(partitions)
        self._membership.pause(partitions)

    def paused(self) -> set[TopicPartition]:
        """Tell the partitions that the program has paused, as aiokafka's."""
        return set() if self._connection is None else self._membership.paused()

    def resume(self, *partitions: TopicPartition) -> None:
        """Resume partitions, as aiokafka's."""
        self._refuse_others(partitions)
        self._membership.resume(partitions)

    def _refuse_others(self, partitions: Iterable[Any]) -> None:
        for each in partitions:
            if not isinstance(each, TopicPartition):
                raise TypeError("partitions must be TopicPartition namedtuples")
            if each not in self.assignment():
                raise IllegalStateError(f"No current assignment for partition {each}")
