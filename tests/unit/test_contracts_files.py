"""Schema files: their names are subjects, and each stands for itself once loaded."""

from __future__ import annotations

import json
from pathlib import Path

import avro.schema
import fastavro
import pytest

from broker_mesh.contracts.files import load_schema_files
from broker_mesh.errors import SchemaError

SEAT = {"type": "record", "name": "Seat", "fields": [{"name": "row", "type": "int"}]}


def record(name: str, *fields: object) -> dict[str, object]:
    return {"type": "record", "name": name, "namespace": "fleet.v1", "fields": list(fields)}


def write(folder: Path, name: str, definition: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(definition if isinstance(definition, str) else json.dumps(definition))
    return path


def test_names_of_files_are_subjects(tmp_path: Path) -> None:
    write(tmp_path, "fleet/v1.find-aircraft.avsc", record("FindAircraft"))
    write(tmp_path, "fleet/v1.find-aircraft.reply.avsc", record("Aircraft"))
    write(tmp_path, "dispatch/v1.events.flight-departed.avsc", record("FlightDeparted"))
    write(tmp_path, "dispatch/README.md", "no schema")
    assert list(load_schema_files(tmp_path)) == [
        "dispatch.v1.events.flight-departed-value",
        "fleet.v1.find-aircraft-value",
        "fleet.v1.find-aircraft.reply-value",
    ]


def test_a_folder_that_does_not_exist_holds_none(tmp_path: Path) -> None:
    assert load_schema_files(tmp_path / "schemas") == {}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("fleet/find-aircraft.avsc", "does not make a topic"),
        ("fleet/v1.Find.avsc", "lower-case"),
        ("fleet/v0.find.avsc", "version 'v0'"),
        ("fleet/v1.find.retry.avsc", "does not make a topic"),
        ("fleet/v1.events.flight.reply.avsc", "does not make a topic"),
        ("fleet/v1.dead.avsc", "reserved"),
        ("Fleet/v1.find.avsc", "lower-case"),
        ("v1.find.avsc", "belong into their service's folder"),
    ],
)
def test_wrong_names(tmp_path: Path, name: str, problem: str) -> None:
    path = write(tmp_path, name, record("R"))
    with pytest.raises(SchemaError) as caught:
        load_schema_files(tmp_path)
    assert problem in caught.value.message
    assert caught.value.message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{\n"type": "record",\n"name": "R" "fields": []}', "line 3, column 13: not valid JSON"),
        ('{"type": "record", "name": "R", "fields": [{"name": "x", "type": "srting"}]}', "'srting'"),
        ('"string"', "is no record"),
        ("", "line 1, column 1"),
    ],
)
def test_wrong_contents(tmp_path: Path, content: str, problem: str) -> None:
    path = write(tmp_path, "fleet/v1.find.avsc", content)
    with pytest.raises(SchemaError) as caught:
        load_schema_files(tmp_path)
    assert problem in caught.value.message
    assert caught.value.message.startswith(f"{path}: ")


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    path = write(tmp_path, "fleet/v1.find.avsc", "")
    path.write_bytes(b'"\xe9"')
    with pytest.raises(SchemaError, match="byte 1 is not UTF-8"):
        load_schema_files(tmp_path)


def test_types_of_other_files_are_put_in_at_their_first_use(tmp_path: Path) -> None:
    write(
        tmp_path,
        "fleet/v1.a.avsc",
        record("A", {"name": "one", "type": "B"}, {"name": "two", "type": "Seat"}),
    )
    write(
        tmp_path, "fleet/v1.b.avsc", record("B", {"name": "seats", "type": {"type": "array", "items": SEAT}})
    )
    write(
        tmp_path,
        "fleet/v1.c.avsc",
        {**record("C", {"name": "seat", "type": "fleet.v1.Seat"}), "namespace": "c"},
    )
    schemas = load_schema_files(tmp_path)
    for schema in schemas.values():
        avro.schema.parse(schema.canonical)
        fastavro.parse_schema(json.loads(schema.canonical))
    first = schemas["fleet.v1.a-value"].definition["fields"]
    assert first[0]["type"]["fields"][0]["type"]["items"]["name"] == "Seat"
    assert first[1]["type"] == "Seat"
    assert schemas["fleet.v1.c-value"].definition["fields"][0]["type"]["namespace"] == "fleet.v1"


def test_files_that_use_each_other(tmp_path: Path) -> None:
    write(tmp_path, "fleet/v1.a.avsc", record("A", {"name": "b", "type": ["null", "B"]}))
    write(tmp_path, "fleet/v1.b.avsc", record("B", {"name": "a", "type": ["null", "A"]}))
    schemas = load_schema_files(tmp_path)
    assert schemas["fleet.v1.a-value"].definition["fields"][0]["type"][1]["name"] == "B"
    assert schemas["fleet.v1.b-value"].definition["fields"][0]["type"][1]["name"] == "A"


def test_a_type_that_two_files_define_differently(tmp_path: Path) -> None:
    other = {**SEAT, "fields": [{"name": "row", "type": "long"}]}
    write(tmp_path, "fleet/v1.a.avsc", record("A", {"name": "seat", "type": "Seat"}))
    write(tmp_path, "fleet/v1.b.avsc", record("B", {"name": "seat", "type": SEAT}))
    write(tmp_path, "fleet/v1.c.avsc", record("C", {"name": "seat", "type": other}))
    with pytest.raises(
        SchemaError, match=r"'fleet.v1.Seat', which v1.b.avsc and v1.c.avsc define differently"
    ):
        load_schema_files(tmp_path)


def test_types_of_other_services_are_not_in_reach(tmp_path: Path) -> None:
    write(tmp_path, "fleet/v1.a.avsc", record("A"))
    write(tmp_path, "weather/v1.b.avsc", {**record("B", {"name": "a", "type": "fleet.v1.A"})})
    with pytest.raises(SchemaError, match=r"v1.b.avsc: field 'a' has the unknown type 'fleet.v1.A'"):
        load_schema_files(tmp_path)
