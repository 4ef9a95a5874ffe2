"""Validation: what is sent fits its schema, and what arrives is decoded and checked before a handler sees it.

On the way of a message: outbound, a body that does not fit never reaches Kafka; inbound, bytes that can't be
decoded are dead-lettered at once (no attempt would change them).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from broker_mesh.errors import SchemaError, Unavailable
from broker_mesh.layer import Layer, R, Step, check
from broker_mesh.message import Message


class Encoder(Protocol):
    """Turns a body into bytes; a `Codec` of `contracts/`."""

    def encode(self, value: Any) -> bytes:
        """Encode a body, or raise `SchemaError`."""
        ...


class Decoder(Protocol):
    """Turns bytes into a body; a `Codec` of `contracts/`."""

    def decode(self, data: bytes) -> Any:
        """Decode bytes, or raise `SchemaError`."""
        ...


def encode(message: Message, encoder: Encoder) -> Message:
    """Encode a message's body.

    Raises:
        SchemaError: the body does not fit its schema.
    """
    return message._replace(value=encoder.encode(message.body))


def decode(message: Message, decoder: Decoder) -> Message:
    """Decode a message's bytes.

    Raises:
        SchemaError: there are none, they are not Avro in the wire format, or they don't fit.
    """
    if message.value is None:
        raise SchemaError(f"the value is null: {message.operation} takes an Avro record")
    return message._replace(body=decoder.decode(message.value))


def outbound(encoder_of: Callable[[Message], Encoder]) -> Layer[R]:
    """Make the outbound layer; `encoder_of` finds the codec for a message."""
    return check("validate", lambda message: encode(message, encoder_of(message)))


def inbound(
    decoder_of: Callable[[Message], Decoder],
    is_unknown_schema: Callable[[SchemaError], bool],
    read_registry: Callable[[], Awaitable[None]],
) -> Layer[R]:
    """Make the inbound layer.

    Args:
        decoder_of: finds the codec for a message.
        is_unknown_schema: tells the one decoding error that reading the registry may cure.
        read_registry: reads the registry to its end; raises `Unavailable` while that is not possible, which
            is retriable: an outage of the registry makes nothing poison.
    """

    def around(rest: Step[R]) -> Step[R]:
        async def step(message: Message) -> R:
            decoder = decoder_of(message)
            try:
                decoded = decode(message, decoder)
            except SchemaError as error:
                if not is_unknown_schema(error):
                    raise
                try:
                    await read_registry()
                except Unavailable as outage:
                    raise Unavailable(f"the schema registry can't be read now: {outage.message}") from error
                decoded = decode(message, decoder)
            return await rest(decoded)

        return step

    return Layer("validate", around)
