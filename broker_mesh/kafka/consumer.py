"""A member of a service's consumer group, on a thread of its own.

On the way of a message: where it enters a service. Every call on librdkafka's consumer is made by this one
thread (a call from another starves behind the poll loop); the event loop gets batches and events from it in
the order in which they happened, and hands it commits (`commits.py`). How much it takes is `flow.py`'s business.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from broker_mesh.errors import DataLoss, InternalError, MeshError, SettingsError
from broker_mesh.kafka import config
from broker_mesh.kafka.commits import Commits
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.flow import Flow
from broker_mesh.kafka.membership import Membership
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.positions import (
    NOTHING_COMMITTED,
    Partition,
    Position,
    Positions,
    names,
    partition_of,
)
from broker_mesh.kafka.reading import Reading
from broker_mesh.kafka.records import to_record
from broker_mesh.kafka.subscription import Subscription
from broker_mesh.kafka.watch import Watch, reached
from broker_mesh.message import Record
from broker_mesh.settings import Settings

logger = logging.getLogger(__name__)

__all__ = ["NOTHING_COMMITTED", "GroupConsumer", "GroupListener", "Partition", "Position", "Positions"]

_POLL_SECONDS = 0.05
# While somebody waits for a commit: nothing wakes a poll, and each is sent between two of them.
_PROMPT_POLL_SECONDS = 0.002
_PROMPT_SECONDS = 0.3
_COMMITTED_TIMEOUT_SECONDS = 10.0
_COMMITTED_PATIENCE_SECONDS = (
    120.0  # below max.poll.interval.ms, as long as a broker on a busy machine may take
)
_FINAL_COMMIT_SECONDS = 3.0
# Above what a service takes for a drain: only a loop that is blocked needs longer.
_DRAIN_PATIENCE_SECONDS = 10.0

T = TypeVar("T")


class GroupListener(Protocol):
    """What a `GroupConsumer` tells its service; every call is made on the event loop, in order."""

    def assigned(self, positions: Positions) -> None:
        """Take over partitions, each with the position that reading starts from."""

    def received(self, batch: Sequence[Record]) -> None:
        """Take records of assigned partitions."""

    def reached(self, positions: Positions) -> None:
        """Note how far partitions are read: what lies before, and was not received, is no record."""

    def drain(self, partitions: Sequence[Partition]) -> Coroutine[Any, Any, Positions]:
        """Finish what is being handled of these partitions within a bounded time, then fence them.

        Returns:
            What may be committed.
        """
        ...

    def acknowledged(self, positions: Positions) -> None:
        """Note that Kafka has taken these commits; of one that a newer one has followed nothing is heard."""

    def committed(self, partitions: Collection[Partition]) -> None:
        """Note that the group has committed on these partitions, for the first time in this process."""

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

    Attributes:
        outages: logs that brokers are away.
        watch: what it knows of its partitions, for any thread to read.
        flow: how much of each topic may be in flight, for the loop to read and to adapt.
        subscription: to its topics; it can be renewed.
        membership: whether it is certain that what is assigned still is.

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
        self.subscription = Subscription(topics, self._on_assign, self._on_revoke, self._on_lost)
        self.outages = OutageLog("consumer")
        self.watch = Watch()
        properties = config.group_consumer(settings, client_id=client_id, group=group, on_error=self.outages)
        self._assigned: dict[Partition, int] = {}  # with the epoch
        self._begun: set[Partition] = set()  # those of them that have delivered
        self._reading = Reading()
        self._rebalances = 0
        self._told_reached: Positions = {}
        self._prompt_until = 0.0
        self._epoch = 0
        self._commits = Commits(
            group, self._assigned, self._commit_taken, self._tell_acknowledged, self._tell_committed
        )
        self.membership = Membership()
        self.flow = Flow(topics, settings.concurrency, settings.max_in_flight)
        properties["on_commit"] = self._commits.answered
        self._incremental = properties["group.protocol"] == "consumer"
        try:
            self._consumer = Consumer(properties)
        except KafkaException as error:
            raise translate(error, "setting up the consumer") from error
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mesh-consumer", daemon=True)

    @property
    def delivered(self) -> Mapping[str, int]:
        """How many records of each topic Kafka has delivered."""
        return self.flow.delivered

    def start(self) -> None:
        """Join the group and begin to deliver."""
        self._thread.start()

    def finished(self, topic: str, count: int) -> None:
        """Note that records of a topic are no longer in flight: settled, or given back."""
        self.flow.finished(topic, count)

    def resumed(self, topic: str, count: int) -> None:
        """Note that records which were given back for a while, to wait for their time, are in flight again."""
        self.flow.finished(topic, -count)

    def lacks_room(self, topic: str, waiting: int) -> bool:
        """Tell whether nothing more of a topic is taken, or soon will be, for as many records of it as wait."""
        return self.flow.lacks_room(topic, waiting)

    def commit(self, positions: Positions, *, awaited: bool = False) -> None:
        """Commit offsets, soon and without waiting; a failure is logged, and tried again.

        Args:
            positions: what to commit.
            awaited: whether work waits for the acknowledgement: then more such commits follow, and are sent at once.
        """
        if awaited:
            self._prompt_until = time.monotonic() + _PROMPT_SECONDS
        self._commits.put(positions)

    def hold(self, partitions: Iterable[Partition]) -> None:
        """Take no more records of these partitions for now, and of all others again."""
        self.flow.hold(partitions)

    def stop_delivering(self) -> None:
        """Deliver nothing more, but stay in the group while handlers finish."""
        self.flow.stop()

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
            while not self._closing.is_set():
                self.subscription.keep(self._consumer, self._assigned)
                self._commits.send(self._consumer)
                self.membership.look(self._commits, self._consumer, owns=bool(self._assigned))
                batch = self.flow.control(self._consumer, self._assigned.keys())
                if self.watch.look(self._consumer, self._assigned, self.flow.paused):
                    self._tell_reached()
                prompt = time.monotonic() < self._prompt_until
                first = self._consumer.poll(_PROMPT_POLL_SECONDS if prompt else _POLL_SECONDS)
                if first is not None:
                    self._deliver_batch(first, batch)
        except KafkaException as error:
            self._tell_failure(translate(error, f"consuming as group {self._group!r}"))
        except MeshError as error:
            self._tell_failure(error)
        except Exception as bug:
            # Whatever ends this thread must be heard, or the service would hang with its partitions.
            logger.exception("the consumer of group %s failed inside the mesh", self._group)
            failure = InternalError(f"{type(bug).__name__} in the consumer of the mesh: {bug}")
            failure.__cause__ = bug
            self._tell_failure(failure)
        self.membership.end()
        # After a failure the service drains first: what it settled is still committed, and the group left in order.
        self._closing.wait()
        try:
            self._finish()
        except KafkaException as error:
            logger.warning("leaving group %s failed: %s; its session ends by itself", self._group, error)

    def _deliver_batch(self, first: KafkaMessage, most: int) -> None:
        epoch, rebalances = self._assigned.get(_place(first)), self._rebalances
        # Not consume(n, timeout): it would wait for n records or the whole timeout.
        more = self._consumer.consume(most - 1, 0)
        if self._rebalances == rebalances:
            self._deliver([first, *more])
            return
        # A rebalance was served within: the first record may be of an assignment that is over.
        is_ours = first.error() is not None or self._assigned.get(_place(first)) == epoch
        self._deliver([first, *more] if is_ours else more)
        self._reading.read_again(self._consumer, self._assigned)

    def _deliver(self, messages: Sequence[KafkaMessage]) -> None:
        batch = []
        for message in messages:
            error = message.error()
            if error is not None:
                self._judge(error, message)
                continue
            record = to_record(message)
            if (record.topic, record.partition) in self._assigned:
                batch.append(record)
        if batch:
            self.outages.healed()
            self.flow.count(batch)
            self._reading.delivered(batch)
            begun = {(record.topic, record.partition) for record in batch}
            if not begun <= self._begun:  # the service commits before it handles what came first
                self._begun |= begun
                self._prompt_until = time.monotonic() + _PROMPT_SECONDS
            self._tell(self._listener.received, batch)

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

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._rebalances += 1
        keys = [partition_of(partition) for partition in partitions]
        committed = _retry_while_coordinator_moves(consumer, partitions) if partitions else []
        positions = {}
        for place in committed:
            self._epoch += 1
            offset = max(place.offset, NOTHING_COMMITTED)
            positions[partition_of(place)] = Position(self._epoch, offset, place.metadata or "")
        starts = [
            TopicPartition(p.topic, p.partition, p.offset if p.offset >= 0 else OFFSET_BEGINNING)
            for p in committed
        ]
        if self._incremental:
            consumer.incremental_assign(starts)
        else:
            consumer.assign(starts)
        if starts:
            # librdkafka keeps a partition's pause over revoke and re-assign: begin from what we know.
            consumer.resume(starts)
            self.outages.healed()
        self._assigned.update({key: position.epoch for key, position in positions.items()})
        starting = {key: position.offset for key, position in positions.items()}
        self._reading.begin(starting, reached(consumer, keys))
        if keys:
            logger.info("group %s: took over %s", self._group, names(keys))
        # Told of no partitions too: with more instances than partitions that is all an instance hears on joining.
        self._tell(self._listener.assigned, positions)

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._rebalances += 1
        keys = [key for key in map(partition_of, partitions) if key in self._assigned]
        if not keys:
            return
        # Without waiting: it goes out before the revocation is confirmed, and a broker that is away would hold us here
        # until it is back. What does not arrive is run again by the new owner.
        if self._closing.is_set():  # drained already; the last commit may still be queued
            self._commits.send(self._consumer)
        else:
            self._commits.send_now(self._consumer, self._drained(keys))
        self._forget(keys)
        logger.info("group %s: gave up %s", self._group, names(keys))

    def _drained(self, keys: Sequence[Partition]) -> Positions:
        """Have the service finish its work on partitions; nothing may be committed when it can't answer."""
        given_up = threading.Event()

        async def drain_in_time() -> Positions:
            # The loop may come to this only when the partitions have come back, and are another assignment's.
            return {} if given_up.is_set() else await self._listener.drain(keys)

        drain = drain_in_time()
        until = time.monotonic() + _DRAIN_PATIENCE_SECONDS
        try:
            draining = asyncio.run_coroutine_threadsafe(drain, self._loop)
            while not draining.done() and time.monotonic() < until:
                concurrent.futures.wait([draining], _POLL_SECONDS)
                self.membership.beat()
            return draining.result(0)
        except RuntimeError:  # the loop is closed
            drain.close()
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            given_up.set()
            logger.warning("the event loop did not give up %s in time; its records come again", names(keys))
            self._tell(self._listener.lost, keys)
        return {}

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._rebalances += 1
        keys = [key for key in map(partition_of, partitions) if key in self._assigned]
        self._forget(keys)
        if keys and not self._closing.is_set():
            logger.warning("group %s: lost %s; what was in work there comes again", self._group, names(keys))
            self._tell(self._listener.lost, keys)

    def _forget(self, keys: Sequence[Partition]) -> None:
        for key in keys:
            del self._assigned[key]
            self._begun.discard(key)
        self._commits.forget(keys)
        self._reading.forget(keys)
        self.flow.forget(keys)

    def _finish(self) -> None:
        self._consumer.pause(self._consumer.assignment())
        self._commits.send(self._consumer, all_failed=True)
        patience = time.monotonic() + _FINAL_COMMIT_SECONDS
        while self._commits.open and time.monotonic() < patience:
            self._consumer.poll(_POLL_SECONDS)
        self._consumer.close()

    def _commit_taken(self) -> None:
        self.outages.healed()
        self.membership.taken(self._commits.open)

    def _tell_acknowledged(self, positions: Positions) -> None:
        self._tell(self._listener.acknowledged, positions)

    def _tell_committed(self, partitions: Collection[Partition]) -> None:
        self._tell(self._listener.committed, partitions)

    def _tell_failure(self, error: MeshError) -> None:
        if not self._closing.is_set():
            self._tell(self._listener.failed, error)

    def _tell_reached(self) -> None:
        """Tell what partitions are read to, where that is news: behind all records that the loop was given before."""
        told = {
            key: Position(self._assigned[key], offset)
            for key, offset in self._reading.certain(self.watch.reached).items()
            if key in self._assigned
        }
        news = {key: place for key, place in told.items() if self._told_reached.get(key) != place}
        if news:
            self._told_reached = told
            self._tell(self._listener.reached, news)

    def _tell(self, listen: Callable[[T], None], fact: T) -> None:
        try:
            self._loop.call_soon_threadsafe(listen, fact)
        except RuntimeError:
            logger.debug("the event loop is closed; nobody hears %r", fact)


def _place(message: KafkaMessage) -> Partition:
    return message.topic() or "", -1 if (partition := message.partition()) is None else partition


def _retry_while_coordinator_moves(
    consumer: Consumer, partitions: list[TopicPartition]
) -> list[TopicPartition]:
    """Read committed offsets; right after a broker's restart its coordinator answers only after a moment."""
    patience = time.monotonic() + _COMMITTED_PATIENCE_SECONDS
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
