"""A member of a service's consumer group, on a thread of its own.

On the way of a message: where it enters a service. Every call on librdkafka's consumer is made by this one
thread (a call from another starves behind the poll loop); the event loop gets batches and events from it in
the order in which they happened, and hands it commits.

Flow control: the thread counts what it has delivered of each topic, the loop what it has finished. At `max_in_flight`
the topic is paused while polling goes on, so that slow handlers never cost the membership. Each topic by itself: one
operation's handlers may wait for another's, which has to go on then. A record that waits for its time does not count
while it does (`waiting.py` bounds those), or what is due would stand behind what is not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from broker_mesh.errors import DataLoss, InternalError, MeshError, SettingsError
from broker_mesh.kafka import config
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.records import to_record
from broker_mesh.kafka.watch import Watch
from broker_mesh.message import Record
from broker_mesh.settings import Settings

logger = logging.getLogger(__name__)

Partition: TypeAlias = tuple[str, int]


NOTHING_COMMITTED = -1


class Position(NamedTuple):
    """An offset within one assignment of a partition.

    Args:
        epoch: counts assignments; what belongs to an earlier one is never committed.
        offset: where reading starts (`NOTHING_COMMITTED` for the first record that is kept), or what is to be
            committed.
    """

    epoch: int
    offset: int


Positions: TypeAlias = Mapping[Partition, Position]

_POLL_SECONDS = 0.05
_BATCH = 500
_COMMITTED_TIMEOUT_SECONDS = 10.0
_FINAL_COMMIT_SECONDS = 3.0
_COMMIT_AGAIN_SECONDS = 1.0
# Above what a service takes for a drain: only a loop that is blocked needs longer.
_DRAIN_PATIENCE_SECONDS = 10.0

T = TypeVar("T")


class GroupListener(Protocol):
    """What a `GroupConsumer` tells its service; every call is made on the event loop, in order."""

    def assigned(self, positions: Positions) -> None:
        """Take over partitions, each with the position that reading starts from."""

    def received(self, batch: Sequence[Record]) -> None:
        """Take records of assigned partitions."""

    def drain(self, partitions: Sequence[Partition]) -> Coroutine[Any, Any, Positions]:
        """Finish what is being handled of these partitions within a bounded time, then fence them.

        Returns:
            What may be committed.
        """
        ...

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
        self.watch = Watch()
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
        self._ever_committed: set[Partition] = set()
        self._sent: dict[Partition, Position] = {}  # the last commit of each partition that is assigned
        self._delivered = dict.fromkeys(topics, 0)  # written by the thread alone
        self._finished = dict.fromkeys(topics, 0)  # written by the loop alone
        self._full: set[str] = set()
        self._hold: frozenset[Partition] = frozenset()  # replaced by the loop, read by the thread
        self._stopped: set[Partition] = set()  # what librdkafka was told to pause
        self._failed_commits: set[Partition] = set()
        self._commit_again_at = 0.0
        self._draining = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mesh-consumer", daemon=True)

    @property
    def delivered(self) -> Mapping[str, int]:
        """How many records of each topic Kafka has delivered."""
        return self._delivered.copy()

    def start(self) -> None:
        """Join the group and begin to deliver."""
        self._thread.start()

    def finished(self, topic: str, count: int) -> None:
        """Note that records of a topic are no longer in flight: settled, or given back."""
        self._finished[topic] += count

    def resumed(self, topic: str, count: int) -> None:
        """Note that records which were given back for a while, to wait for their time, are in flight again."""
        self._finished[topic] -= count

    def commit(self, positions: Positions) -> None:
        """Commit offsets, soon and without waiting; a failure is logged, and tried again."""
        self._commits.put(positions)

    def hold(self, partitions: Iterable[Partition]) -> None:
        """Take no more records of these partitions for now, and of all others again."""
        self._hold = frozenset(partitions)

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
                self.watch.look(self._consumer, self._assigned, self._stopped)
                first = self._consumer.poll(_POLL_SECONDS)
                if first is not None:
                    # Not consume(n, timeout): it would wait for n records or the whole timeout.
                    self._deliver([first, *self._consumer.consume(_BATCH - 1, 0)])
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
        # After a failure the service drains first: what it settled is still committed, and the group left in order.
        self._closing.wait()
        try:
            self._finish()
        except KafkaException as error:
            logger.warning("leaving group %s failed: %s; its session ends by itself", self._group, error)

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
            for record in batch:
                self._delivered[record.topic] += 1
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

    def _control_flow(self) -> None:
        for topic, delivered in self._delivered.items():
            in_flight = delivered - self._finished[topic]
            if in_flight >= self._max_in_flight:
                self._full.add(topic)
            elif in_flight <= self._max_in_flight // 2:
                self._full.discard(topic)
        rests = self._draining.is_set()
        held = {key for key in self._assigned if rests or key[0] in self._full or key in self._hold}
        if held - self._stopped:
            self._consumer.pause(_places(held - self._stopped))
        if self._stopped - held:
            self._consumer.resume(_places((self._stopped - held) & self._assigned.keys()))
        self._stopped = held

    def _send_commits(self) -> None:
        """Send the newest of the positions that are queued, and once a second those whose last commit failed."""
        newest: dict[Partition, Position] = {}
        if self._failed_commits and time.monotonic() >= self._commit_again_at:
            failed, self._failed_commits = self._failed_commits, set()
            newest = {key: self._sent[key] for key in failed if key in self._sent}
        while not self._commits.empty():
            for key, position in self._commits.get_nowait().items():
                newest[key] = max(position, newest.get(key, position))
        self._commit_owned(newest)

    def _commit_owned(self, positions: Positions) -> None:
        owned = self._owned(positions)
        if owned:
            self._sent.update({key: position for key, position in positions.items() if key in self._assigned})
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

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        self._commits_open -= 1
        if error is not None and error.code() == KafkaError._NO_OFFSET:
            return
        problems = {_key(place): place.error or error for place in partitions}
        failed = {key for key, problem in problems.items() if problem is not None}
        if failed:
            logger.warning(
                "a commit of group %s on %s failed: %s; it is tried again",
                self._group,
                _names(sorted(failed)),
                next(problem.str() for problem in problems.values() if problem is not None),
            )
            self._commit_again_at = time.monotonic() + _COMMIT_AGAIN_SECONDS
            # What was sent last is what is tried again; where it was given up meanwhile, the new owner goes on.
            self._failed_commits |= failed & self._sent.keys()
        else:
            self.outages.healed()
        first = problems.keys() - failed - self._ever_committed
        if first:
            self._ever_committed |= first
            self._tell(self._listener.committed, first)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        keys = [_key(partition) for partition in partitions]
        committed = _retry_while_coordinator_moves(consumer, partitions) if partitions else []
        positions = {}
        for place in committed:
            self._epoch += 1
            positions[_key(place)] = Position(self._epoch, max(place.offset, NOTHING_COMMITTED))
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
        if keys:
            logger.info("group %s: took over %s", self._group, _names(keys))
        # Told of no partitions too: with more instances than partitions that is all an instance hears on joining.
        self._tell(self._listener.assigned, positions)

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        keys = [_key(partition) for partition in partitions if _key(partition) in self._assigned]
        if not keys:
            return
        if not self._closing.is_set():  # else drained already, and the last commit is on its way
            # Without waiting: it goes out before the revocation is confirmed, and a broker that is away would hold
            # us here until it is back. What does not arrive is run again by the new owner.
            self._commit_owned(self._drained(keys))
        self._forget(keys)
        logger.info("group %s: gave up %s", self._group, _names(keys))

    def _drained(self, keys: Sequence[Partition]) -> Positions:
        """Have the service finish its work on partitions; nothing may be committed when it can't answer."""
        drain = self._listener.drain(keys)
        try:
            return asyncio.run_coroutine_threadsafe(drain, self._loop).result(_DRAIN_PATIENCE_SECONDS)
        except RuntimeError:  # the loop is closed
            drain.close()
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            logger.warning("the event loop did not give up %s in time; its records come again", _names(keys))
            self._tell(self._listener.lost, keys)
        return {}

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        keys = [_key(partition) for partition in partitions if _key(partition) in self._assigned]
        self._forget(keys)
        if keys and not self._closing.is_set():
            logger.warning("group %s: lost %s; what was in work there comes again", self._group, _names(keys))
            self._tell(self._listener.lost, keys)

    def _forget(self, keys: Sequence[Partition]) -> None:
        for key in keys:
            del self._assigned[key]
            self._stopped.discard(key)
            self._failed_commits.discard(key)
            self._sent.pop(key, None)
        self._hold -= set(keys)

    def _finish(self) -> None:
        self._consumer.pause(self._consumer.assignment())
        self._commit_again_at = 0.0
        self._send_commits()
        patience = time.monotonic() + _FINAL_COMMIT_SECONDS
        while self._commits_open and time.monotonic() < patience:
            self._consumer.poll(_POLL_SECONDS)
        self._consumer.close()

    def _tell_failure(self, error: MeshError) -> None:
        if not self._closing.is_set():
            self._tell(self._listener.failed, error)

    def _tell(self, listen: Callable[[T], None], fact: T) -> None:
        try:
            self._loop.call_soon_threadsafe(listen, fact)
        except RuntimeError:
            logger.debug("the event loop is closed; nobody hears %r", fact)


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


def _places(keys: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition) for topic, partition in sorted(keys)]


def _names(keys: Sequence[Partition]) -> str:
    return ", ".join(f"{topic}/{partition}" for topic, partition in sorted(keys))
