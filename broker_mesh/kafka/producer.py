"""The producer: sends records and tells each sender when Kafka has its record on all in-sync replicas.

On the way of a message: the end of the outbound layers, and of every settlement. librdkafka calls back on a
thread of ours; acknowledgements cross to the event loop once per batch, not once per record.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as KafkaMessage
from confluent_kafka import Producer as KafkaProducer

from broker_mesh.errors import (
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    Unavailable,
)
from broker_mesh.headers import RawHeaders
from broker_mesh.kafka import config
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.topics import HEADROOM_BYTES
from broker_mesh.message import Receipt
from broker_mesh.settings import Settings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_FULL_QUEUE_WAIT_SECONDS = 0.01


class _Outgoing(NamedTuple):
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: RawHeaders
    acknowledged: asyncio.Future[Receipt]


class Producer:
    """An idempotent producer, used from one event loop.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.

    Raises:
        SettingsError: librdkafka refuses a property.
    """

    def __init__(self, settings: Settings, client_id: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.outages = OutageLog("producer")
        try:
            self._producer = KafkaProducer(
                config.producer(settings, client_id=client_id, on_error=self.outages)
            )
        except KafkaException as error:
            raise translate(error, "setting up the producer") from error
        self._max_bytes = config.max_message_bytes(settings)
        self._outbox: deque[_Outgoing] = deque()
        self._pass_scheduled = False
        self._acknowledged: deque[tuple[asyncio.Future[Receipt], KafkaError | None, KafkaMessage]] = deque()
        self._hop_scheduled = False
        self._hop_lock = threading.Lock()
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="mesh-producer", daemon=True)
        self._poller.start()

    async def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: RawHeaders,
        partition: int = -1,
    ) -> Receipt:
        """Send a record and wait until it is persisted.

        Args:
            topic: an existing topic.
            key, value: bytes; a null value is an error reply.
            headers: in wire form.
            partition: -1 for by key.

        Returns:
            Where the record stands.

        Raises:
            MessageTooLarge: the record is over the client's or the topic's limit.
            NotFound: the topic or partition does not exist.
            FailedPrecondition: the producer is closed.
            MeshError: what else Kafka reports. An outage is no error: it lasts as long as this waits.
        """
        self._refuse_oversized(topic, key, value, headers)
        if self._closed.is_set():
            raise FailedPrecondition(f"sending to {topic!r}: the mesh is stopped")
        acknowledged: asyncio.Future[Receipt] = self._loop.create_future()
        self._outbox.append(_Outgoing(topic, partition, key, value, headers, acknowledged))
        if not self._pass_scheduled:
            self._pass_scheduled = True
            self._loop.call_soon(self._produce_outbox)
        return await acknowledged

    @property
    def fatal(self) -> MeshError | None:
        """Why nothing more can be sent, ever, by this producer; None as long as it can."""
        error = self.outages.fatal
        return (
            None if error is None else InternalError(f"Kafka's producer has failed for good: {error.str()}")
        )

    def _produce_outbox(self) -> None:
        """Hand over what was sent during one pass of the loop, back to back, so that librdkafka can batch it.

        With `linger.ms` 0 a record produced on its own goes out on its own; any linger would cost a lone request
        more than a millisecond a hop.
        """
        self._pass_scheduled = False
        while self._outbox:
            outgoing = self._outbox.popleft()
            if outgoing.acknowledged.done():
                continue  # its sender has given up before it was handed over
            try:
                self._produce(outgoing)
            except BufferError:
                # librdkafka's queue is full: back-pressure, not an error. Nothing overtakes what waits here.
                self._outbox.appendleft(outgoing)
                self._outbox = deque(waiting for waiting in self._outbox if not waiting.acknowledged.done())
                self._pass_scheduled = True
                self._loop.call_later(_FULL_QUEUE_WAIT_SECONDS, self._produce_outbox)
                return
            except KafkaException as error:
                translated = translate(error, f"sending to {outgoing.topic!r}")
                translated.__cause__ = error
                _reject(outgoing.acknowledged, translated)
            except (TypeError, ValueError, OverflowError) as error:
                # One record that can't be handed over must not keep those behind it.
                refused = InvalidArgument(f"sending to {outgoing.topic!r}: {error}")
                refused.__cause__ = error
                _reject(outgoing.acknowledged, refused)

    def _produce(self, outgoing: _Outgoing) -> None:
        acknowledged = outgoing.acknowledged

        def on_delivery(error: KafkaError | None, message: KafkaMessage) -> None:
            self._acknowledged.append((acknowledged, error, message))
            with self._hop_lock:
                if self._hop_scheduled:
                    return
                self._hop_scheduled = True
            self._loop.call_soon_threadsafe(self._resolve_acknowledged)

        self._producer.produce(
            outgoing.topic,
            key=outgoing.key,
            value=outgoing.value,
            headers=list(outgoing.headers),
            on_delivery=on_delivery,
            partition=outgoing.partition,
        )

    async def close(self, timeout: float) -> None:
        """Wait until everything sent is acknowledged, then stop.

        Args:
            timeout: how long to wait at most, seconds.

        Raises:
            Unavailable: some records are not acknowledged; they may or may not be persisted.
        """
        patience = self._loop.time() + timeout
        while self._outbox and self._loop.time() < patience:  # librdkafka's queue is full  # noqa: ASYNC110
            await asyncio.sleep(_FULL_QUEUE_WAIT_SECONDS)
        remaining = len(self._outbox) + await asyncio.to_thread(
            self._producer.flush, max(0.0, patience - self._loop.time())
        )
        self._closed.set()
        await asyncio.to_thread(self._poller.join, timeout)
        self._resolve_acknowledged()
        if remaining:
            self._producer.purge()
            self._producer.poll(0)  # calls back for what was purged
            self._resolve_acknowledged()
            for outgoing in self._outbox:
                _reject(
                    outgoing.acknowledged,
                    FailedPrecondition(f"sending to {outgoing.topic!r}: the mesh is stopped"),
                )
            self._outbox.clear()
            raise Unavailable(f"{remaining} records were not acknowledged by Kafka within {timeout:g} s")

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(_POLL_SECONDS)

    def _resolve_acknowledged(self) -> None:
        # Cleared first: a report appended after the loop below has looked schedules another hop.
        with self._hop_lock:
            self._hop_scheduled = False
        while self._acknowledged:
            acknowledged, error, message = self._acknowledged.popleft()
            if acknowledged.done():  # its sender was cancelled
                continue
            topic = message.topic() or ""
            if error is None:
                acknowledged.set_result(Receipt(topic, message.partition() or 0, message.offset() or 0))
            else:
                translated = translate(error, f"sending to {topic!r}")
                translated.__cause__ = KafkaException(error)
                _reject(acknowledged, translated)

    def _refuse_oversized(
        self, topic: str, key: bytes | None, value: bytes | None, headers: RawHeaders
    ) -> None:
        size = len(key or b"") + len(value or b"")
        for name, data in headers:
            size += len(name) + (0 if data is None else len(data))
        limit = self._max_bytes
        if size <= limit:
            return
        if topic.endswith((".retry", ".dead", ".idempotency")):  # they must take whatever their source took
            limit += HEADROOM_BYTES
        if size > limit:
            raise MessageTooLarge(
                f"the message for {topic!r} has {size} bytes and {limit} are allowed: send a reference to "
                "large data, or raise message.max.bytes in [kafka] and max.message.bytes of the topic",
                details={"bytes": size, "limit": limit},
            )


def _reject(acknowledged: asyncio.Future[Receipt], error: MeshError) -> None:
    if not acknowledged.done():  # its sender may have been cancelled
        acknowledged.set_exception(error)
