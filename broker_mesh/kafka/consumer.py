"""A member of a service's consumer group, on a thread of its own.

On the way of a message: where it enters a service. Every call on librdkafka's consumer is made by this one
thread (a call from another starves behind the poll loop); the event loop gets batches and events from it in
the order in which they happened, and hands it commits.

Flow control: the thread counts what it has delivered, the loop what it has finished. At `max_in_flight` all
partitions are paused while polling goes on, so that slow handlers never cost the membership.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from broker_mesh.errors import DataLoss, MeshError, SettingsError
from broker_mesh.kafka import config
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.message import Record
from broker_mesh.settings import Settings

logger = logging.getLogger(__name__)

Partition: TypeAlias = tuple[str, int]


class Position(NamedTuple):
    """An offset within one assignment of a partition.

    Args:
        epoch: counts assignments; what belongs to an earlier one is never committed.
        offset: where reading starts (0 where nothing is committed), or what is to be committed.
    """

    epoch: int
    offset: int


Positions: TypeAlias = Mapping[Partition, Position]

_POLL_SECONDS = 0.05
_BATCH = 500
_COMMITTED_TIMEOUT_SECONDS = 10.0
_FINAL_COMMIT_SECONDS = 3.0


class GroupListener(Protocol):
    """What a `GroupConsumer` tells its service; every call is made on the event loop, in order."""

    def assigned(self, positions: Positions) -> None:
        """Take over partitions, each with the position that reading starts from."""

    def received(self, batch: Sequence[Record]) -> None:
        """Take records of assigned partitions."""

    async def drain(self, partitions: Sequence[Partition]) -> Positions:
        """Finish what is being handled of these partitions within a bounded time, then fence them.

        Returns:
            What may be committed.
        """
        ...

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Fence partitions that another member may own already: nothing more may be committed or sent."""

    def failed(self, error: MeshError) -> None:
        """Stop: the consumer can't go on."""


class GroupConsumer:
    """Joins the group, delivers records, commits what it is told to.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        group: the consumer group.
        topics: what to subscribe to.
        listener: is told everything, on the loop that makes this object.

    Raises:
        SettingsError: librdkafka refuses a property.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client_id: str,
        group: str,
        topics: Sequence[str],
        listener: GroupListener,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._group = group
        self._topics = list(topics)
        self._max_in_flight = settings.max_in_flight
        self.outages = OutageLog("consumer")
        properties = config.group_consumer(settings, client_id=client_id, group=group, on_error=self.outages)
        properties["on_commit"] = self._on_commit
        self._incremental = properties["group.protocol"] == "consumer"
        try:
            self._consumer = Consumer(properties)
        except KafkaException as error:
            raise translate(error, "setting up the consumer") from error
        self._assigned: dict[Partition, int] = {}  # with the epoch
        self._epoch = 0
        self._commits: queue.SimpleQueue[Positions] = queue.SimpleQueue()
        self._commits_open = 0
        self._delivered = 0  # written by the thread alone
        self._finished = 0  # written by the loop alone
        self._paused = False
        self._draining = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mesh-consumer", daemon=True)

    def start(self) -> None:
        """Join the group and begin to deliver."""
        self._thread.start()

    def finished(self, count: int) -> None:
        """Note that records are no longer in flight: settled, or given back."""
        self._finished += count

    def commit(self, positions: Positions) -> None:
        """Commit offsets, soon and without waiting; a failure is logged, the next commit covers it."""
        self._commits.put(positions)

    def stop_delivering(self) -> None:
        """Deliver nothing more, but stay in the group while handlers finish."""
        self._draining.set()

    async def close(self, positions: Positions, timeout: float) -> None:
        """Commit for the last time and leave the group.

        Args:
            positions: what to commit.
            timeout: how long to wait at most, seconds. While brokers are down librdkafka can't be closed; it is
                then left to the end of the process, and what was not committed comes again.
        """
        self._commits.put(positions)
        self._closing.set()
        await asyncio.to_thread(self._thread.join, timeout)
        if self._thread.is_alive():
            logger.warning(
                "Kafka did not take the last commit within %g s; some records will come again", timeout
            )

    # ── on the consumer's thread ──────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            self._consumer.subscribe(
                self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._closing.is_set():
                self._send_commits()
                self._control_flow()
                first = self._consumer.poll(_POLL_SECONDS)
                if first is not None:
                    # Not consume(n, timeout): it would wait for n records or the whole timeout.
                    self._deliver([first, *self._consumer.consume(_BATCH - 1, 0)])
            self._finish()
        except KafkaException as error:
            self._tell_failure(translate(error, f"consuming as group {self._group!r}"))
        except MeshError as error:
            self._tell_failure(error)

    def _deliver(self, messages: Sequence[KafkaMessage]) -> None:
        batch = []
        for message in messages:
            error = message.error()
            if error is not None:
                self._judge(error, message)
                continue
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if (
                topic is None
                or partition is None
                or offset is None
                or (topic, partition) not in self._assigned
            ):
                continue
            kind, timestamp = message.timestamp()
            batch.append(
                Record(
                    topic,
                    partition,
                    offset,
                    timestamp if kind else -1,
                    message.key(),
                    message.value(),
                    message.headers() or [],  # type: ignore[arg-type]  # the stubs say list, the client gives pairs
                )
            )
        if batch:
            self.outages.healed()
            self._delivered += len(batch)
            self._loop.call_soon_threadsafe(self._listener.received, batch)

    def _judge(self, error: KafkaError, message: KafkaMessage) -> None:
        """Decide on an event that is no record: most heal by themselves, some mean that we must stop."""
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET:
            raise DataLoss(
                f"records of {message.topic()} partition {message.partition()} that group {self._group!r} had not "
                f"handled are gone by retention; accept the loss with 'mesh topics reset-offsets {message.topic()} "
                f"--group {self._group} --to earliest' and start again"
            )
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            logger.info(
                "topic %s does not exist yet; its records are taken as soon as it does", message.topic()
            )
            return
        if code in (KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE):
            raise SettingsError(
                f"the broker does not know the KIP-848 group protocol ({error.str()}); "
                'set "group.protocol" = "classic" in the [kafka] table of mesh.toml'
            )
        translated = translate(error, f"consuming as group {self._group!r}")
        if error.fatal() or not (translated.retriable or code == KafkaError._MAX_POLL_EXCEEDED):
            raise translated from KafkaException(error)
        logger.warning("%s; the consumer goes on", translated.message)

    def _control_flow(self) -> None:
        in_flight = self._delivered - self._finished
        full = self._draining.is_set() or in_flight >= self._max_in_flight
        if full and not self._paused:
            self._paused = True
            self._consumer.pause(self._consumer.assignment())
        elif self._paused and not self._draining.is_set() and in_flight <= self._max_in_flight // 2:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())

    def _send_commits(self) -> None:
        """Send the newest positions of what is queued; positions only grow within an assignment."""
        newest: dict[Partition, Position] = {}
        while not self._commits.empty():
            newest.update(self._commits.get_nowait())
        owned = self._owned(newest)
        if owned:
            self._commit_without_waiting(owned)

    def _commit_without_waiting(self, offsets: list[TopicPartition]) -> None:
        self._commits_open += 1
        self._consumer.commit(offsets=offsets, asynchronous=True)

    def _owned(self, positions: Positions) -> list[TopicPartition]:
        """Keep what belongs to an assignment that still holds: the broker would take older ones, and go back."""
        return [
            TopicPartition(topic, partition, position.offset)
            for (topic, partition), position in positions.items()
            if self._assigned.get((topic, partition)) == position.epoch
        ]

    def _on_commit(self, error: KafkaError | None, _partitions: list[TopicPartition]) -> None:
        self._commits_open -= 1
        if error is not None and error.code() != KafkaError._NO_OFFSET:
            logger.warning(
                "a commit of group %s failed: %s; the next one covers it", self._group, error.str()
            )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        keys = [_key(partition) for partition in partitions]
        committed = _retry_while_coordinator_moves(consumer, partitions) if partitions else []
        positions = {}
        for place in committed:
            self._epoch += 1
            positions[_key(place)] = Position(self._epoch, max(place.offset, 0))
        starts = [
            TopicPartition(p.topic, p.partition, p.offset if p.offset >= 0 else OFFSET_BEGINNING)
            for p in committed
        ]
        if self._incremental:
            consumer.incremental_assign(starts)
        else:
            consumer.assign(starts)
        if starts:
            # librdkafka keeps a partition's pause over revoke and re-assign: set it to what holds now.
            (consumer.pause if self._paused else consumer.resume)(starts)
        self._assigned.update({key: position.epoch for key, position in positions.items()})
        if keys:
            logger.info("group %s: took over %s", self._group, _names(keys))
        # Told of no partitions too: with more instances than partitions that is all an instance hears on joining.
        self._loop.call_soon_threadsafe(self._listener.assigned, positions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        keys = [_key(partition) for partition in partitions if _key(partition) in self._assigned]
        if not keys or self._closing.is_set():  # closing: drained and committed already
            return
        positions = asyncio.run_coroutine_threadsafe(self._listener.drain(keys), self._loop).result()
        # A commit while no broker answers would block until one does; the new owner re-runs what it covers.
        owned = self._owned(positions)
        if owned and not self.outages.down:
            try:
                consumer.commit(offsets=owned, asynchronous=False)
            except KafkaException as error:
                logger.warning(
                    "the commit on giving up %s failed: %s; records come again", _names(keys), error
                )
        self._forget(keys)
        logger.info("group %s: gave up %s", self._group, _names(keys))

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        keys = [_key(partition) for partition in partitions if _key(partition) in self._assigned]
        self._forget(keys)
        if keys and not self._closing.is_set():
            logger.warning("group %s: lost %s; what was in work there comes again", self._group, _names(keys))
            self._loop.call_soon_threadsafe(self._listener.lost, keys)

    def _forget(self, keys: Sequence[Partition]) -> None:
        for key in keys:
            del self._assigned[key]

    def _finish(self) -> None:
        self._consumer.pause(self._consumer.assignment())
        self._send_commits()
        patience = time.monotonic() + _FINAL_COMMIT_SECONDS
        while self._commits_open and time.monotonic() < patience:
            self._consumer.poll(_POLL_SECONDS)
        self._consumer.close()

    def _tell_failure(self, error: MeshError) -> None:
        if not self._closing.is_set():
            self._loop.call_soon_threadsafe(self._listener.failed, error)


def _retry_while_coordinator_moves(
    consumer: Consumer, partitions: list[TopicPartition]
) -> list[TopicPartition]:
    """Read committed offsets; right after a broker's restart its coordinator answers only after a moment."""
    patience = time.monotonic() + _COMMITTED_TIMEOUT_SECONDS
    while True:
        try:
            answers: list[TopicPartition] = consumer.committed(partitions, timeout=_COMMITTED_TIMEOUT_SECONDS)
        except KafkaException as error:
            if time.monotonic() >= patience or not translate(error, "").retriable:
                raise
            time.sleep(_POLL_SECONDS)
            continue
        for answer in answers:
            if answer.error is not None:
                raise KafkaException(answer.error)
        return answers


def _key(partition: TopicPartition) -> Partition:
    return partition.topic, partition.partition


def _names(keys: Sequence[Partition]) -> str:
    return ", ".join(f"{topic}/{partition}" for topic, partition in sorted(keys))
