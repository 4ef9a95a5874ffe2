"""Schemas: one canonical text each, and errors that name the place."""

from __future__ import annotations

import pytest

from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.errors import SchemaError


def record(*fields: object, name: str = "R") -> dict[str, object]:
    return {"type": "record", "name": name, "fields": list(fields)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"type": "string"}', '"string"'),
        ('{"type": {"type": "string"}}', '"string"'),
        (
            '{"name": "a.b.R", "fields": [], "type": "record"}',
            '{"type":"record","namespace":"a.b","name":"R","fields":[]}',
        ),
        (
            '{"type":"record","name":"a.R","fields":[{"name":"x","order":"ascending","type":{"type":"int"}}]}',
            '{"type":"record","name":"R","namespace":"a","fields":[{"name":"x","type":"int"}]}',
        ),
        (
            '{"type":"record","name":"a.R","fields":[{"name":"x","type":["null","a.R"],"default":null}]}',
            '{"type":"record","name":"R","namespace":"a","fields":[{"type":["null","R"],"default":null,"name":"x"}]}',
        ),
        (
            '{"type":"record","name":"a.R","fields":[{"name":"x","type":{"type":"enum","name":"a.E","symbols":["s"]}}]}',
            '{"type":"record","name":"a.R","fields":[{"name":"x","type":{"type":"enum","name":"E","symbols":["s"]}}]}',
        ),
    ],
)
def test_the_same_schema_in_other_words(one: str, other: str) -> None:
    left, right = AvroSchema.parse(one), AvroSchema.parse(other)
    assert left == right
    assert left.canonical == right.canonical
    assert left.fingerprint == right.fingerprint
    assert hash(left) == hash(right)
    assert AvroSchema.parse(left.canonical).canonical == left.canonical


@pytest.mark.parametrize(
    "change",
    [
        {"doc": "said"},
        {"name": "S"},
        {"fields": [{"name": "x", "type": "int", "default": 1}]},
        {"mesh-key": "x"},
    ],
)
def test_what_makes_another_schema(change: dict[str, object]) -> None:
    base = record({"name": "x", "type": "int"})
    assert AvroSchema.of(base) != AvroSchema.of({**base, **change})
    assert AvroSchema.of(base) != base


def test_a_type_of_no_namespace_inside_one_keeps_it() -> None:
    inner = {"type": "record", "name": "I", "namespace": "", "fields": []}
    schema = AvroSchema.of({**record({"name": "x", "type": inner}), "namespace": "a"})
    assert '"namespace":""' in schema.canonical
    assert AvroSchema.parse(schema.canonical) == schema


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{\n  "type": }', "f.avsc: line 2, column 11: not valid JSON: Expecting value"),
        ("[" * 100_000, "nested too deep"),
        ('"strng"', "the schema has the unknown type 'strng': did you mean 'string'?"),
        ('{"type":"recrod","name":"R"}', "did you mean 'record'?"),
        ("7", "the schema has 7 where a type belongs"),
        ("{}", "the schema has no 'type'"),
        ('{"type":"record","name":"R"}', "a record without a list of 'fields'"),
        ('{"type":"record","fields":[]}', "a record without a name"),
        ('{"type":"record","name":"a-b","fields":[]}', "has the name 'a-b': write letters"),
        ('{"type":"record","name":"R","namespace":1,"fields":[]}', "'namespace' that is not a string"),
        ('{"type":"record","name":"R","fields":[{"type":"int"}]}', "field 'fields[0]' needs a 'name'"),
        ('{"type":"record","name":"R","fields":[{"name":"x"}]}', "field 'x' has no 'type'"),
        (
            '{"type":"record","name":"R","fields":[{"name":"x","type":"int"},{"name":"x","type":"int"}]}',
            "field 'x' stands twice in its record",
        ),
        (
            '{"type":"record","name":"R","fields":[{"name":"x","type":{"type":"array","items":"lnog"}}]}',
            "field 'x.items' has the unknown type 'lnog': did you mean 'long'?",
        ),
        (
            '{"type":"record","name":"R","fields":[{"name":"x","type":{"type":"map"}}]}',
            "'map' without 'values'",
        ),
        ('{"type":"enum","name":"E","symbols":[]}', "without a list of 'symbols'"),
        ('{"type":"enum","name":"E","symbols":["a b"]}', "has the symbol 'a b'"),
        ('{"type":"enum","name":"E","symbols":["a","a"]}', "has a symbol twice"),
        ('{"type":"fixed","name":"F"}', "fixed without a 'size'"),
        ('["null",["int"]]', "a union inside a union"),
        ('["int",{"type":"int","logicalType":"date"}]', "a union with 'int' twice"),
        ("[]", "a union of nothing"),
        ('{"type":{"type":"int"},"doc":"x"}', "attributes beside a type"),
        (
            '{"type":"record","name":"R","fields":[{"name":"x","type":"int","default":"y"}]}',
            "f.avsc: not a valid Avro schema: Default value",
        ),
        (
            '{"type":"record","name":"R","fields":['
            '{"name":"x","type":{"type":"record","name":"I","fields":[]}},'
            '{"name":"y","type":{"type":"record","name":"I","fields":[]}}]}',
            "field 'y' defines the type 'I' a second time",
        ),
        (
            '{"type":"bytes","logicalType":"decimal","precision":2,"scale":3}',
            "not a valid Avro schema: decimal scale",
        ),
    ],
)
def test_what_is_no_schema(text: str, problem: str) -> None:
    with pytest.raises(SchemaError) as caught:
        AvroSchema.parse(text, "f.avsc")
    assert problem in caught.value.message
    assert caught.value.message.startswith("f.avsc: ")
    assert len(caught.value.message) < 300


def test_nothing_is_checked_before_it_is_needed() -> None:
    schema = AvroSchema("no json", "schema id 7")
    with pytest.raises(SchemaError, match="schema id 7: line 1"):
        _ = schema.canonical
