"""A compacted topic of one partition, read as a table: the latest value of each key.

On the way of a message: beside it. The registry, the policy and the identities of the mesh are such tables. Nothing
runs between two reads: each opens a consumer, reads up to the end as it was when the read began, and closes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, NewTopic

from broker_mesh.errors import DataLoss, MeshError, NotFound, Unavailable
from broker_mesh.kafka import config, topics
from broker_mesh.kafka.admin import known_brokers
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.settings import Settings

_POLL_SECONDS = 0.1
_BATCH = 1000
_RETRY_SECONDS = 0.02

_NO_TOPIC = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}
)
# A topic just made, or one whose leader changes: it passes (KIP-207 for offsets after a change).
_NOT_YET = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
    }
)


class TableRecord(NamedTuple):
    """One record of a table.

    Args:
        key: null keys become empty; compacted topics refuse them, others may hold them.
        value: None where the key was deleted.
        offset: where it stands.
    """

    key: bytes
    value: bytes | None
    offset: int


class CompactedTable:
    """A compacted single-partition topic as key and value. Blocking; safe to use from several threads.

    Args:
        settings: with `bootstrap_servers` set.
        topic: its name.
        client_id: how brokers name this client.
        isolation: whether records of open and aborted transactions are hidden.
        create: make the topic when it is missing; otherwise a missing one is an error.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        *,
        client_id: str,
        isolation: Literal["read_committed", "read_uncommitted"] = "read_committed",
        create: bool = False,
    ) -> None:
        self.topic = topic
        self.position = 0
        self._settings = settings
        self._client_id = client_id
        self._isolation = isolation
        self._create = create
        self._items: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    @property
    def items(self) -> Mapping[bytes, bytes]:
        """The latest value of each key, as of the last read; a view that later reads change."""
        return MappingProxyType(self._items)

    def read_to_end(self, timeout: float | None = None) -> list[TableRecord]:
        """Read from where the last read stopped to the end of the topic as it is now.

        Args:
            timeout: seconds to wait for Kafka at most; `connect_timeout_seconds` of the settings by default.

        Returns:
            The records that were new, in order. After an error none counts as read.

        Raises:
            Unavailable: Kafka did not answer in time.
            NotFound: the topic does not exist and is not to be made.
            DataLoss: the topic is shorter than it was: it was deleted or cut.
            MeshError: what else Kafka reports.
        """
        deadline = time.monotonic() + (self._settings.connect_timeout_seconds if timeout is None else timeout)
        with self._lock:
            outages = OutageLog(f"reader of {self.topic}")
            consumer = self._open(outages)
            try:
                low, end = self._bounds(consumer, deadline, outages)
                if end < self.position:
                    raise DataLoss(
                        f"topic {self.topic!r} ends at offset {end} and was read to {self.position} before: "
                        "it was deleted or cut; restart what uses it once it is restored"
                    )
                start = max(self.position, low)
                records = self._read(consumer, start, end, deadline, outages) if start < end else []
            finally:
                consumer.close()
            self.position = end
            for record in records:
                if record.value is None:
                    self._items.pop(record.key, None)
                else:
                    self._items[record.key] = record.value
            return records

    def _open(self, outages: OutageLog) -> Consumer:
        properties = {
            **config.reader(self._settings, client_id=self._client_id, on_error=outages),
            "isolation.level": self._isolation,
            # Markers and compacted tails are not delivered: only this event tells that the end is reached.
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
        try:
            return Consumer(properties)
        except KafkaException as error:
            raise translate(error, f"setting up the reader of topic {self.topic!r}") from error

    def _bounds(self, consumer: Consumer, deadline: float, outages: OutageLog) -> tuple[int, int]:
        """Ask for the first offset and the end; under read_committed that is before the first open transaction."""
        partition = TopicPartition(self.topic, 0)
        created = False
        while True:
            try:
                low, end = consumer.get_watermark_offsets(partition, timeout=_remaining(deadline))
            except KafkaException as error:
                code = error.args[0].code()
                passes = code in _NOT_YET or (code in _NO_TOPIC and self._create)
                if not passes or time.monotonic() >= deadline:
                    raise self._failed(error, outages) from error
                if code in _NO_TOPIC and not created:
                    make_table_topic(self._settings, self.topic, client_id=self._client_id)
                    created = True
                time.sleep(_RETRY_SECONDS)
            else:
                return low, end

    def _read(
        self, consumer: Consumer, start: int, end: int, deadline: float, outages: OutageLog
    ) -> list[TableRecord]:
        records: list[TableRecord] = []
        position = start
        consumer.assign([TopicPartition(self.topic, 0, start)])
        while position < end:
            if time.monotonic() >= deadline:
                raise self._unavailable(f"read to offset {position} of {end} in time", outages)
            first = consumer.poll(min(_POLL_SECONDS, _remaining(deadline)))
            # `consume` alone would wait for a full batch or its whole timeout.
            for message in [first, *consumer.consume(_BATCH, 0)] if first is not None else []:
                position = max(position, self._position_after(message, outages))
                offset = message.offset()
                if message.error() is None and offset is not None and offset < end:
                    records.append(TableRecord(message.key() or b"", message.value(), offset))
        return records

    def _position_after(self, message: KafkaMessage, outages: OutageLog) -> int:
        error, offset = message.error(), message.offset()
        if error is None:
            return (offset or 0) + 1
        if error.code() == KafkaError._PARTITION_EOF:
            return offset or 0
        if error.retriable():
            return 0
        raise self._failed(KafkaException(error), outages)

    def _failed(self, error: KafkaException, outages: OutageLog) -> MeshError:
        translated = translate(error, f"reading topic {self.topic!r}")
        if isinstance(translated, NotFound):
            return NotFound(f"topic {self.topic!r} does not exist")
        if isinstance(translated, Unavailable):
            return self._unavailable(error.args[0].str(), outages)
        return translated

    def _unavailable(self, problem: str, outages: OutageLog) -> MeshError:
        servers = self._settings.bootstrap_servers
        cause = outages.security_error or outages.last_error or problem
        return Unavailable(f"topic {self.topic!r} can't be read from Kafka at {servers}: {cause}")


def make_table_topic(settings: Settings, topic: str, *, client_id: str) -> None:
    """Make a table's topic; one that exists stays as it is.

    Args:
        settings: with `bootstrap_servers` set.
        topic: its name.
        client_id: how brokers name this client.

    Raises:
        Unavailable: Kafka did not answer in time.
        MeshError: the topic can't be made, with the reason.
    """
    properties = config.without(
        config.common(settings, client_id=client_id, on_error=OutageLog("admin client")),
        config.CONSUMER_ONLY + config.PRODUCER_ONLY,
    )
    timeout = settings.connect_timeout_seconds
    try:
        admin = AdminClient(properties)
        brokers = len(known_brokers(admin.list_topics(timeout=timeout)))
        kept = topics.replication(settings, brokers)
        new = NewTopic(
            topic,
            num_partitions=1,
            replication_factor=kept.factor,
            config={
                "cleanup.policy": "compact",
                "min.insync.replicas": str(kept.min_in_sync),
                "unclean.leader.election.enable": "false",
            },
        )
        admin.create_topics([new], operation_timeout=timeout, request_timeout=timeout)[topic].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise translate(error, f"creating topic {topic!r}") from error


def _remaining(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())
