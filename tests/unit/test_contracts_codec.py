"""The codec: Confluent's wire format, strict on writing, safe on reading."""

from __future__ import annotations

import json
import struct
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from io import BytesIO
from typing import Annotated, Any, Literal

import fastavro
import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer, field_validator

from broker_mesh.contracts.codec import (
    Codec,
    NotAvro,
    Undecodable,
    UnknownSchemaId,
    decode_as_written,
    json_to_value,
    schema_id_of,
    value_to_json,
)
from broker_mesh.contracts.models import schema_of_model
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.errors import FailedPrecondition, SchemaError

NOW = datetime(2013, 1, 1, 5, 17, 0, 123456, tzinfo=UTC)
Money = Annotated[Decimal, Field(max_digits=8, decimal_places=2)]


class Known:
    """A cache of schemas that the test fills."""

    def __init__(self, *schemas: AvroSchema) -> None:
        self.schemas = dict(enumerate(schemas, 1))
        self.asked: list[int] = []

    def by_id(self, schema_id: int) -> AvroSchema | None:
        self.asked.append(schema_id)
        return self.schemas.get(schema_id)


class Sky(Enum):
    CLEAR = "clear"
    CLOUDS = "clouds"


class Leg(BaseModel):
    origin: str
    stop: str | None = None


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    age: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    age: int


class Node(BaseModel):
    value: int
    next: Node | None = None


class Everything(BaseModel):
    text: str
    number: int
    ratio: float
    flag: bool
    raw: bytes
    moment: datetime
    day: date
    clock: time
    id: uuid.UUID
    price: Money
    sky: Sky
    word: Literal["x", "y"]
    legs: list[Leg]
    tags: set[str]
    counts: dict[str, int]
    route: tuple[str, ...]
    maybe: str | None
    pet: Cat | Dog | None
    mixed: int | str | float | bool
    wire: int = Field(alias="onTheWire")
    later: Leg | None = None
    chain: Node | None = None


EVERYTHING = Everything(
    text="Zürich ✈",
    number=-(2**63),
    ratio=0.1,
    flag=True,
    raw=b"\x00\xff",
    moment=NOW,
    day=date(2013, 1, 1),
    clock=time(5, 17, 0, 1),
    id=uuid.UUID(int=5),
    price=Decimal("-123456.78"),
    sky=Sky.CLOUDS,
    word="y",
    legs=[Leg(origin="JFK", stop="BOS"), Leg(origin="")],
    tags={"a"},
    counts={"a": 1},
    route=("JFK", "LAX"),
    maybe=None,
    pet=Dog(age=3),
    mixed=True,
    onTheWire=4,
    later=Leg(origin="EWR"),
    chain=Node(value=1, next=Node(value=2)),
)


def codec_for(model: type[BaseModel], *writers: AvroSchema) -> Codec:
    return Codec(
        "made-value", schema_of_model(model, "n"), 1, model, Known(schema_of_model(model, "n"), *writers)
    )


def by_name(*fields: dict[str, Any], schema_id: int = 1, writers: tuple[AvroSchema, ...] = ()) -> Codec:
    return Codec("made-value", avro(*fields), schema_id, None, Known(*writers))


def avro(*fields: dict[str, Any]) -> AvroSchema:
    return AvroSchema.of({"type": "record", "name": "R", "fields": list(fields)})


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


def test_plain_json_there_and_back() -> None:
    codec = codec_for(Everything)
    value = Codec("s", codec.schema, 1, None, Known()).decode(codec.encode(EVERYTHING))
    plain = json.loads(json.dumps(value_to_json(value)))
    assert json_to_value(codec.schema, plain) == value
    assert value_to_json(EVERYTHING) == plain
    assert plain["moment"] == "2013-01-01T05:17:00.123456Z"
    assert plain["price"] == "-123456.78"
    assert plain["raw"] == "AP8="


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("string", 7, "expected string, got 7"),
        ("string", b"x", "expected string, got b'x'"),
        ("string", None, "expected string, got None"),
        ("long", True, "expected long, got True"),
        ("long", "1", "expected long, got '1'"),
        ("long", 1.0, "expected long, got 1.0"),
        ("long", 2**63, "out of the range of long"),
        ("int", 2**31, "2147483648 is out of the range of int"),
        ("double", True, "expected double, got True"),
        ("double", "1", "expected double, got '1'"),
        ("double", 10**400, "out of the range of double"),
        ("float", 1e39, "out of the range of float"),
        ("boolean", 1, "expected boolean, got 1"),
        ("bytes", "x", "expected bytes, got 'x'"),
        (["null", "string"], 7, "expected string, got 7"),
        (["string", "long"], 1.5, "expected string or long, got 1.5"),
        ({"type": "array", "items": "int"}, "ab", "expected array, got 'ab'"),
        ({"type": "array", "items": "int"}, {"a": 1}, "expected array, got a dict of 1"),
        ({"type": "map", "values": "int"}, [], "expected map, got a list of 0"),
        ({"type": "map", "values": "int"}, {1: 1}, "got the key 1"),
        ({"type": "enum", "name": "E", "symbols": ["a", "b"]}, "c", "expected one of a, b, got 'c'"),
        ({"type": "fixed", "name": "F", "size": 2}, b"abc", "expected 2 bytes"),
        ({"type": "int", "logicalType": "date"}, NOW, "expected date"),
        ({"type": "long", "logicalType": "timestamp-micros"}, datetime(2013, 1, 1), "with time zone"),
        ({"type": "long", "logicalType": "local-timestamp-micros"}, NOW, "without time zone"),
        ({"type": "long", "logicalType": "time-micros"}, time(1, tzinfo=UTC), "without time zone"),
        ({"type": "string", "logicalType": "uuid"}, "no", "expected UUID, got 'no'"),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1},
            1.5,
            "expected decimal, got 1.5",
        ),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1},
            Decimal("0.25"),
            "at most 1 decimal places",
        ),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1},
            Decimal("123"),
            "at most 3 digits",
        ),
        ({"type": "bytes", "logicalType": "decimal", "precision": 3}, Decimal("NaN"), "a finite decimal"),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 3},
            Decimal("1E+999999"),
            "at most 3 digits",
        ),
        (
            {"type": "record", "name": "I", "fields": [{"name": "y", "type": "int"}]},
            7,
            "expected the fields y",
        ),
    ],
)
def test_values_of_wrong_types_are_refused(kind: Any, value: Any, problem: str) -> None:
    codec = by_name({"name": "legs", "type": {"type": "array", "items": kind}})
    with pytest.raises(SchemaError) as caught:
        codec.encode({"legs": [value]})
    assert caught.value.message.startswith("made-value: field 'legs[0]': ")
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        ("double", 1, 1.0),
        ("float", float("inf"), float("inf")),
        ("int", -(2**31), -(2**31)),
        ("long", 2**63 - 1, 2**63 - 1),
        ("bytes", bytearray(b"a"), b"a"),
        ({"type": "array", "items": "int"}, (1, 2), [1, 2]),
        ({"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1}, 99, Decimal("99.0")),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1},
            Decimal("1.500"),
            Decimal("1.5"),
        ),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1},
            Decimal("-99.9"),
            Decimal("-99.9"),
        ),
        (
            {"type": "fixed", "name": "F", "size": 9, "logicalType": "decimal", "precision": 3},
            Decimal(-1),
            Decimal(-1),
        ),
        (
            {"type": "long", "logicalType": "timestamp-micros"},
            datetime(2013, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            datetime(2013, 1, 1, tzinfo=UTC),
        ),
        ({"type": "long", "logicalType": "unheard-of"}, 1, 1),
        ({"type": "bytes", "logicalType": "decimal"}, b"a", b"a"),
    ],
)
def test_values_that_fit(kind: Any, value: Any, read: Any) -> None:
    codec = by_name({"name": "x", "type": kind})
    assert codec.decode(codec.encode({"x": value})) == {"x": read}


def test_fields_are_neither_unknown_nor_missing() -> None:
    codec = by_name({"name": "tailnum", "type": "string"}, {"name": "seats", "type": "int", "default": 7})
    with pytest.raises(SchemaError, match=r"field 'tailnun': is not in the schema, did you mean 'tailnum'\?"):
        codec.encode({"tailnum": "N1", "tailnun": "N2"})
    with pytest.raises(SchemaError, match="field 'tailnum': is missing"):
        codec.encode({"seats": 1})
    assert codec.decode(codec.encode({"tailnum": "N1"})) == {"tailnum": "N1", "seats": 7}


def test_the_field_of_a_union_of_records_is_named() -> None:
    schema = schema_of_model(Everything, "n")
    codec = Codec("made-value", schema, 1, None, Known())
    value = codec.decode(Codec("s", schema, 1, Everything, Known()).encode(EVERYTHING))
    with pytest.raises(SchemaError, match=r"field 'pet\.age': is missing"):
        codec.encode({**value, "pet": {"kind": "cat"}})


def test_errors_show_little_of_a_value() -> None:
    codec = by_name({"name": "x", "type": "long"})
    with pytest.raises(SchemaError) as caught:
        codec.encode({"x": "secret" * 1000})
    assert len(caught.value.message) < 150


def test_a_model_of_another_operation_is_refused() -> None:
    with pytest.raises(SchemaError, match="expected Leg, got Cat"):
        codec_for(Leg).encode(Cat(age=1))


def test_a_mapping_is_validated_by_the_model() -> None:
    codec = codec_for(Leg)
    assert codec.decode(codec.encode({"origin": "JFK"})) == Leg(origin="JFK")
    with pytest.raises(SchemaError, match="made-value: field 'origin': Field required"):
        codec.encode({})


def test_a_model_that_was_changed_behind_pydantics_back() -> None:
    codec = codec_for(Everything)
    wrong = EVERYTHING.model_copy(update={"legs": [Leg.model_construct(origin=7)]})
    with pytest.raises(SchemaError, match=r"field 'legs\[0\].origin': expected string, got 7"):
        codec.encode(wrong)
    with pytest.raises(SchemaError, match=r"field 'number': .* out of the range of long"):
        codec.encode(EVERYTHING.model_copy(update={"number": 2**64}))
    with pytest.raises(SchemaError, match="field 'moment': expected a datetime with time zone"):
        codec.encode(EVERYTHING.model_copy(update={"moment": datetime(2013, 1, 1)}))
    with pytest.raises(SchemaError, match="can't be written as UTF-8"):
        codec.encode(EVERYTHING.model_copy(update={"text": "\ud800"}))
    with pytest.raises(SchemaError, match="field 'mixed'"):
        codec.encode(EVERYTHING.model_copy(update={"mixed": [1]}))


def test_narrower_types_of_the_schema_bind_models() -> None:
    class Made(BaseModel):
        number: int

    codec = Codec("made-value", avro({"name": "number", "type": "int"}), 1, Made, Known())
    assert codec.decode(codec.encode(Made(number=5))) == Made(number=5)
    with pytest.raises(SchemaError, match="field 'number': 2147483648 is out of the range of int"):
        codec.encode(Made(number=2**31))


def test_fields_that_the_schema_does_not_have_are_not_lost_silently() -> None:
    class Made(BaseModel):
        model_config = ConfigDict(extra="allow")
        known: str
        new: int = 0

    codec = Codec("made-value", avro({"name": "known", "type": "string"}), 1, Made, Known())
    assert codec.decode(codec.encode(Made(known="a"))) == Made(known="a")
    assert codec.decode(codec.encode(Made(known="a", new=0))) == Made(known="a")
    with pytest.raises(SchemaError, match="field 'new': is set, and the schema in use does not have it"):
        codec.encode(Made(known="a", new=1))
    with pytest.raises(SchemaError, match="field 'extra': is not in the schema"):
        codec.encode(Made(known="a", extra=1))  # type: ignore[call-arg]


def test_serializers_shape_json_alone() -> None:
    class Made(BaseModel):
        moment: datetime

        @field_serializer("moment")
        def _as_text(self, moment: datetime) -> str:
            return moment.isoformat()

    codec = codec_for(Made)
    assert codec.decode(codec.encode(Made(moment=NOW))) == Made(moment=NOW)


def test_a_strict_model_reads_avro() -> None:
    class Made(BaseModel):
        model_config = ConfigDict(strict=True)
        sky: Sky
        tags: set[str]

    codec = codec_for(Made)
    assert codec.decode(codec.encode(Made(sky=Sky.CLEAR, tags={"a"}))) == Made(sky=Sky.CLEAR, tags={"a"})


def test_use_enum_values() -> None:
    class Made(BaseModel):
        model_config = ConfigDict(use_enum_values=True)
        sky: Sky

    codec = codec_for(Made)
    assert codec.decode(codec.encode(Made(sky=Sky.CLEAR))).sky == "clear"


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


def test_secrets_have_no_counterpart() -> None:
    class Made(BaseModel):
        password: SecretStr

    with pytest.raises(SchemaError, match="SecretStr"):
        schema_of_model(Made, "n")


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


@pytest.mark.parametrize("schema_id", [-1, 2**31])
def test_ids_that_do_not_fit(schema_id: int) -> None:
    with pytest.raises(SchemaError, match="does not fit into 4 bytes"):
        Codec("s", avro(), schema_id, None, Known())


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


def test_what_can_not_be_read_is_not_written() -> None:
    codec = codec_for(Node)
    node = Node(value=0)
    for value in range(98):
        node = Node(value=value, next=node)
    assert codec.decode(codec.encode(node)) == node
    with pytest.raises(SchemaError, match="nested more than 100 types deep"):
        codec.encode(Node(value=1, next=Node(value=2, next=node)))
    for value in range(5000):
        node = Node.model_construct(value=value, next=node)
    with pytest.raises(SchemaError, match="nested too deep"):
        codec.encode(node)


@pytest.mark.parametrize(
    "items",
    ["null", {"type": "record", "name": "E", "fields": []}, {"type": "fixed", "name": "F", "size": 0}],
)
def test_arrays_of_nothing_are_refused(items: Any) -> None:
    # Five bytes could stand for two billion of them.
    with pytest.raises(SchemaError, match="items that take no bytes"):
        by_name({"name": "x", "type": {"type": "array", "items": items}})


def test_decoding_as_written() -> None:
    cache = Known(schema_of_model(Leg, "n"))
    data = codec_for(Leg).encode(Leg(origin="JFK"))
    assert decode_as_written(data, cache) == {"origin": "JFK", "stop": None}
    with pytest.raises(UnknownSchemaId):
        decode_as_written(data, Known())


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        (
            {"type": "long", "logicalType": "timestamp-micros"},
            "noon",
            "expected a time as in 2013-01-01T05:17:00Z",
        ),
        (
            {"type": "int", "logicalType": "date"},
            "1.1.2013",
            "expected a date as in 2013-01-01, got '1.1.2013'",
        ),
        ({"type": "string", "logicalType": "uuid"}, "x", "expected a UUID"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 3}, "x", "expected a decimal number"),
        ("bytes", "*", "expected base64"),
    ],
)
def test_json_that_is_no_value(kind: Any, text: str, problem: str) -> None:
    schema = avro({"name": "list", "type": {"type": "array", "items": kind}})
    with pytest.raises(SchemaError) as caught:
        json_to_value(schema, {"list": [text]})
    assert "field 'list[0]': " in caught.value.message
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("kind", "plain", "value"),
    [
        ("double", "NaN", "nan"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1}, 1.5, "1.5"),
        (["null", {"type": "int", "logicalType": "date"}], "2013-01-01", "2013-01-01"),
        (["null", {"type": "int", "logicalType": "date"}], None, "None"),
        (["string", {"type": "int", "logicalType": "date"}], "2013-01-01", "2013-01-01"),
        ([{"type": "int", "logicalType": "date"}, "string"], "later", "later"),
        (["long", {"type": "map", "values": "bytes"}], {"a": "YQ=="}, "{'a': b'a'}"),
        ("string", 7, "7"),  # left for the codec to refuse
    ],
)
def test_json_becomes_values(kind: Any, plain: Any, value: str) -> None:
    found = json_to_value(avro({"name": "x", "type": kind}), {"x": plain, "unknown": 1})
    assert str(found["x"]) == value
    assert found["unknown"] == 1


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        (Decimal("1E+3"), "1000"),
        ({1}, [1]),
        (Sky.CLEAR, "clear"),
    ],
)
def test_values_become_json(value: Any, plain: Any) -> None:
    assert value_to_json({"x": [value]}) == {"x": [plain]}
