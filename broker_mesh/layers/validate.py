"""Validation: what is sent fits its schema, and what arrives is decoded and checked before a handler sees it.

On the way of a message: outbound, a body that does not fit never reaches Kafka; inbound, bytes that can't be
decoded are dead-lettered at once (no attempt would change them). Services have their operations and events, which are
always enforced (`outbound`, `inbound`); wrapped clients have topics of any kind, each with a mode of its own
(`values_outbound`, `values_inbound`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from broker_mesh.adoption import EncodingName, Validation
from broker_mesh.errors import SchemaError, Unavailable
from broker_mesh.layer import Layer, R, Step, check
from broker_mesh.message import Message
from broker_mesh.seldom import Seldom

logger = logging.getLogger(__name__)

_AUDIT_SECONDS = 60.0
_AUDITED_PLACES = 1000
_UNKNOWN_SECONDS = 30.0
_UNKNOWN_IDS = 1000


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


class Direction(StrEnum):
    """Which way a value went that did not fit."""

    SENT = "sent"
    RECEIVED = "received"


class Contract(Protocol):
    """What a topic carries; a `TopicContract` of `contracts/`."""

    @property
    def validation(self) -> Validation:
        """What becomes of values that don't fit."""
        ...

    @property
    def encoding(self) -> EncodingName:
        """How values are written."""
        ...

    def encode(self, value: Any) -> bytes:
        """Encode a body, or raise `SchemaError`."""
        ...

    def decode(self, data: bytes | None) -> Any:
        """Decode a value, or raise `SchemaError`."""
        ...


ContractOf: TypeAlias = Callable[[Message], Contract]
Audited: TypeAlias = Callable[[Message, SchemaError], None]


class ValidationLog:
    """Says which values would be refused if their topic were enforced: each topic, direction and reason once a minute.

    Memory is bounded, and so is what is said: 1,000 different lines a minute.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._seldom = Seldom(_AUDIT_SECONDS, _AUDITED_PLACES, clock)

    def note(self, message: Message, error: SchemaError) -> None:
        """Log a value that does not fit, unless that was done within the last minute for the same reason."""
        reason = (
            message.operation,
            direction_of(message),
            type(error).__name__,
            str(error.details.get("field", "")),
        )
        if self._seldom.is_due(reason):
            record = message.record
            place = "" if record is None else f" partition {record.partition} offset {record.offset}"
            logger.warning(
                "validation: a value %s on topic %s%s does not fit and passes in audit: %s",
                direction_of(message),
                message.operation if record is None else record.topic,
                place,
                error.message,
                extra={"topic": message.operation, "direction": direction_of(message)},
            )


def direction_of(message: Message) -> Direction:
    """Tell which way a message goes."""
    return Direction.SENT if message.record is None else Direction.RECEIVED


class _Reading:
    """Decodes once, and once more after the registry was read where that may help.

    An id that was not found then is not looked for again for half a minute: a topic of a foreign registry's ids
    would otherwise be read at the pace of the registry. Where the id would get a value refused, it always is.
    """

    def __init__(
        self,
        contract_of: ContractOf,
        is_unknown_schema: Callable[[SchemaError], bool],
        read_registry: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._contract_of = contract_of
        self._is_unknown_schema = is_unknown_schema
        self._read_registry = read_registry
        self._looked_for = Seldom(_UNKNOWN_SECONDS, _UNKNOWN_IDS, clock)

    async def decode(self, message: Message, contract: Contract) -> Any:
        try:
            return contract.decode(message.value)
        except SchemaError as error:
            if not self._is_unknown_schema(error):
                raise
            enforced = contract.validation is Validation.ENFORCE
            if not enforced and not self._looked_for.is_due((message.operation, error.message)):
                raise
            try:
                await self._read_registry()
            except Unavailable as outage:
                raise Unavailable(f"the schema registry can't be read now: {outage.message}") from error
            return self._contract_of(message).decode(message.value)


def values_outbound(
    contract_of: ContractOf,
    is_unknown_schema: Callable[[SchemaError], bool],
    read_registry: Callable[[], Awaitable[None]],
    audited: Audited,
    clock: Callable[[], float] = time.monotonic,
) -> Layer[R]:
    """Make the outbound layer of a wrapped client.

    A message has either a body, which is encoded and must fit in every mode, or bytes that the program has encoded
    itself, or neither: a tombstone.

    Args:
        contract_of: finds what a message's topic carries.
        is_unknown_schema, read_registry: as for `inbound`: the program may have registered a schema just now.
        audited: told of bytes that don't fit where they are only audited.
        clock: gives seconds.
    """
    reading = _Reading(contract_of, is_unknown_schema, read_registry, clock)

    def around(rest: Step[R]) -> Step[R]:
        async def step(message: Message) -> R:
            contract = contract_of(message)
            if message.body is not None:
                return await rest(message._replace(value=contract.encode(message.body)))
            if contract.validation is not Validation.OFF:
                try:
                    await reading.decode(message, contract)
                except SchemaError as error:
                    if contract.validation is Validation.ENFORCE:
                        raise
                    audited(message, error)
            return await rest(message)

        return step

    return Layer("validate", around)


def values_inbound(
    contract_of: ContractOf,
    is_unknown_schema: Callable[[SchemaError], bool],
    read_registry: Callable[[], Awaitable[None]],
    audited: Audited,
    clock: Callable[[], float] = time.monotonic,
) -> Layer[R]:
    """Make the inbound layer of a wrapped client; it sets the body, where nothing fits as well as that is possible.

    Args:
        contract_of: finds what a message's topic carries.
        is_unknown_schema, read_registry: as for `inbound`.
        audited: told of values that don't fit where they are only audited.
        clock: gives seconds.
    """
    reading = _Reading(contract_of, is_unknown_schema, read_registry, clock)

    def around(rest: Step[R]) -> Step[R]:
        async def step(message: Message) -> R:
            contract = contract_of(message)
            try:
                body = await reading.decode(message, contract)
            except SchemaError as error:
                if contract.validation is Validation.ENFORCE:
                    raise
                if contract.validation is Validation.AUDIT:
                    audited(message, error)
                body = as_it_is(message.value, contract.encoding)
            return await rest(message._replace(body=body))

        return step

    return Layer("validate", around)


def as_it_is(value: bytes | None, encoding: EncodingName) -> Any:
    """Give a value that does not fit in the form of best use: parsed where it is JSON and was to be, else as bytes."""
    if value is None or encoding != "json":
        return value
    try:
        return json.loads(value.decode("utf-8"))
    except (ValueError, RecursionError):
        return value
