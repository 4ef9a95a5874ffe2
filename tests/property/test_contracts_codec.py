"""Values there and back for generated schemas and models, and bytes from anybody."""

from __future__ import annotations

import json
import math
import struct
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from broker_mesh.contracts.codec import Codec, json_to_value, value_to_json
from broker_mesh.contracts.compatibility import check
from broker_mesh.contracts.models import check_binding, schema_of_model
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.errors import SchemaError

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
THOROUGH = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

LONGS = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
DECIMALS = st.decimals(-99999, 99999, places=2)

SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    ("null", st.none()),
    ("boolean", st.booleans()),
    ("int", st.integers(-(2**31), 2**31 - 1)),
    ("long", LONGS),
    ("float", st.floats(width=32)),
    ("double", st.floats()),
    ("bytes", st.binary(max_size=20)),
    ("string", TEXT),
    ({"type": "int", "logicalType": "date"}, st.dates()),
    ({"type": "long", "logicalType": "time-micros"}, st.times()),
    ({"type": "long", "logicalType": "timestamp-micros"}, MOMENTS),
    (
        {"type": "long", "logicalType": "local-timestamp-micros"},
        MOMENTS.map(lambda m: m.replace(tzinfo=None)),
    ),
    ({"type": "string", "logicalType": "uuid"}, st.uuids()),
    ({"type": "bytes", "logicalType": "decimal", "precision": 7, "scale": 2}, DECIMALS),
]


class Typed:
    """A generated type and the values it has."""

    def __init__(self, avro: Any, values: st.SearchStrategy[Any]) -> None:
        self.avro = avro
        self.values = values


def named(draw: st.DrawFn) -> str:
    # Unique within a schema: drawn from a shared counter.
    counter = draw(st.shared(st.builds(lambda: iter(range(10_000))), key="names"))
    return f"T{next(counter)}"


@st.composite
def types(draw: st.DrawFn, depth: int = 3, nullable: bool = True) -> Typed:
    kinds = ["scalar", "enum", "fixed"] + (["array", "map", "record", "union"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "enum":
        symbols = draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
        return Typed({"type": "enum", "name": named(draw), "symbols": symbols}, st.sampled_from(symbols))
    if kind == "fixed":
        size = draw(st.integers(1, 5))
        return Typed(
            {"type": "fixed", "name": named(draw), "size": size}, st.binary(min_size=size, max_size=size)
        )
    if kind == "array":
        items = draw(types(depth - 1, nullable=False))
        avro = items.avro if items.avro != "null" else "int"
        values = items.values if items.avro != "null" else st.just(0)
        # A record without fields takes no bytes, which arrays may not have.
        return Typed({"type": "array", "items": ["null", avro]}, st.lists(st.none() | values, max_size=3))
    if kind == "map":
        part = draw(types(depth - 1))
        return Typed({"type": "map", "values": part.avro}, st.dictionaries(TEXT, part.values, max_size=3))
    if kind == "record":
        return draw(records(depth - 1))
    if kind == "union" and nullable:
        part = draw(types(depth - 1, nullable=False))
        if part.avro != "null":
            return Typed(["null", part.avro], st.none() | part.values)
    avro, values = draw(st.sampled_from(SCALARS[1:]))
    return Typed(avro, values)


@st.composite
def records(draw: st.DrawFn, depth: int = 3) -> Typed:
    parts = draw(st.lists(types(depth), max_size=4))
    fields = [{"name": f"f{i}", "type": part.avro} for i, part in enumerate(parts)]
    values = st.fixed_dictionaries({f"f{i}": part.values for i, part in enumerate(parts)})
    return Typed({"type": "record", "name": named(draw), "fields": fields}, values)


class NoSchemas:
    def by_id(self, schema_id: int) -> AvroSchema | None:
        return None


def codec_of(avro: Any) -> Codec:
    return Codec("made-value", AvroSchema.of(avro), 1, None, NoSchemas())


def same(one: Any, other: Any) -> bool:
    """Compare values; NaN is itself here."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other


def attempt(codec: Codec, data: bytes) -> Any:
    """Give the value or the only error there may be."""
    try:
        return codec.decode(data)
    except SchemaError as error:
        return error


@given(st.data())
@THOROUGH
def test_values_of_any_schema_come_back(data: st.DataObject) -> None:
    record = data.draw(records())
    value = data.draw(record.values)
    codec = codec_of(record.avro)
    encoded = codec.encode(value)
    assert same(codec.decode(encoded), value)
    # The registered text means the same.
    again = Codec("again", AvroSchema.parse(codec.schema.canonical), 1, None, NoSchemas())
    assert again.encode(codec.decode(encoded)) == encoded
    assert check("FULL_TRANSITIVE", again.schema, [codec.schema]) == []


@given(st.data())
@QUICK
def test_values_of_any_schema_survive_json(data: st.DataObject) -> None:
    record = data.draw(records())
    value = data.draw(record.values)
    codec = codec_of(record.avro)
    plain = json.loads(json.dumps(value_to_json(codec.decode(codec.encode(value)))))
    assert same(json_to_value(codec.schema, plain), value)


@given(st.data())
@THOROUGH
def test_bytes_of_anybody_are_a_value_or_a_schema_error(data: st.DataObject) -> None:
    record = data.draw(records())
    codec = codec_of(record.avro)
    valid = codec.encode(data.draw(record.values))
    garbled = bytearray(valid)
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(valid) - 1), st.integers(0, 255)), max_size=4)
    ):
        garbled[at] = byte
    body = data.draw(st.binary(max_size=60))
    for candidate in (body, b"\x00" + struct.pack(">i", 1) + body, bytes(garbled), valid[: len(body)]):
        found = attempt(codec, candidate)
        assert not isinstance(found, SchemaError) or len(found.message) < 300


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
    kids: list[Node] = []
    next: Node | None = None


class Flight(BaseModel):
    number: int
    ratio: float
    tail: str | None
    raw: bytes
    moment: datetime
    day: date
    clock: time
    id: UUID
    price: Annotated[Decimal, Field(max_digits=7, decimal_places=2)]
    sky: Sky
    word: Literal["x", "y"] | None
    legs: list[Leg]
    tags: set[str]
    counts: dict[str, Leg | None]
    pet: Cat | Dog | None
    mixed: int | str | bool | list[int]
    node: Node | None
    wire: int = Field(alias="onTheWire")


LEGS = st.builds(Leg, origin=TEXT, stop=st.none() | TEXT)
NODES = st.recursive(
    st.builds(Node, value=LONGS),
    lambda nodes: st.builds(Node, value=LONGS, kids=st.lists(nodes, max_size=2), next=st.none() | nodes),
    max_leaves=5,
)
FLIGHTS = st.builds(
    Flight,
    number=LONGS,
    ratio=st.floats(allow_nan=False),
    tail=st.none() | TEXT,
    raw=st.binary(max_size=20),
    moment=MOMENTS,
    day=st.dates(),
    clock=st.times(),
    id=st.uuids(),
    price=DECIMALS,
    sky=st.sampled_from(Sky),
    word=st.sampled_from(["x", "y", None]),
    legs=st.lists(LEGS, max_size=3),
    tags=st.sets(TEXT, max_size=3),
    counts=st.dictionaries(TEXT, st.none() | LEGS, max_size=3),
    pet=st.none() | st.builds(Cat, age=LONGS) | st.builds(Dog, age=LONGS),
    mixed=LONGS | TEXT | st.booleans() | st.lists(LONGS, max_size=3),
    node=st.none() | NODES,
    onTheWire=LONGS,
)
FLIGHT_SCHEMA = schema_of_model(Flight, "n")
FLIGHT_CODEC = Codec("flight-value", FLIGHT_SCHEMA, 1, Flight, NoSchemas())


@given(FLIGHTS)
@QUICK
def test_models_come_back(flight: Flight) -> None:
    data = FLIGHT_CODEC.encode(flight)
    found = FLIGHT_CODEC.decode(data)
    assert found == flight
    assert type(found.mixed) is type(flight.mixed)
    unbound = Codec("flight-value", FLIGHT_SCHEMA, 1, None, NoSchemas())
    assert unbound.encode(unbound.decode(data)) == data


@given(st.binary(max_size=200))
@THOROUGH
def test_garbage_for_a_model_is_a_schema_error(body: bytes) -> None:
    for data in (body, b"\x00\x00\x00\x00\x01" + body):
        found = attempt(FLIGHT_CODEC, data)
        assert isinstance(found, Flight) or len(found.message) < 300


def test_a_schema_of_a_model_binds_it() -> None:
    check_binding(Flight, FLIGHT_SCHEMA)
