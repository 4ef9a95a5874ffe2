"""Validation: encoding on the way out, decoding on the way in, and when the registry is read again."""

from __future__ import annotations

from typing import Any

import pytest

from broker_mesh.errors import SchemaError, Unavailable
from broker_mesh.headers import Envelope
from broker_mesh.layer import stack
from broker_mesh.layers import validate
from broker_mesh.message import Message

MESSAGE = Message("t", "fleet.v1.find-aircraft", Envelope())


class UnknownSchema(SchemaError):
    """The bytes name a schema id that has not been read."""


class Codec:
    """Values are texts; b"?" is of a schema that a read of the registry may bring."""

    def __init__(self) -> None:
        self.knows_all = False

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise SchemaError("not a text")
        return value.encode()

    def decode(self, data: bytes) -> Any:
        if data == b"?" and not self.knows_all:
            raise UnknownSchema("schema id 7 is unknown")
        if data == b"\xff":
            raise SchemaError("not UTF-8")
        return data.decode()


class Registry:
    """Counts its reads; each makes the codec know all schemas, or fails."""

    def __init__(self, codec: Codec, *, brings_schema: bool = True, away: bool = False) -> None:
        self.codec = codec
        self.brings_schema = brings_schema
        self.away = away
        self.reads = 0

    async def read(self) -> None:
        self.reads += 1
        if self.away:
            raise Unavailable("no broker answers")
        self.codec.knows_all = self.brings_schema


async def receive(registry: Registry, value: bytes | None) -> Any:
    async def body(message: Message) -> Any:
        return message.body

    layer: Any = validate.inbound(
        lambda _: registry.codec, lambda error: isinstance(error, UnknownSchema), registry.read
    )
    return await stack([layer], body)(MESSAGE._replace(value=value))


async def test_a_body_goes_out_as_bytes() -> None:
    async def value(message: Message) -> Any:
        return message.value

    layer: Any = validate.outbound(lambda _: Codec())
    assert await stack([layer], value)(MESSAGE._replace(body="N14228")) == b"N14228"


async def test_a_body_that_does_not_fit_goes_nowhere() -> None:
    async def end(_: Message) -> Any:
        pytest.fail("the message went on")

    layer: Any = validate.outbound(lambda _: Codec())
    with pytest.raises(SchemaError, match="not a text"):
        await stack([layer], end)(MESSAGE._replace(body=17))


async def test_bytes_come_in_as_a_body_without_a_read_of_the_registry() -> None:
    registry = Registry(Codec())
    assert await receive(registry, b"N14228") == "N14228"
    assert registry.reads == 0


@pytest.mark.parametrize(("value", "sentence"), [(None, "the value is null"), (b"\xff", "not UTF-8")])
async def test_what_cannot_be_decoded_is_refused_at_once(value: bytes | None, sentence: str) -> None:
    registry = Registry(Codec())
    with pytest.raises(SchemaError, match=sentence):
        await receive(registry, value)
    assert registry.reads == 0


async def test_an_unknown_schema_is_looked_for_in_the_registry_once() -> None:
    registry = Registry(Codec())
    assert await receive(registry, b"?") == "?"
    assert registry.reads == 1


async def test_a_schema_that_the_whole_registry_does_not_hold_makes_the_record_poison() -> None:
    registry = Registry(Codec(), brings_schema=False)
    with pytest.raises(UnknownSchema) as caught:
        await receive(registry, b"?")
    assert registry.reads == 1
    assert not caught.value.retriable


async def test_an_outage_of_the_registry_makes_nothing_poison() -> None:
    with pytest.raises(Unavailable, match="registry can't be read now: no broker answers") as caught:
        await receive(Registry(Codec(), away=True), b"?")
    assert caught.value.retriable


async def test_an_error_of_the_handler_is_not_taken_for_one_of_decoding() -> None:
    registry = Registry(Codec())

    async def handler(_: Message) -> Any:
        raise UnknownSchema("raised behind the layer")

    layer: Any = validate.inbound(lambda _: registry.codec, lambda _: True, registry.read)
    with pytest.raises(UnknownSchema, match="behind"):
        await stack([layer], handler)(MESSAGE._replace(value=b"x"))
    assert registry.reads == 0
