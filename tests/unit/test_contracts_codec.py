"""The codec: Confluent's wire format, and what becomes of bytes from anybody."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

import fastavro
import pytest
from pydantic import BaseModel, ConfigDict, field_validator

from broker_mesh.contracts.codec import (
    Codec,
    NotAvro,
    Undecodable,
    UnknownSchemaId,
    decode_as_written,
    schema_id_of,
)
from broker_mesh.contracts.models import schema_of_model
from broker_mesh.errors import FailedPrecondition, SchemaError
from tests.support.contracts import (
    EVERYTHING,
    Everything,
    Known,
    Leg,
    Node,
    Sky,
    avro,
    by_name,
    codec_for,
)


def test_wire_format() -> None:
    codec = Codec("s", avro({"name": "x", "type": "string"}), 0x01020304, None, Known())
    assert codec.encode({"x": "ab"}) == b"\x00\x01\x02\x03\x04\x04ab"
    assert codec.decode(b"\x00\x01\x02\x03\x04\x04ab") == {"x": "ab"}
    assert schema_id_of(b"\x00\x01\x02\x03\x04\x04ab") == 0x01020304


def test_every_type_there_and_back() -> None:
    codec = codec_for(Everything)
    data = codec.encode(EVERYTHING)
    assert codec.decode(data) == EVERYTHING
    # A caller by name writes and reads the same bytes.
    unbound = Codec("made-value", codec.schema, 1, None, Known())
    value = unbound.decode(data)
    assert unbound.encode(value) == data
    assert value["sky"] == "clouds"
    assert value["pet"] == {"kind": "dog", "age": 3}
    assert unbound.encode(EVERYTHING) == data
    # So does fastavro, with the schema as it is registered.
    reread = fastavro.schemaless_reader(BytesIO(data[5:]), json.loads(codec.schema.canonical), None)
    assert reread == value


@pytest.mark.parametrize("mixed", [1, "1", 1.0, True, False, 0])
def test_a_union_is_read_as_the_type_that_was_written(mixed: Any) -> None:
    codec = codec_for(Everything)
    found = codec.decode(codec.encode(EVERYTHING.model_copy(update={"mixed": mixed}))).mixed
    assert (type(found), found) == (type(mixed), mixed)


def test_a_strict_model_reads_avro() -> None:
    class Made(BaseModel):
        model_config = ConfigDict(strict=True)
        sky: Sky
        tags: set[str]

    codec = codec_for(Made)
    assert codec.decode(codec.encode(Made(sky=Sky.CLEAR, tags={"a"}))) == Made(sky=Sky.CLEAR, tags={"a"})


def test_a_value_that_the_model_refuses_is_named_without_its_content() -> None:
    class Made(BaseModel):
        card: str
        seats: int

        @field_validator("card")
        @classmethod
        def _check(cls, card: str) -> str:
            if card.startswith("4111"):
                raise ValueError("not a card number")
            return card

    schema = schema_of_model(Made, "n")
    written = Codec("s", schema, 1, None, Known()).encode({"card": "4111-secret", "seats": 1})
    with pytest.raises(SchemaError) as caught:
        Codec("made-value", schema, 1, Made, Known()).decode(written)
    assert caught.value.message == "made-value: field 'card': Value error, not a card number"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "0 bytes are too few"),
        (b"\x00\x00\x00\x00", "4 bytes are too few"),
        (b"\x01\x00\x00\x00\x01\x02a", "the first byte is 1"),
        (b'{"origin":"JFK"}', "the first byte is 123"),
    ],
)
def test_what_is_not_avro(data: bytes, problem: str) -> None:
    with pytest.raises(NotAvro, match=problem):
        codec_for(Leg).decode(data)


def test_an_unknown_id_is_asked_for_again() -> None:
    cache = Known(schema_of_model(Leg, "n"))
    codec = Codec("made-value", cache.schemas[1], 1, Leg, cache)
    data = b"\x00\x00\x00\x00\x02" + codec.encode(Leg(origin="JFK"))[5:]
    for _ in range(2):
        with pytest.raises(UnknownSchemaId) as caught:
            codec.decode(data)
        assert caught.value.schema_id == 2
    cache.schemas[2] = cache.schemas[1]
    for _ in range(3):
        assert codec.decode(data) == Leg(origin="JFK")
    assert cache.asked == [2, 2, 2]


def test_a_reader_that_waits_for_its_writer() -> None:
    schema = schema_of_model(Leg, "n")
    codec = Codec("made-value", schema, None, Leg, Known(schema))
    with pytest.raises(FailedPrecondition, match="not registered"):
        codec.encode(Leg(origin="JFK"))
    assert codec.decode(codec_for(Leg).encode(Leg(origin="JFK"))) == Leg(origin="JFK")


def test_older_and_newer_writers() -> None:
    inner = {
        "type": "record",
        "name": "I",
        "fields": [{"name": "l", "type": {"type": "array", "items": "int"}}],
    }
    old = avro({"name": "a", "type": "int"}, {"name": "gone", "type": "string"})
    new = avro(
        {"name": "a", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "default": 1_000_000},
        {"name": "raw", "type": "bytes", "default": "\u00ff"},
        {
            "name": "price",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
            "default": "\u0001",
        },
        {"name": "list", "type": {"type": "array", "items": "int"}, "default": [1]},
        {"name": "in", "type": inner, "default": {"l": [2]}},
    )
    written = Codec("s", old, 1, None, Known()).encode({"a": 5, "gone": "x"})
    reader = Codec("s", new, 2, None, Known(old))
    expected = {
        "a": 5,
        "at": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        "raw": b"\xff",
        "price": Decimal("0.01"),
        "list": [1],
        "in": {"l": [2]},
    }
    first = reader.decode(written)
    assert first == expected
    first["list"].append(2)
    first["in"]["l"].append(3)
    assert reader.decode(written) == expected


def test_a_writer_that_can_not_be_read() -> None:
    other = avro({"name": "b", "type": "string"})
    written = Codec("s", other, 1, None, Known()).encode({"b": "x"})
    reader = Codec("made-value", avro({"name": "a", "type": "int"}), 2, None, Known(other))
    with pytest.raises(Undecodable, match="made-value: the bytes can't be decoded by schema id 1"):
        reader.decode(written)


def test_cut_and_prolonged_bytes() -> None:
    codec = codec_for(Everything)
    data = codec.encode(EVERYTHING)
    for end in range(5, len(data)):
        with pytest.raises(Undecodable):
            codec.decode(data[:end])
    with pytest.raises(Undecodable, match="1 bytes are left after the value"):
        codec.decode(data + b"\x00")


def header(body: bytes) -> bytes:
    return b"\x00" + struct.pack(">i", 1) + body


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("bytes", b"\xfe\xff\xff\xff\x0f"),
        ("string", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ("string", b"\x01abc"),
        ("string", b"\x02\xff"),
        ("long", b"\xff" * 100),
        ("double", b"abc"),
        ("float", b"abc"),
        ("boolean", b""),
        ({"type": "array", "items": "string"}, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ({"type": "map", "values": "long"}, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ({"type": "enum", "name": "E", "symbols": ["a"]}, b"\x04"),
        (["null", "string"], b"\x04"),
        ({"type": "long", "logicalType": "timestamp-micros"}, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ({"type": "int", "logicalType": "date"}, b"\xfe\xff\xff\xff\x0f"),
        ({"type": "string", "logicalType": "uuid"}, b"\x06abc"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 3}, b"\x04\x7f\xff"),
        # A decimal of a megabyte: without a limit, minutes of arithmetic.
        ({"type": "bytes", "logicalType": "decimal", "precision": 3}, b"\x80\x89\x7a" + b"\x7f" * 1_000_000),
    ],
)
def test_garbage_is_undecodable(kind: Any, body: bytes) -> None:
    with pytest.raises(Undecodable) as caught:
        by_name({"name": "x", "type": kind}).decode(header(body))
    assert len(caught.value.message) < 250


def test_a_megabyte_of_nesting_does_not_overrun_the_stack() -> None:
    codec = codec_for(Node)
    with pytest.raises(Undecodable, match="nested more than 100 types deep"):
        codec.decode(header(b"\x00\x02" * 500_000))


def test_decoding_as_written() -> None:
    cache = Known(schema_of_model(Leg, "n"))
    data = codec_for(Leg).encode(Leg(origin="JFK"))
    assert decode_as_written(data, cache) == {"origin": "JFK", "stop": None}
    with pytest.raises(UnknownSchemaId):
        decode_as_written(data, Known())
