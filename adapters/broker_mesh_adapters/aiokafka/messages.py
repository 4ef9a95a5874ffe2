"""The message that a wrapped consumer gives: aiokafka's record, and what the mesh knows and can do with it.

On the way of a message: in the program's hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple

from aiokafka.structs import ConsumerRecord, TopicPartition

from broker_mesh import Context, MeshError
from broker_mesh.adapter import Connection, Delivery
from broker_mesh.errors import FailedPrecondition, SchemaError

Deserializer = Callable[[Any], Any]


class Place(NamedTuple):
    """Where a message stands for the program: of a retry, where its first record stands."""

    topic: str
    partition: int
    offset: int

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition, as aiokafka names it."""
        return TopicPartition(self.topic, self.partition)


def place_of(delivery: Delivery) -> Place:
    """Tell where a message stands for the program, who never sees the retry topic."""
    record = delivery.record
    origin = delivery.message.envelope.origin
    if record.topic == delivery.topic or origin is None:
        return Place(delivery.topic, record.partition, record.offset)
    return Place(delivery.topic, origin.partition, origin.offset)


class MeshRecord(ConsumerRecord):  # type: ignore[misc]  # aiokafka is not typed
    """A `ConsumerRecord` with all of its attributes, whose message the mesh has checked and waits to hear of.

    A message is settled as done when the task that got it asks for the next, unless it is held or settled before.

    Args:
        delivery: the message in the program's hands.
        key, value: after the program's deserializers.
        connection: the mesh's.
    """

    def __init__(self, delivery: Delivery, key: Any, value: Any, connection: Connection) -> None:
        place, source = place_of(delivery), delivery.source
        super().__init__(
            topic=place.topic,
            partition=place.partition,
            offset=place.offset,
            timestamp=source.timestamp,
            timestamp_type=source.timestamp_type,
            key=key,
            value=value,
            checksum=source.checksum,
            serialized_key_size=source.serialized_key_size,
            serialized_value_size=source.serialized_value_size,
            headers=source.headers,
        )
        self.delivery = delivery
        self._connection = connection

    @property
    def data(self) -> Any:
        """The decoded value: a model where one is declared, else a dict; what it is where nothing decodes it."""
        return self.delivery.data

    @property
    def context(self) -> Context:
        """What is known of the message, and what to call others with on its behalf, on this event loop."""
        return self.delivery.context

    @property
    def attempt(self) -> int:
        """Which attempt this is; 1 is the first."""
        return self.delivery.attempt

    def hold(self) -> None:
        """Keep the message from being settled by asking for the next, until `done`, `retry` or the like is called.

        Raises:
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        self.delivery.hold()

    def done(self) -> None:
        """Settle a held message: the work is done.

        Raises:
            FailedPrecondition: a caller waits for a reply, or it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        self.delivery.done()

    async def reply(self, body: Any) -> None:
        """Settle a request: the work is done, and this is the reply.

        Args:
            body: a model or a mapping, which the mesh encodes; bytes that the program has encoded.

        Raises:
            SchemaError: it does not fit the operation's reply schema; the message is not settled by that.
            FailedPrecondition: nobody waits for a reply, or it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        if not self.delivery.message.expects_reply:
            raise FailedPrecondition(f"{self.delivery} asks for no reply: nobody waits for one")
        if not isinstance(body, bytes):
            encoding = self._connection.run(self._connection.encode_reply(self.topic, body))
            body = await asyncio.wrap_future(encoding)
        self.delivery.reply(body)

    def retry(
        self, after: float | None = None, reason: str = "the program asked for another attempt"
    ) -> None:
        """Settle: another attempt is due, as far as the retry policy allows one; then it is a dead letter.

        Args:
            after: how long to wait at least, seconds; None for the policy's back-off.
            reason: kept with the message.

        Raises:
            InvalidArgument: `after` is negative or no number.
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        self.delivery.retry(after, reason)

    def dead_letter(self, reason: str | MeshError) -> None:
        """Settle: the message is kept as a dead letter, with its original bytes and the reason.

        Raises:
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        self.delivery.dead_letter(reason)

    def settling(self) -> Settling:
        """Settle by how a block ends, `with` or `async with`: done, or what it raises is a failure of the message.

        The failure is tried again, or ends as a dead letter, and goes no further. `CancelledError` settles nothing
        and goes on: the message comes again.
        """
        return Settling(self.delivery)


class Settling:
    """The block of `MeshRecord.settling()`."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._block: AbstractContextManager[None] | None = None

    def __enter__(self) -> None:
        self._block = self._delivery.settling()
        self._block.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        block, self._block = self._block, None
        assert block is not None  # entered before
        return bool(block.__exit__(kind, error, where))

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, error, where)


def made(
    delivery: Delivery,
    key_deserializer: Deserializer | None,
    value_deserializer: Deserializer | None,
    connection: Connection,
) -> MeshRecord:
    """Make the program's message.

    Raises:
        SchemaError: one of the program's deserializers raised.
    """
    record = delivery.record
    key = _deserialized(key_deserializer, record.key, "key_deserializer", delivery)
    value = _deserialized(value_deserializer, record.value, "value_deserializer", delivery)
    return MeshRecord(delivery, key, value, connection)


def _deserialized(deserialize: Deserializer | None, data: bytes | None, name: str, delivery: Delivery) -> Any:
    if deserialize is None:
        return data
    try:
        return deserialize(data)
    except Exception as error:
        raise SchemaError(f"{delivery}: {name} raised {type(error).__name__}: {error}") from error
