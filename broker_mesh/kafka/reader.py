"""Reading partitions without a group: replies, looking one up, watching a topic.

On the way of a message: where a reply comes back to its caller. As with the group consumer, one thread makes
every call on librdkafka's consumer.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from broker_mesh.errors import FailedPrecondition, InternalError, MeshError, Unavailable
from broker_mesh.headers import Place
from broker_mesh.kafka import config
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.records import to_record
from broker_mesh.message import Record
from broker_mesh.settings import Settings

logger = logging.getLogger(__name__)

Partition: TypeAlias = tuple[str, int]

_POLL_SECONDS = 0.05
_BATCH = 500
_QUERY_SECONDS = 10.0

_SCAN = {
    "enable.partition.eof": True,
    # librdkafka would fetch 100,000 records of each partition ahead, or 64 MB, which counts neither headers nor its own
    # 500 bytes a record: seen as 100 MB for small ones. With 1000 instead, records with headers of 500 kB were seen to
    # take 1.1 GB where what is read is printed slowly; small ones come no faster.
    "queued.min.messages": 100,
    "queued.max.messages.kbytes": 8 * 1024,
    "fetch.max.bytes": 8 * 1024 * 1024,
}


class _Request(NamedTuple):
    topic: str
    partition: int
    start: int | None
    captured: asyncio.Future[int]


class TailReader:
    """Follows partitions from captured offsets on, and gives batches to the event loop.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        received: gets batches, on the loop that makes this object.
        failed: gets an error that ends the reading, on that loop.
        name: what log lines and errors call what is read.
        more: properties of the consumer, in place of the mesh's own.

    Raises:
        SettingsError: librdkafka refuses a property.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client_id: str,
        received: Callable[[Sequence[Record]], None],
        failed: Callable[[MeshError], None],
        name: str = "replies",
        more: Mapping[str, bool | int] = MappingProxyType({}),
    ) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._received = received
        self._failed = failed
        self._outages = OutageLog(f"reader of {name}")
        self._consumer = open_consumer(settings, client_id, self._outages, more)
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._followed: set[Partition] = set()
        self._closing = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="mesh-reader", daemon=True)
        self._thread.start()

    async def follow(self, topic: str, partition: int, start: int | None = None) -> int:
        """Follow a partition from its current end on; a partition that is followed stays as it is.

        Args:
            topic, partition: what is followed.
            start: the offset to begin with, where it is known already.

        Returns:
            The end offset that was captured, or the start: every record from there on is given to `received`.

        Raises:
            MeshError: the partition does not exist, or Kafka can't be asked.
        """
        captured: asyncio.Future[int] = self._loop.create_future()
        self._requests.put(_Request(topic, partition, start, captured))
        if self._ended:  # after the last look at the queue: nobody else answers
            self._refuse_requests()
        return await captured

    async def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        await asyncio.to_thread(self._thread.join, _QUERY_SECONDS)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._take_requests()
                if not self._followed:
                    time.sleep(_POLL_SECONDS)
                    continue
                first = self._consumer.poll(_POLL_SECONDS)
                if first is None:
                    continue
                batch = list(_records([first, *self._consumer.consume(_BATCH - 1, 0)]))
                if batch:
                    self._outages.healed()
                    self._loop.call_soon_threadsafe(self._received, batch)
        except KafkaException as error:
            self._tell_failure(translate(error, f"reading {self._name}"))
        except MeshError as error:
            self._tell_failure(error)
        except Exception as bug:  # whatever ends this thread must be heard, or callers would wait for ever
            logger.exception("reading %s failed inside the mesh", self._name)
            failure = InternalError(f"{type(bug).__name__} in the reader of the mesh: {bug}")
            failure.__cause__ = bug
            self._tell_failure(failure)
        finally:
            self._consumer.close()
            self._ended = True
            self._refuse_requests()

    def _tell_failure(self, error: MeshError) -> None:
        self._loop.call_soon_threadsafe(self._failed, error)

    def _take_requests(self) -> None:
        while not self._requests.empty():
            topic, partition, start, captured = self._requests.get_nowait()
            try:
                # A numeric end, captured before the first send: following from OFFSET_END misses records that
                # arrive while the position is being looked up.
                end = end_offset(self._consumer, topic, partition) if start is None else start
                if (topic, partition) not in self._followed:
                    self._consumer.incremental_assign([TopicPartition(topic, partition, end)])
                    self._followed.add((topic, partition))
            except KafkaException as error:
                refused = translate(error, f"following {topic}/{partition}")
                refused.__cause__ = error
                self._loop.call_soon_threadsafe(_reject, captured, refused)
            except MeshError as error:
                self._loop.call_soon_threadsafe(_reject, captured, error)
            else:
                self._loop.call_soon_threadsafe(_resolve, captured, end)

    def _refuse_requests(self) -> None:
        while not self._requests.empty():
            captured = self._requests.get_nowait().captured
            error = FailedPrecondition(f"the reader of {self._name} is closed")
            self._loop.call_soon_threadsafe(_reject, captured, error)


def open_consumer(
    settings: Settings, client_id: str, outages: OutageLog, more: Mapping[str, bool | int | str] | None = None
) -> Consumer:
    """Make a consumer that joins no group, with some more properties.

    Raises:
        SettingsError: librdkafka refuses a property.
    """
    try:
        return Consumer({**config.reader(settings, client_id=client_id, on_error=outages), **(more or {})})
    except KafkaException as error:
        raise translate(error, "setting up a reader") from error


def end_offset(consumer: Consumer, topic: str, partition: int) -> int:
    """Ask for a partition's end: the offset that the next record will get (blocking).

    Raises:
        MeshError: the partition does not exist, or Kafka did not answer within 10 s.
    """
    return watermarks(consumer, topic, partition)[1]


def watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """Ask for the first offset that is kept and the offset that the next record will get (blocking).

    Raises:
        MeshError: the partition does not exist, or Kafka did not answer within 10 s.
    """
    patience = time.monotonic() + _QUERY_SECONDS
    while True:
        try:
            low, high = consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=_QUERY_SECONDS
            )
        except KafkaException as error:
            translated = translate(error, f"asking for the end of {topic}/{partition}")
            # A brand-new topic may have no leader for a moment.
            if not translated.retriable or time.monotonic() >= patience:
                raise translated from error
            time.sleep(_POLL_SECONDS)
        except TypeError as error:  # librdkafka gave no answer in time: the binding returns None
            raise Unavailable(
                f"asking for the end of {topic}/{partition}: no answer within {_QUERY_SECONDS:g} s"
            ) from error
        else:
            return low, high


def scan(
    settings: Settings,
    *,
    client_id: str,
    partitions: Mapping[Partition, int],
    since: int | None,
    stop: threading.Event,
    begun: Callable[[Mapping[Partition, int]], None] = lambda _: None,
    start: Mapping[Partition, int] | None = None,
    whole: bool = False,
) -> Iterator[Record]:
    """Read partitions from a point in time, or from an offset, to a captured end (blocking).

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        partitions: each with the end offset where its scan stops.
        since: epoch ms by the records' timestamps; None for the first record kept.
        stop: ends the scan early.
        begun: told once at which offset each partition's scan starts.
        start: the offset of each partition to begin with, where that is known; `since` is not asked then.
        whole: whether it is an error that a partition can't be read to its end now, instead of the end of its scan.

    Yields:
        Records; within a partition in order.

    Raises:
        Unavailable: a partition ends earlier for now: a transaction is open on it, or its leader is new.
        MeshError: Kafka can't be asked.
    """
    consumer = open_consumer(settings, client_id, OutageLog("scan"), _SCAN)
    try:
        starts = _starts(consumer, partitions, since) if start is None else start
        begun(starts)
        unread = {key for key, start in starts.items() if start < partitions[key]}
        consumer.assign([TopicPartition(*key, starts[key]) for key in sorted(unread)])
        while unread and not stop.is_set():
            first = consumer.poll(_POLL_SECONDS)
            messages = [] if first is None else [first, *consumer.consume(_BATCH - 1, 0)]
            for record in _records(messages):
                end = partitions[record.topic, record.partition]
                if record.offset < end:
                    yield record
                if record.offset + 1 >= end:
                    unread.discard((record.topic, record.partition))
            # The last offsets may be transaction markers or compacted away: then only the end is reported.
            for key, offset in _ended(messages):
                if whole and key in unread and offset < partitions[key]:
                    raise Unavailable(
                        f"{key[0]}/{key[1]} can be read up to {offset} now, and ends at {partitions[key]}: a "
                        "transaction is open on it, or its leader is new"
                    )
                unread.discard(key)
    except KafkaException as error:
        raise translate(error, "reading records") from error
    finally:
        consumer.close()


def record_at(settings: Settings, *, client_id: str, place: Place) -> Record | None:
    """Read one record (blocking).

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        place: where it stands.

    Returns:
        None where no record stands there: not yet, no longer, or it was the marker of a transaction.

    Raises:
        NotFound: there is no such topic or partition.
        MeshError: Kafka can't be asked, or did not answer within 10 s.
    """
    partition = place.topic, place.partition
    patience = time.monotonic() + _QUERY_SECONDS
    consumer = open_consumer(settings, client_id, OutageLog("look-up"), {"enable.partition.eof": True})
    try:
        first, end = watermarks(consumer, *partition)
        if not first <= place.offset < end:
            return None
        consumer.assign([TopicPartition(*partition, place.offset)])
        while time.monotonic() < patience:
            message = consumer.poll(_POLL_SECONDS)
            messages = [] if message is None else [message]
            for record in _records(messages):
                return record if record.offset == place.offset else None
            if any(key == partition for key, _ in _ended(messages)):
                return None
    except KafkaException as error:
        raise translate(error, f"reading {place}") from error
    finally:
        consumer.close()
    raise Unavailable(f"reading {place}: no answer within {_QUERY_SECONDS:g} s")


def _ended(messages: Sequence[KafkaMessage]) -> Iterator[tuple[Partition, int]]:
    """Give the partitions that were read to their end as it is for this reader, each with that."""
    for message in messages:
        error, topic, partition = message.error(), message.topic(), message.partition()
        if (
            error is not None
            and error.code() == KafkaError._PARTITION_EOF
            and topic
            and partition is not None
        ):
            yield (topic, partition), message.offset() or 0


def _starts(
    consumer: Consumer, partitions: Mapping[Partition, int], since: int | None
) -> dict[Partition, int]:
    if since is None:
        return {key: watermarks(consumer, *key)[0] for key in partitions}
    found = consumer.offsets_for_times(
        [TopicPartition(*key, since) for key in partitions], timeout=_QUERY_SECONDS
    )
    for place in found:
        if place.error is not None:
            raise translate(place.error, f"looking for the start in {place.topic}/{place.partition}")
    return {
        (place.topic, place.partition): place.offset
        if place.offset not in (-1, OFFSET_END)
        else partitions[place.topic, place.partition]
        for place in found
    }


def _records(messages: Sequence[KafkaMessage]) -> Iterator[Record]:
    for message in messages:
        error = message.error()
        if error is not None:
            translated = translate(error, f"reading {message.topic()}/{message.partition()}")
            if error.code() == KafkaError._PARTITION_EOF or (translated.retriable and not error.fatal()):
                continue
            raise translated from KafkaException(error)
        yield to_record(message)


def _resolve(captured: asyncio.Future[int], end: int) -> None:
    if not captured.done():
        captured.set_result(end)


def _reject(captured: asyncio.Future[int], error: MeshError) -> None:
    if not captured.done():
        captured.set_exception(error)
