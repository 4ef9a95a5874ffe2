"""Validation: encoding on the way out, decoding on the way in, and when the registry is read again."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from broker_mesh.adoption import Validation
from broker_mesh.errors import SchemaError, Unavailable
from broker_mesh.headers import Envelope
from broker_mesh.layer import Layer, stack
from broker_mesh.layers import validate
from broker_mesh.layers.validate import ValidationLog
from broker_mesh.message import Message, Record

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


# ── wrapped clients: topics of any kind, each with a mode of its own ──────────────────────────────────────


class Contract:
    """As `Codec`, with a mode."""

    def __init__(self, codec: Codec, mode: Validation, encoding: Literal["avro", "json"] = "avro") -> None:
        self.codec, self.validation, self.encoding = codec, mode, encoding

    def encode(self, value: Any) -> bytes:
        return self.codec.encode(value)

    def decode(self, data: bytes | None) -> Any:
        return None if data is None else self.codec.decode(data)


class Client:
    """One topic, and what becomes of values on their way through either layer."""

    def __init__(self, mode: Validation, registry: Registry | None = None, encoding: Any = "avro") -> None:
        self.registry = registry or Registry(Codec())
        self.contract = Contract(self.registry.codec, mode, encoding)
        self.noted: list[str] = []
        self.now = 0.0

    async def send(self, body: Any = None, value: bytes | None = None) -> bytes | None:
        async def sent(message: Message) -> bytes | None:
            return message.value

        layer: Layer[bytes | None] = validate.values_outbound(*self._handed())
        return await stack([layer], sent)(MESSAGE._replace(body=body, value=value))

    async def receive(self, *values: bytes | None) -> list[Any]:
        async def body(message: Message) -> Any:
            return message.body

        layer: Layer[Any] = validate.values_inbound(*self._handed())
        step = stack([layer], body)
        return [await step(MESSAGE._replace(value=value)) for value in values]

    def _handed(self) -> Any:
        return (
            lambda _: self.contract,
            lambda error: isinstance(error, UnknownSchema),
            self.registry.read,
            lambda _, error: self.noted.append(error.message),
            lambda: self.now,
        )


OFF, AUDIT, ENFORCE = Validation.OFF, Validation.AUDIT, Validation.ENFORCE


@pytest.mark.parametrize("mode", Validation)
async def test_what_the_mesh_encodes_must_fit_in_every_mode(mode: Validation) -> None:
    client = Client(mode)
    assert await client.send(body="text") == b"text"
    with pytest.raises(SchemaError, match="not a text"):
        await client.send(body={"a": 1})
    assert client.noted == []


async def test_bytes_of_the_program_s_own_pass_are_noted_or_are_refused() -> None:
    for mode, noted in ((OFF, []), (AUDIT, ["not UTF-8"])):
        client = Client(mode)
        assert await client.send(value=b"\xff") == b"\xff"
        assert client.noted == noted
    client = Client(ENFORCE)
    with pytest.raises(SchemaError, match="not UTF-8"):
        await client.send(value=b"\xff")
    assert await client.send(value=b"text") == b"text"
    assert client.noted == []


@pytest.mark.parametrize("mode", Validation)
async def test_tombstones_pass_in_every_mode(mode: Validation) -> None:
    client = Client(mode)
    assert await client.send() is None
    assert await client.receive(None) == [None]
    assert client.noted == []


async def test_what_arrives_and_does_not_fit_passes_as_bytes_is_noted_or_is_refused() -> None:
    for mode, noted in ((OFF, []), (AUDIT, ["not UTF-8"])):
        client = Client(mode)
        assert await client.receive(b"\xff", b"text") == [b"\xff", "text"]
        assert client.noted == noted
    client = Client(ENFORCE)
    assert await client.receive(b"text") == ["text"]
    with pytest.raises(SchemaError, match="not UTF-8"):
        await client.receive(b"\xff")


async def test_json_that_does_not_fit_is_parsed_all_the_same() -> None:
    class Never(Codec):
        def decode(self, data: bytes) -> Any:
            raise SchemaError("no")

    for encoding, body in (("json", {"a": 1}), ("avro", b'{"a": 1}')):
        client = Client(AUDIT, Registry(Never()), encoding)
        assert await client.receive(b'{"a": 1}', b"{", b"\xff", b"[" * 100_000) == [
            body,
            b"{",
            b"\xff",
            b"[" * 100_000,
        ]


@pytest.mark.parametrize("mode", Validation)
async def test_an_unknown_schema_is_looked_for_before_it_is_judged(mode: Validation) -> None:
    client = Client(mode, Registry(Codec()))
    assert await client.receive(b"?") == ["?"]
    assert client.registry.reads == 1
    assert client.noted == []


async def test_bytes_of_a_schema_that_was_registered_just_now_are_not_noted() -> None:
    client = Client(AUDIT, Registry(Codec()))
    assert await client.send(value=b"?") == b"?"
    assert client.noted == []


async def test_an_id_of_another_registry_does_not_slow_a_topic_that_is_audited() -> None:
    registry = Registry(Codec(), brings_schema=False)
    client = Client(AUDIT, registry)
    assert await client.receive(*[b"?"] * 5) == [b"?"] * 5
    assert registry.reads == 1
    assert len(client.noted) == 5
    enforced = Client(ENFORCE, Registry(Codec(), brings_schema=False))
    for _ in range(2):  # what is refused for good was looked for each time
        with pytest.raises(SchemaError, match="schema id 7"):
            await enforced.receive(b"?")
    assert enforced.registry.reads == 2


async def test_an_outage_of_the_registry_refuses_nothing_for_good() -> None:
    client = Client(ENFORCE, Registry(Codec(), away=True))
    with pytest.raises(Unavailable, match="the schema registry can't be read now"):
        await client.receive(b"?")


def test_an_audited_value_is_said_once_a_minute_for_each_reason(caplog: pytest.LogCaptureFixture) -> None:
    clock = iter((0.0, 1.0, 61.0, 61.0, 61.0))
    log = ValidationLog(lambda: next(clock))
    record = Record("old", 3, 42, 0, None, b"x", [])
    received = MESSAGE._replace(operation="old", record=record)
    for _ in range(3):
        log.note(received, SchemaError("old: not good", details={"field": "a"}))
    log.note(received, SchemaError("old: not there", details={"field": "b"}))
    log.note(MESSAGE._replace(operation="old"), SchemaError("old: not good", details={"field": "a"}))
    in_audit = (
        "validation: a value received on topic old partition 3 offset 42 does not fit and passes in audit"
    )
    assert caplog.messages == [
        f"{in_audit}: old: not good",
        f"{in_audit}: old: not good",
        f"{in_audit}: old: not there",
        "validation: a value sent on topic old does not fit and passes in audit: old: not good",
    ]
