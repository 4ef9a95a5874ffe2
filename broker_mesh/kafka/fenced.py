"""Writers of which only the latest counts: a fixed transactional id, and plain sends that wait for all replicas.

On the way of a message: beside it, where processes must agree on the next of something, such as schema ids. Who
opens the writer fences all who opened it before: their transactions end in Aborted, whatever they have read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage

from broker_mesh.errors import Aborted, MeshError, Unavailable
from broker_mesh.kafka import config
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.settings import Settings

# A writer that hangs in a transaction hides what follows it for as long, and 10 s more (the broker looks that often).
_TRANSACTION_TIMEOUT_MS = 10_000

# librdkafka's default of 100 ms is waited out in every transaction, since the first try comes too early.
_RETRY_BACKOFF_MS = 5

_TAKEN_OVER = frozenset(
    {
        KafkaError._FENCED,
        KafkaError._STATE,
        # How produce() tells of it, once librdkafka has learnt of it after the transaction's beginning.
        KafkaError._FATAL,
        # What Kafka 4.3 was seen to answer to a commit that ran into the next writer's opening.
        KafkaError.UNKNOWN,
    }
)

# What becomes of the other records of a transaction that fails; it says nothing of the reason.
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})

logger = logging.getLogger(__name__)

# Outside the tree of loggers, so that nobody hears it.
_silent = logging.Logger("librdkafka", logging.CRITICAL + 1)


class NewRecord(NamedTuple):
    """A record to be written.

    Args:
        topic: an existing topic.
        key, value: bytes; None for none.
        headers: in wire form.
        partition: -1 for by key.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int = 0


class FencedWriter:
    """The one writer of a domain, for as long as nobody opens it anew. Blocking; use as a context manager.

    Args:
        settings: with `bootstrap_servers` set.
        transactional_id: the domain.
        client_id: how brokers name this client.
        deadline: monotonic seconds by which all must be done.

    Raises:
        Aborted: a rival opened it at the same time; try again after a random wait.
        Unavailable: Kafka did not answer in time.
        MeshError: what else Kafka reports.
    """

    def __init__(self, settings: Settings, transactional_id: str, *, client_id: str, deadline: float) -> None:
        self._id = transactional_id
        self._deadline = deadline
        self._refused: KafkaError | None = None  # why the first record of the transaction was not taken
        outages = OutageLog(f"writer {transactional_id}")

        def on_error(error: KafkaError) -> None:
            # To be fenced is fatal for the producer and nothing to report: it is what this writer is for.
            if not error.fatal():
                outages(error)

        try:
            self._producer = Producer(
                {
                    **config.producer(settings, client_id=client_id, on_error=on_error),
                    "transactional.id": transactional_id,
                    "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS,
                    # Must not outlive the transaction.
                    "message.timeout.ms": _TRANSACTION_TIMEOUT_MS,
                    "retry.backoff.ms": _RETRY_BACKOFF_MS,
                },
                # librdkafka prints fatal errors whatever its log level.
                logger=_silent,
            )
        except KafkaException as error:
            raise translate(error, f"setting up the writer {transactional_id!r}") from error
        self._call(self._producer.init_transactions, "becoming")

    def commit(self, records: Iterable[NewRecord], *, deadline: float | None = None) -> None:
        """Write records in one transaction: all of them or, after an error, none.

        Args:
            records: to be written.
            deadline: monotonic seconds by which it must be done, instead of the writer's own.

        Raises:
            Aborted: a rival has taken over.
            MessageTooLarge: a topic does not take one of the records.
            Unavailable: Kafka did not answer in time; whether the transaction counts shows only later.
            MeshError: what else Kafka reports.
        """
        self._deadline = self._deadline if deadline is None else deadline
        self._refused = None
        try:
            self._producer.begin_transaction()
            for record in records:
                self._producer.produce(
                    record.topic,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    partition=record.partition,
                    on_delivery=self._on_delivery,
                )
        except (KafkaException, BufferError) as error:
            failure = self._failed(error, "writing as") if isinstance(error, KafkaException) else None
            self._abort()
            raise failure or Unavailable(f"the queue of the writer {self._id!r} is full") from error
        self._call(self._producer.commit_transaction, "committing as")

    def _on_delivery(self, error: KafkaError | None, _: KafkaMessage) -> None:
        if error is not None and self._refused is None and error.code() not in _PURGED:
            self._refused = error

    def close(self) -> None:
        """Let go of the connection; whoever opens the writer next need not wait for this one."""
        self._producer.purge()

    def __enter__(self) -> FencedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, action: Callable[[float], object], doing: str) -> None:
        """Call a transactional function until it is done; after a time-out it must be the same one again."""
        while True:
            remaining = self._deadline - time.monotonic()
            try:
                action(max(0.1, remaining))
            except KafkaException as error:
                cause = error.args[0]
                if cause.retriable() and remaining > 0:
                    continue
                if cause.txn_requires_abort():
                    self._abort()
                    if self._refused is not None and self._refused.code() not in _TAKEN_OVER:
                        raise translate(self._refused, f"{doing} the writer {self._id!r}") from error
                raise self._failed(error, doing) from error
            return

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(max(0.1, self._deadline - time.monotonic()))
        except KafkaException as error:
            # The broker ends the transaction itself when the next writer opens, or after its timeout.
            logger.debug("ending the transaction of the writer %s: %s", self._id, error)

    def _failed(self, error: KafkaException, doing: str) -> MeshError:
        cause = error.args[0]
        if cause.fatal() or cause.code() in _TAKEN_OVER:
            # This producer is of no use any more; the next attempt makes a new one, and reads what came of this one.
            return Aborted(f"{doing} the writer {self._id!r}: a rival has taken over: {cause.str()}")
        return translate(error, f"{doing} the writer {self._id!r}")


def send_all(
    settings: Settings, records: Iterable[NewRecord], *, client_id: str, deadline: float
) -> dict[str, int]:
    """Write records without a transaction and wait until all replicas in sync have them.

    After a lost acknowledgement a record may stand twice: for tables only, where that makes no difference.

    Args:
        settings: with `bootstrap_servers` set.
        records: in the order in which they are to stand.
        client_id: how brokers name this client.
        deadline: monotonic seconds by which all must be done.

    Returns:
        The last offset written, by topic.

    Raises:
        Unavailable: Kafka did not answer in time; records may have been written or not.
        MeshError: what else Kafka reports.
    """
    outages = OutageLog("writer")
    errors: list[KafkaError] = []
    offsets: dict[str, int] = {}

    def on_delivery(error: KafkaError | None, message: KafkaMessage) -> None:
        if error is not None:
            errors.append(error)
        else:
            topic = message.topic() or ""
            offsets[topic] = max(offsets.get(topic, -1), message.offset() or 0)

    doing = "writing"
    try:
        producer = Producer(
            {
                **config.producer(settings, client_id=client_id, on_error=outages),
                # An idempotent producer takes half a second to begin (librdkafka asks for its id on a timer). Here a
                # record may stand twice, so one request at a time is enough to keep the order.
                "enable.idempotence": False,
                "max.in.flight.requests.per.connection": 1,
                "message.timeout.ms": max(1000, round((deadline - time.monotonic()) * 1000)),
            }
        )
        for record in records:
            doing = f"writing to {record.topic!r}"
            producer.produce(
                record.topic, key=record.key, value=record.value, partition=0, on_delivery=on_delivery
            )
    except (KafkaException, BufferError) as error:
        if isinstance(error, KafkaException):
            raise translate(error, doing) from error
        raise Unavailable(f"{doing}: the queue is full") from error
    left = producer.flush(max(0.1, deadline - time.monotonic()))
    if errors:
        raise translate(errors[0], doing)
    if left:
        producer.purge()
        raise Unavailable(f"{doing}: not acknowledged in time: {outages.last_error or 'no answer'}")
    return offsets
