"""aiokafka's producer behind the mesh.

On the way of a message: where the program hands it over. Its serializers come first, then the layers of `outbound.py`,
then aiokafka's own producer, with its batching, partitioner and transactions; what Kafka answers is told to the layers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any

import aiokafka
from aiokafka.errors import ProducerClosed
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from broker_mesh import Mesh
from broker_mesh.adapter import Connection, Declaration, Outbound, Outgoing
from broker_mesh.errors import FailedPrecondition, InvalidArgument
from broker_mesh_adapters.aiokafka import groups, lifecycle
from broker_mesh_adapters.aiokafka.batches import Batch
from broker_mesh_adapters.aiokafka.failures import translated
from broker_mesh_adapters.aiokafka.options import with_addresses

Headers = Iterable[tuple[str, bytes | None]]
Offsets = Mapping[TopicPartition, int | tuple[int, str] | OffsetAndMetadata]


class AIOKafkaProducer:
    """`aiokafka.AIOKafkaProducer` with every layer of the mesh applied; made, as that one, on a running event loop.

    Args:
        mesh: whose service sends.
        declared: operations and events whose values are models; this service's own are registered.
        **options: all arguments of aiokafka's. `bootstrap_servers` comes from the mesh where it is not given, and
            with it TLS and SASL. A `value_serializer` is applied before the layers; without one a value may be a model
            or a dict, which the mesh encodes by the topic's schema.

    Raises:
        SettingsError: an option can't be used.
    """

    def __init__(self, *, mesh: Mesh, declared: Sequence[Declaration] = (), **options: Any) -> None:
        options = with_addresses(options, mesh)
        self._mesh = mesh
        self._declared = list(declared)
        self._key_serializer: Callable[[Any], bytes] | None = options.pop("key_serializer", None)
        self._value_serializer: Callable[[Any], Any] | None = options.pop("value_serializer", None)
        self._client_id: str = options.get("client_id") or ""
        self._inner = aiokafka.AIOKafkaProducer(**options)
        self._connection: Connection | None = None
        self._outbound: Outbound | None = None
        self._stopped = False

    def __repr__(self) -> str:
        return f"<AIOKafkaProducer of {self._mesh!r}>"

    @property
    def client(self) -> Any:
        """aiokafka's client, as the plain producer has it."""
        return self._inner.client

    # ── lifetime ──────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Connect to the mesh and to Kafka.

        Raises:
            Unavailable: Kafka can't be reached, or the access rules can't be read.
            SettingsError: a setting or a declaration is wrong.
            KafkaError: aiokafka can't connect.
        """
        connection = await lifecycle.joined(self._mesh, self, self._declared)
        try:
            await self._inner.start()
        except BaseException:
            await self._inner.stop()
            await lifecycle.left(connection, self)
            raise
        self._connection = connection
        self._outbound = connection.outbound(self._client_id)

    async def stop(self) -> None:
        """Send what is pending, and disconnect."""
        self._stopped = True
        connection, self._connection = self._connection, None
        try:
            await self._inner.stop()
        finally:  # also where the program gives up waiting for Kafka
            if connection is not None:
                await lifecycle.left(connection, self)

    async def __aenter__(self) -> AIOKafkaProducer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.stop()

    async def flush(self) -> None:
        """Wait until all that was sent is delivered or has failed, as aiokafka's."""
        await self._inner.flush()

    async def partitions_for(self, topic: str) -> set[int]:
        """Tell the partitions of a topic, as aiokafka's."""
        partitions: set[int] = await self._inner.partitions_for(topic)
        return partitions

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────

    async def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> asyncio.Future[Any]:
        """Send a message, as aiokafka's: returns once it is queued, with a future of its `RecordMetadata`.

        Raises:
            SchemaError: the value does not fit the topic's schema, where that is enforced.
            PermissionDenied: an access rule denies the topic to this service.
            NotFound: the topic has a name of the mesh's, and there is no such operation or event.
            KafkaError: as aiokafka's.
        """
        key_bytes, ready = self._serialized(key, value)
        outgoing = await self._prepared(topic, ready, key_bytes, partition, headers)
        try:
            sent = await self._inner.send(
                topic, outgoing.value, outgoing.key, partition, timestamp_ms, outgoing.headers
            )
        except BaseException as error:
            outgoing.failed(translated(error, f"sending to {topic!r}"))
            raise
        return _told(sent, [outgoing])

    async def send_and_wait(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> Any:
        """Send a message and wait until Kafka has it, as aiokafka's; raises as `send`, and what the future raises."""
        return await (await self.send(topic, value, key, partition, timestamp_ms, headers))

    def create_batch(self) -> Batch:
        """Make an empty batch, to be filled by `append` and sent by `send_batch`; its values are bytes."""
        return Batch(self._inner.create_batch(), self._serialized)

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Send a batch of `create_batch()` to one partition, as aiokafka's; its messages go through the layers first.

        Raises:
            InvalidArgument: the batch was not made by this class's `create_batch`.
            MeshError: the layers refuse one of the messages; none is sent.
            KafkaError: as aiokafka's.
        """
        if not isinstance(batch, Batch):
            raise InvalidArgument(
                f"send_batch(…) was given {type(batch).__name__}: make the batch by this producer's create_batch(), "
                "so that its messages pass the mesh's checks"
            )
        prepared: list[Outgoing] = []
        try:
            for each in batch.messages:
                prepared.append(  # noqa: PERF401 - those before a refused one are needed
                    await self._prepared(topic, each.value, each.key, partition, each.headers)
                )
            builder = batch.build(self._inner.create_batch(), prepared)
            sent = await self._inner.send_batch(builder, topic, partition=partition)
        except BaseException as error:
            for outgoing in prepared:
                outgoing.failed(translated(error, f"sending a batch to {topic!r}"))
            raise
        return _told(sent, prepared)

    def _serialized(self, key: Any, value: Any) -> tuple[bytes | None, Any]:
        return (
            key if self._key_serializer is None else self._key_serializer(key),
            value if self._value_serializer is None else self._value_serializer(value),
        )

    async def _prepared(
        self, topic: str, value: Any, key: bytes | None, partition: int | None, headers: Headers | None
    ) -> Outgoing:
        """Pass a message through the layers."""
        if self._stopped:
            raise ProducerClosed
        if self._connection is None or self._outbound is None:
            raise FailedPrecondition(f"{self!r} is not started: await start() first, or use 'async with'")
        if not self._outbound.is_ready(topic):
            await asyncio.wrap_future(self._connection.run(self._outbound.ready(topic)))
        prepared = self._outbound.prepare(
            topic,
            value,
            key=key,
            program_headers=headers or (),
            partition=-1 if partition is None else partition,
        )
        if isinstance(prepared, Outgoing):
            return prepared
        return await _awaited(prepared)

    # ── transactions ──────────────────────────────────────────────────────────────────────────────────────

    async def begin_transaction(self) -> None:
        """Begin a transaction, as aiokafka's."""
        await self._inner.begin_transaction()

    async def commit_transaction(self) -> None:
        """Commit the transaction, as aiokafka's."""
        await self._inner.commit_transaction()

    async def abort_transaction(self) -> None:
        """Abort the transaction, as aiokafka's."""
        await self._inner.abort_transaction()

    def transaction(self) -> Any:
        """Give a transaction for `async with`: committed at its end, aborted where an exception leaves it."""
        return self._inner.transaction()

    async def send_offsets_to_transaction(self, offsets: Offsets, group_id: str) -> None:
        """Commit a group's offsets with the transaction, as aiokafka's.

        Where a wrapped consumer of the group runs in this process, its `commit` rules hold: what the mesh still works
        on is not passed, and the offsets of its retries go along.

        Raises:
            FailedPrecondition: the program holds a message below an offset.
            KafkaError: as aiokafka's.
        """
        await self._inner.send_offsets_to_transaction(groups.covered(offsets, group_id), group_id)


def _told(sent: asyncio.Future[Any], messages: Sequence[Outgoing]) -> asyncio.Future[Any]:
    """Have the layers told what becomes of messages that went as one; gives the program's future of the same.

    A future of its own: the layers look at the outcome, and one that the program never looks at is still logged.
    """
    answer: asyncio.Future[Any] = sent.get_loop().create_future()
    sent.add_done_callback(partial(_delivered, messages, answer))
    return answer


def _delivered(messages: Sequence[Outgoing], answer: asyncio.Future[Any], sent: asyncio.Future[Any]) -> None:
    error = asyncio.CancelledError() if sent.cancelled() else sent.exception()
    metadata = None if error is not None else sent.result()
    for number, outgoing in enumerate(messages):
        if error is not None:
            outgoing.failed(translated(error, f"sending to {outgoing.topic!r}"))
        elif metadata is None:  # acks=0: Kafka says nothing
            outgoing.acknowledged(-1, -1)
        else:
            outgoing.acknowledged(metadata.partition, metadata.offset + number)
    if answer.done():
        return  # the program has cancelled it
    if sent.cancelled():
        answer.cancel()
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(metadata)


async def _awaited(later: Future[Outgoing]) -> Outgoing:
    """Wait for a message whose checks have to read something first; who gives up waiting sends nothing."""
    try:
        return await asyncio.shield(asyncio.wrap_future(later))
    except asyncio.CancelledError as cancelled:
        later.add_done_callback(partial(_given_up, cancelled))
        raise


def _given_up(cancelled: BaseException, later: Future[Outgoing]) -> None:
    if later.exception() is None:
        outgoing = later.result()
        outgoing.failed(translated(cancelled, f"sending to {outgoing.topic!r}"))
