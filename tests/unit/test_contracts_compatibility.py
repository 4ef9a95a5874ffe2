"""Compatibility: the avro package's verdict, and a reason that names the field."""

from __future__ import annotations

import pytest

from broker_mesh.contracts.compatibility import check
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.errors import SchemaError

MODES = ["BACKWARD", "FORWARD", "FULL"]


def record(*fields: object, name: str = "R", **more: object) -> AvroSchema:
    return AvroSchema.of({"type": "record", "name": name, "namespace": "n", "fields": list(fields), **more})


def field(name: str, kind: object, **more: object) -> dict[str, object]:
    return {"name": name, "type": kind, **more}


def enum(*symbols: str, **more: object) -> dict[str, object]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


X = field("x", "int")

CASES = [
    # old, new, BACKWARD reason, FORWARD reason (None: compatible)
    (record(X), record(X), None, None),
    (record(X), record(X, field("y", "int", default=1)), None, None),
    (record(X), record(X, field("y", "int")), "'y' is new and has no default", None),
    (record(X, field("y", "int")), record(X), None, "'y' was removed and had no default"),
    (record(X, field("y", "int", default=1)), record(X), None, None),
    (record(X), record(field("x", "long")), None, "'x' is int in the old schema and long in the new one"),
    (
        record(field("x", "long")),
        record(X),
        "'x' is int in the new schema and long in the old one",
        None,
    ),
    (record(X), record(field("x", "string")), "'x' is string in the new", "'x' is int in the old"),
    (record(field("x", "string")), record(field("x", "bytes")), None, None),
    (
        record(X),
        record(field("x", ["null", "int"])),
        None,
        "'x' is int in the old schema and null in the new",
    ),
    (
        record(field("x", ["int", "string"])),
        record(field("x", ["null", "int"])),
        "'x' may be string in the old schema, which the new one has not in its union",
        "'x' may be null in the new schema",
    ),
    (
        record(X),
        record(X, name="S"),
        "is called S in the new schema and R in the old one",
        "is called R in the old",
    ),
    (
        record(X),
        record(X, name="S", aliases=["n.R"]),
        None,
        "is called R in the old schema and S in the new one",
    ),
    (
        record(field("x", enum("a", "b"))),
        record(field("x", enum("a"))),
        "'x' may be b in the old schema, which the enum of the new one does not have",
        None,
    ),
    (record(field("x", enum("a", "b"))), record(field("x", enum("a", default="a"))), None, None),
    (
        record(field("x", {"type": "fixed", "name": "F", "size": 4})),
        record(field("x", {"type": "fixed", "name": "F", "size": 8})),
        "'x' is fixed of 8 and of 4 bytes",
        "'x' is fixed of 4 and of 8 bytes",
    ),
    (
        record(field("x", {"type": "array", "items": {"type": "record", "name": "I", "fields": [X]}})),
        record(
            field(
                "x",
                {"type": "array", "items": {"type": "record", "name": "I", "fields": [X, field("z", "int")]}},
            )
        ),
        "'x[].z' is new and has no default",
        None,
    ),
    (
        record(field("x", {"type": "map", "values": "int"})),
        record(field("x", {"type": "map", "values": "string"})),
        "'x.*' is string",
        "'x.*' is int",
    ),
    (record(X), record(field("z", "int", aliases=["x"])), None, "'x' was removed"),
    (
        record(field("next", ["null", "R"])),
        record(field("next", ["null", "R"]), field("y", "int")),
        "'y' is new",
        None,
    ),
]


@pytest.mark.parametrize(("old", "new", "backward", "forward"), CASES)
def test_verdicts_and_reasons(
    old: AvroSchema, new: AvroSchema, backward: str | None, forward: str | None
) -> None:
    expected = {"BACKWARD": [backward], "FORWARD": [forward], "FULL": [backward, forward]}
    for mode, reasons in expected.items():
        found = check(mode, new, [old])
        wanted = [reason for reason in reasons if reason is not None]
        assert bool(found) == bool(wanted), (mode, found)
        for reason in wanted:
            assert any(reason in sentence for sentence in found), (mode, reason, found)
    assert check("NONE", new, [old]) == []


def test_all_reasons_are_given() -> None:
    found = check("BACKWARD", record(field("a", "int"), field("b", "int")), [record(X)])
    assert [sentence.partition(" is new")[0] for sentence in found] == ["field 'a'", "field 'b'"]


@pytest.mark.parametrize("mode", MODES)
def test_transitive_modes_look_at_all_versions(mode: str) -> None:
    first = record(field("x", "string"))
    # NONE let this follow; from here on the first two do not go together.
    second, third = record(X), record(X, field("y", "int", default=1))
    assert check(mode, third, [first, second]) == []
    assert check(f"{mode}_TRANSITIVE", third, [first, second]) != []
    assert check(f"{mode}_TRANSITIVE", third, [second]) == []
    assert check(mode, third, []) == []


def test_modes_are_named_right() -> None:
    assert check("backward", record(X), [record(X)]) == []
    with pytest.raises(SchemaError, match="'BACKWARDS' is no compatibility mode: did you mean BACKWARD"):
        check("BACKWARDS", record(X), [record(X)])
    with pytest.raises(SchemaError, match="choose from NONE, BACKWARD"):
        check("?", record(X), [])
