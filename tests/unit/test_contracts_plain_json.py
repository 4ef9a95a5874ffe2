"""Plain JSON in and out."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from broker_mesh.contracts.codec import (
    Codec,
    json_to_value,
    value_to_json,
)
from broker_mesh.contracts.errors import shown
from broker_mesh.errors import SchemaError
from tests.support.contracts import (
    EVERYTHING,
    Everything,
    Known,
    Sky,
    avro,
    codec_for,
)


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
    with pytest.raises(SchemaError, match=r": fleet\.v1\.find-aircraft-value: field"):
        json_to_value(schema, {"list": [text]}, "fleet.v1.find-aircraft-value")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (False, "false"),
        (datetime(2013, 1, 1, 5, 17), "'2013-01-01T05:17:00'"),
        (Decimal("1.5"), "'1.5'"),
        (UUID(int=1), "'00000000-0000-0000-0000-000000000001'"),
        ({"a": 1}, "an object of 1"),
        ([1, 2], "an array of 2"),
    ],
)
def test_an_error_shows_a_value_as_json_has_it(value: object, text: str) -> None:
    assert shown(value) == text


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
