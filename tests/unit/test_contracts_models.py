"""Models to schemas, and models against schemas."""

from __future__ import annotations

import enum
import uuid
from datetime import date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType

import pytest
from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NaiveDatetime,
    RootModel,
    create_model,
)

from broker_mesh.contracts.models import check_binding, schema_of_model
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.errors import SchemaError

Money = Annotated[Decimal, Field(max_digits=8, decimal_places=2)]
TailNumber = NewType("TailNumber", str)


class Sky(enum.Enum):
    CLEAR = "clear"
    CLOUDS = "clouds"


class Level(enum.IntEnum):
    LOW = 1


class Numbers(enum.Enum):
    ONE = 1


class Leg(BaseModel):
    origin: str
    stop: str | None = None


class Tree(BaseModel):
    branches: list[Tree] = []


def model_of(annotation: Any, default: Any = ...) -> type[BaseModel]:
    return create_model("Made", field=(annotation, default))


def type_of(annotation: Any) -> Any:
    return schema_of_model(model_of(annotation), "n").definition["fields"][0]["type"]


@pytest.mark.parametrize(
    ("annotation", "avro"),
    [
        (str, "string"),
        (int, "long"),
        (float, "double"),
        (bool, "boolean"),
        (bytes, "bytes"),
        (datetime, {"type": "long", "logicalType": "timestamp-micros"}),
        (AwareDatetime, {"type": "long", "logicalType": "timestamp-micros"}),
        (NaiveDatetime, {"type": "long", "logicalType": "local-timestamp-micros"}),
        (date, {"type": "int", "logicalType": "date"}),
        (time, {"type": "long", "logicalType": "time-micros"}),
        (uuid.UUID, {"type": "string", "logicalType": "uuid"}),
        (Money, {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2}),
        (Sky, {"type": "enum", "name": "Sky", "symbols": ["clear", "clouds"]}),
        (Level, "long"),
        (Literal["a", "b"], {"type": "enum", "name": "MadeField", "symbols": ["a", "b"]}),
        (list[int], {"type": "array", "items": "long"}),
        (set[str], {"type": "array", "items": "string"}),
        (frozenset[str], {"type": "array", "items": "string"}),
        (tuple[int, ...], {"type": "array", "items": "long"}),
        (dict[str, int], {"type": "map", "values": "long"}),
        (int | None, ["null", "long"]),
        (int | str, ["long", "string"]),
        (Literal["a", None], ["null", {"type": "enum", "name": "MadeField", "symbols": ["a"]}]),
        (Annotated[int, Field(ge=0)], "long"),
        (TailNumber, "string"),
        (list[Leg | None], None),
    ],
)
def test_types(annotation: Any, avro: Any) -> None:
    found = type_of(annotation)
    if avro is not None:
        assert found == avro
    check_binding(model_of(annotation), schema_of_model(model_of(annotation), "n"))


@pytest.mark.parametrize(
    ("annotation", "default", "avro_default"),
    [
        (int | None, None, None),
        (str | None, "x", "x"),
        (float, 1, 1.0),
        (Sky, Sky.CLOUDS, "clouds"),
        (bytes, b"\xff\x00", "\u00ff\u0000"),
        (date, date(1970, 1, 3), 2),
        (time, time(0, 0, 1), 1_000_000),
        (AwareDatetime, datetime.fromisoformat("1970-01-01T01:00:01+01:00"), 1_000_000),
        (NaiveDatetime, datetime(1970, 1, 1, 0, 0, 1), 1_000_000),
        (Money, Decimal("-0.01"), "\u00ff"),
        (uuid.UUID, uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (list[int], [1, 2], [1, 2]),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (Leg, Leg(origin="JFK"), {"origin": "JFK", "stop": None}),
        (Leg | None, Leg(origin="JFK"), {"origin": "JFK", "stop": None}),
        (int | str, "x", "x"),
    ],
)
def test_defaults(annotation: Any, default: Any, avro_default: Any) -> None:
    made = model_of(annotation, default)
    schema = schema_of_model(made, "n")
    assert schema.definition["fields"][0]["default"] == avro_default
    # What the library makes of the default is the default.
    named = schema.fastavro_form["__named_schemas"]
    read = named["n.Made"]["fields"][0]["default"]
    assert made.model_validate({"field": read}) == made(field=default)


def test_a_factory_of_something_empty_is_a_default_and_others_are_none() -> None:
    class Made(BaseModel):
        tags: list[str] = Field(default_factory=list)
        id: uuid.UUID = Field(default_factory=uuid.uuid4)

    fields = schema_of_model(Made, "n").definition["fields"]
    assert fields[0]["default"] == []
    assert "default" not in fields[1]


def test_names() -> None:
    class Aliased(BaseModel):
        tail: str = Field(alias="tailnum")

    schema = schema_of_model(Aliased, "find-fleet.v1")
    assert schema.definition["namespace"] == "find_fleet.v1"
    assert schema.definition["fields"][0]["name"] == "tailnum"
    check_binding(Aliased, schema)


def test_a_model_that_holds_itself() -> None:
    schema = schema_of_model(Tree, "n")
    assert schema.definition["fields"][0]["type"] == {"type": "array", "items": "Tree"}
    check_binding(Tree, schema)


def test_a_model_used_twice_is_defined_once() -> None:
    class Pair(BaseModel):
        one: Leg
        two: Leg

    fields = schema_of_model(Pair, "n").definition["fields"]
    assert fields[0]["type"]["name"] == "Leg"
    assert fields[1]["type"] == "Leg"


class Cat(BaseModel):
    kind: Literal["cat"]
    age: int


class Dog(BaseModel):
    kind: Literal["dog"]
    age: int


class Wolf(BaseModel):
    age: int
    kind: str


class Bare(BaseModel):
    field: Any


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (Any, "field 'field' has the type Any, which has no counterpart in Avro"),
        (complex, "has the type complex"),
        (Decimal, "write Annotated[Decimal, Field(max_digits=12, decimal_places=2)]"),
        (Annotated[Decimal, Field(max_digits=3)], "max_digits=12"),
        (dict[int, str], "write dict[str, …]"),
        (dict, "write dict[str, …]"),
        (list, "as in list[str]"),
        (tuple[int, str], "write tuple[T, ...] or a model"),
        (Literal[1, 2], "has the value 1, which can't be a symbol"),
        (Literal["a b"], "has the value 'a b'"),
        (Numbers, "Numbers.ONE has the value 1"),
        (int | Level | list[str] | set[int], "both array in Avro"),
        (str | uuid.UUID, "both string in Avro"),
        (Cat | Wolf, "union of Cat and Wolf, which have the same fields"),
        (list[Bare], "model Bare: field 'field' has the type Any"),
        (RootModel[list[int]], "a RootModel has no fields"),
    ],
)
def test_what_avro_can_not_have(annotation: Any, problem: str) -> None:
    with pytest.raises(SchemaError) as caught:
        schema_of_model(model_of(annotation), "n")
    assert problem in caught.value.message
    assert caught.value.message.startswith("model ")


def test_models_with_a_literal_each_can_be_told_apart() -> None:
    assert [branch["name"] for branch in type_of(Cat | Dog)] == ["Cat", "Dog"]


def test_aliases_that_differ_for_reading_and_writing() -> None:
    class Aliased(BaseModel):
        field: int = Field(validation_alias=AliasChoices("a", "b"))

    with pytest.raises(SchemaError, match="give it one `alias`"):
        schema_of_model(Aliased, "n")


def test_an_alias_that_is_no_name() -> None:
    class Aliased(BaseModel):
        field: int = Field(alias="tail-num")

    with pytest.raises(SchemaError, match="would be called 'tail-num' in Avro"):
        schema_of_model(Aliased, "n")


def test_two_types_of_one_name() -> None:
    other = create_model("Leg", far=(int, ...))
    with pytest.raises(SchemaError, match="two different types called Leg"):
        schema_of_model(create_model("Made", one=(Leg, ...), two=(other, ...)), "n")


def test_a_default_of_another_type() -> None:
    with pytest.raises(SchemaError, match="field 'field' has a default of another type than its own: str"):
        schema_of_model(model_of(int, "x"), "n")


class Aircraft(BaseModel):
    tailnum: str
    seats: int
    built: int | None = None


def avro(*fields: dict[str, Any], name: str = "Aircraft") -> AvroSchema:
    return AvroSchema.of({"type": "record", "name": name, "fields": list(fields)}, "fleet/v1.find.avsc")


TAILNUM = {"name": "tailnum", "type": "string"}
SEATS = {"name": "seats", "type": "long"}
BUILT = {"name": "built", "type": ["null", "long"], "default": None}


@pytest.mark.parametrize(
    "schema",
    [
        avro(TAILNUM, SEATS, BUILT),
        avro(BUILT, {**SEATS, "type": "int"}, TAILNUM, name="Other"),
        avro(TAILNUM, SEATS),
        avro(TAILNUM, SEATS, BUILT, {"name": "more", "type": "string", "default": ""}),
        avro(TAILNUM, SEATS, {**BUILT, "type": ["null", "int"]}),
    ],
)
def test_a_binding_that_holds(schema: AvroSchema) -> None:
    check_binding(Aircraft, schema)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (avro(TAILNUM), "'seats' is required by the model and not in the schema"),
        (
            avro(TAILNUM, SEATS, {"name": "more", "type": "string"}),
            "'more' is in the schema without a default and not in the model",
        ),
        (avro(TAILNUM, {**SEATS, "type": "string"}), "'seats' is int in the model, string in the schema"),
        (avro(TAILNUM, {**SEATS, "type": "double"}), "'seats' is int in the model, double in the schema"),
        (
            avro(TAILNUM, {**SEATS, "type": {"type": "long", "logicalType": "timestamp-micros"}}),
            "'seats' is int in the model, long-timestamp-micros in the schema",
        ),
        (
            avro({**TAILNUM, "type": {"type": "string", "logicalType": "uuid"}}, SEATS),
            "'tailnum' is str in the model, string-uuid in the schema",
        ),
        (avro(TAILNUM, SEATS, {"name": "built", "type": "long"}), "'built' may be None in the model"),
        (
            avro(TAILNUM, {**SEATS, "type": ["null", "long"]}),
            "'seats' may be null in the schema and not in the",
        ),
        (
            avro(TAILNUM, SEATS, {**BUILT, "type": ["null", "string"]}),
            "'built' may be int in the model and not in the schema; 'built' may be string in the schema",
        ),
    ],
)
def test_a_binding_that_does_not_hold(schema: AvroSchema, problem: str) -> None:
    with pytest.raises(SchemaError) as caught:
        check_binding(Aircraft, schema, "fleet.v1.find-value")
    assert caught.value.message.startswith(
        "model Aircraft does not fit the schema of 'fleet.v1.find-value': "
    )
    assert problem in caught.value.message


def test_all_differences_stand_in_one_sentence() -> None:
    with pytest.raises(SchemaError) as caught:
        check_binding(Aircraft, avro({"name": "more", "type": "int"}))
    assert caught.value.message == (
        "model Aircraft does not fit the schema of 'fleet/v1.find.avsc': "
        "'tailnum' is required by the model and not in the schema; "
        "'seats' is required by the model and not in the schema; "
        "'more' is in the schema without a default and not in the model"
    )


def test_differences_inside_name_the_way() -> None:
    class Flight(BaseModel):
        legs: list[Leg]
        sky: Sky
        by_day: dict[str, Leg] = {}

    definition = schema_of_model(Flight, "n").definition
    leg = definition["fields"][0]["type"]["items"]
    leg["fields"][0]["type"] = "long"
    definition["fields"][1]["type"]["symbols"] = ["clear", "fog"]
    with pytest.raises(SchemaError) as caught:
        check_binding(Flight, AvroSchema.of(definition))
    assert caught.value.details["differences"] == [
        "'legs[].origin' is str in the model, long in the schema",
        "'sky' has the symbols clouds only in the model",
        "'sky' has the symbols fog only in the schema",
    ]


def test_a_model_that_forbids_more_must_know_all_fields() -> None:
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        tailnum: str

    schema = avro(TAILNUM, {"name": "more", "type": "string", "default": ""})
    with pytest.raises(
        SchemaError, match="'more' is in the schema, and the model forbids what it does not know"
    ):
        check_binding(Closed, schema)


def test_decimals_of_another_size() -> None:
    made = model_of(Money)
    other = model_of(Annotated[Decimal, Field(max_digits=8, decimal_places=3)])
    with pytest.raises(SchemaError, match="8 digits with 2 decimal places in the model, 8 digits with 3"):
        check_binding(made, schema_of_model(other, "n"))
