"""Anything that may stand in a schema file, in two versions of a schema, or on `_schemas`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_mesh.contracts.compatibility import check, explain, unreadable
from broker_mesh.contracts.registry_records import schema_record
from broker_mesh.contracts.registry_state import RegistryState
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.store import RegisteredSchema
from broker_mesh.errors import SchemaError

WORDS = st.sampled_from(
    [
        "type",
        "name",
        "fields",
        "items",
        "values",
        "symbols",
        "record",
        "enum",
        "array",
        "map",
        "int",
        "string",
    ]
)
JSON = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda parts: (
        st.lists(parts, max_size=4) | st.dictionaries(WORDS | st.text(max_size=3), parts, max_size=5)
    ),
    max_leaves=15,
)


def attempt(make: Callable[[], AvroSchema]) -> AvroSchema | SchemaError:
    """Give the schema or the only error there may be."""
    try:
        return make()
    except SchemaError as error:
        return error


@given(JSON)
@settings(max_examples=80, deadline=None)
def test_any_json_is_a_schema_or_a_schema_error(definition: Any) -> None:
    found = attempt(lambda: AvroSchema.of(definition, "f.avsc"))
    if isinstance(found, SchemaError):
        assert found.message.startswith("f.avsc: ")
    else:
        assert AvroSchema.parse(found.canonical).canonical == found.canonical


@given(st.text(max_size=50))
@settings(max_examples=80, deadline=None)
def test_any_text_is_a_schema_or_a_schema_error(text: str) -> None:
    found = attempt(lambda: AvroSchema.parse(text, "f.avsc"))
    assert isinstance(found, AvroSchema) or found.message.startswith("f.avsc: ")


SIMPLE = st.sampled_from(["null", "boolean", "int", "long", "float", "double", "bytes", "string"])
LEAVES = SIMPLE | st.lists(SIMPLE, min_size=1, max_size=3, unique=True)


def enums() -> st.SearchStrategy[Any]:
    symbols = st.lists(st.sampled_from("abc"), min_size=1, unique=True)
    return st.builds(
        lambda symbols, default: (
            {"type": "enum", "name": "E", "symbols": symbols} | ({"default": symbols[0]} if default else {})
        ),
        symbols,
        st.booleans(),
    )


def types() -> st.SearchStrategy[Any]:
    return (
        LEAVES
        | enums()
        | st.builds(lambda part: {"type": "array", "items": part}, LEAVES)
        | st.builds(lambda part: {"type": "map", "values": part}, LEAVES)
        | st.builds(
            lambda part: {"type": "record", "name": "I", "fields": [{"name": "y", "type": part}]}, LEAVES
        )
    )


@st.composite
def schemas(draw: st.DrawFn) -> AvroSchema:
    # One field with a named type at most: E and I may be defined once.
    fields = [{"name": "a", "type": draw(types())}]
    for name in draw(st.lists(st.sampled_from("bcd"), unique=True)):
        default = draw(st.booleans())
        fields.append({"name": name, "type": "int"} | ({"default": 0} if default else {}))
    return AvroSchema.of({"type": "record", "name": "R", "fields": fields})


@given(schemas(), schemas())
@settings(max_examples=80, deadline=None)
def test_there_are_reasons_exactly_where_the_verdict_is_no(one: AvroSchema, other: AvroSchema) -> None:
    assert bool(explain(one, other, "reader")) == bool(unreadable(one, other, "reader"))
    assert check("FORWARD", one, [other]) == [] or check("BACKWARD", other, [one]) != []


@given(schemas())
@settings(max_examples=80, deadline=None)
def test_a_schema_goes_with_itself_and_with_an_optional_field_more(schema: AvroSchema) -> None:
    assert check("FULL", schema, [schema]) == []
    definition = json.loads(schema.canonical)
    definition["fields"].append({"name": "more", "type": ["null", "string"], "default": None})
    assert check("FULL", AvroSchema.of(definition), [schema]) == []


KEYS = st.fixed_dictionaries(
    {},
    optional={
        "keytype": st.sampled_from(["SCHEMA", "CONFIG", "DELETE_SUBJECT", "NOOP", "MODE", "?"]) | JSON,
        "subject": st.sampled_from(["a-value", "b-value"]) | JSON,
        "version": st.integers(1, 3) | JSON,
        "magic": st.just(1) | JSON,
    },
)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "subject": st.sampled_from(["a-value", "b-value"]) | JSON,
        "version": st.integers(1, 3) | JSON,
        "id": st.integers(1, 3) | JSON,
        "schema": st.sampled_from(['"int"', '"string"', "{", '{"type":"lnog"}']) | JSON,
        "deleted": st.booleans() | JSON,
        "compatibilityLevel": st.sampled_from(["FULL", "NONE"]) | JSON,
    },
)
BYTES = st.binary(max_size=20)


@given(
    st.lists(
        st.tuples(
            KEYS.map(lambda key: json.dumps(key).encode()) | BYTES,
            st.none() | VALUES.map(lambda value: json.dumps(value).encode()) | BYTES,
        ),
        max_size=10,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_records_are_taken_or_skipped(records: list[tuple[bytes, bytes | None]]) -> None:
    logging.getLogger("broker_mesh.contracts.registry_state").disabled = True
    try:
        state = RegistryState("_schemas")
        meaning: dict[int, AvroSchema] = {}
        for offset, (key, value) in enumerate(records):
            state.apply(key, value, offset)
            for schema_id in range(4):
                found = state.by_id(schema_id)
                assert found is not None or schema_id not in meaning
                if found is not None:
                    assert meaning.setdefault(schema_id, found) == found
            for subject in {*state.subjects(), "a-value"}:
                assert state.latest(subject) == next(reversed(state.versions(subject)), None)
                for version in state.versions(subject):
                    assert version.id <= state.highest_id
                    assert version.version < state.next_version(subject)
                    assert state.by_id(version.id) == version.schema
        state.mode("a-value")
    finally:
        logging.getLogger("broker_mesh.contracts.registry_state").disabled = False


@given(schemas(), st.integers(1, 100), st.integers(1, 2**31 - 1))
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(schema: AvroSchema, version: int, schema_id: int) -> None:
    registered = RegisteredSchema("é-value", version, schema_id, schema)
    record = schema_record(registered)
    state = RegistryState("_schemas")
    state.apply(record.key_bytes(), record.value_bytes(), 0)
    assert state.versions("é-value") == [registered]
    assert state.id_of(schema) == schema_id


def test_the_log_names_the_offset(caplog: pytest.LogCaptureFixture) -> None:
    RegistryState("_schemas").apply(b"?", b"", 17)
    assert "the record at offset 17 of _schemas is skipped" in caplog.text
