"""Writing: nothing unknown, missing, or of another type; and the field at fault is named."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr, field_serializer

from broker_mesh.contracts.codec import (
    Codec,
)
from broker_mesh.contracts.models import schema_of_model
from broker_mesh.errors import SchemaError
from tests.support.contracts import (
    EVERYTHING,
    NOW,
    Cat,
    Everything,
    Known,
    Leg,
    Node,
    Sky,
    avro,
    by_name,
    codec_for,
)


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("string", 7, "expected string, got 7"),
        ("string", b"x", "expected string, got b'x'"),
        ("string", None, "expected string, got null"),
        ("long", True, "expected long, got true"),
        ("long", "1", "expected long, got '1'"),
        ("long", 1.0, "expected long, got 1.0"),
        ("long", 2**63, "out of the range of long"),
        ("int", 2**31, "2147483648 is out of the range of int"),
        ("double", True, "expected double, got true"),
        ("double", "1", "expected double, got '1'"),
        ("double", 10**400, "out of the range of double"),
        ("float", 1e39, "out of the range of float"),
        ("boolean", 1, "expected boolean, got 1"),
        ("bytes", "x", "expected bytes, got 'x'"),
        (["null", "string"], 7, "expected string, got 7"),
        (["string", "long"], 1.5, "expected string or long, got 1.5"),
        ({"type": "array", "items": "int"}, "ab", "expected array, got 'ab'"),
        ({"type": "array", "items": "int"}, {"a": 1}, "expected array, got an object of 1"),
        ({"type": "map", "values": "int"}, [], "expected map, got an array of 0"),
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


def test_use_enum_values() -> None:
    class Made(BaseModel):
        model_config = ConfigDict(use_enum_values=True)
        sky: Sky

    codec = codec_for(Made)
    assert codec.decode(codec.encode(Made(sky=Sky.CLEAR))).sky == "clear"


def test_secrets_have_no_counterpart() -> None:
    class Made(BaseModel):
        password: SecretStr

    with pytest.raises(SchemaError, match="SecretStr"):
        schema_of_model(Made, "n")


@pytest.mark.parametrize("schema_id", [-1, 2**31])
def test_ids_that_do_not_fit(schema_id: int) -> None:
    with pytest.raises(SchemaError, match="does not fit into 4 bytes"):
        Codec("s", avro(), schema_id, None, Known())


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
