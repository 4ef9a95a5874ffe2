"""What keys and values look like, and what is drafted, judged and told of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker_mesh.adoption import Adoption
from broker_mesh.cli.newest import starts_of
from broker_mesh.contracts.drafting import Drafting, Rare
from broker_mesh.contracts.errors import NotJson
from broker_mesh.contracts.fitting import Fitting, Refusal
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.sniffing import Form, KeyForm, form_of, key_form_of
from broker_mesh.contracts.values import loads_strictly
from broker_mesh.errors import SchemaError
from broker_mesh.kafka.groups import Bounds
from tests.support.contracts import Known
from tests.support.legacy import PROTOBUF


def framed(schema_id: int, rest: bytes) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + rest


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (None, Form.TOMBSTONE),
        (b"", Form.EMPTY),
        (b'{"a": 1}', Form.JSON),
        (b' {"a": "\xc3\xa9"}\n', Form.JSON),
        (b"[1]", Form.OTHER_JSON),
        (b"17", Form.OTHER_JSON),
        (b"null", Form.OTHER_JSON),
        (b'{"a": NaN}', Form.TEXT),  # no JSON, whatever Python writes
        (b'{"a": 1', Form.TEXT),
        (b"hello, world\n", Form.TEXT),
        (framed(7, b"\x02"), Form.AVRO),
        (framed(8, b"\x00" + PROTOBUF), Form.PROTOBUF),
        (framed(8, b"\x04\x02\x00" + PROTOBUF), Form.PROTOBUF),  # the first message within the second
        (framed(8, b"\xff\xff\xff"), Form.UNKNOWN_ID),
        (PROTOBUF, Form.BARE_PROTOBUF),
        (b"\x89PNG\r\n\x1a\n", Form.BYTES),
        (b"\x00\x01", Form.BYTES),
        (b"\xff" * 40, Form.BYTES),
        ("{}".encode("utf-16"), Form.BYTES),
    ],
)
def test_a_value_is_told_by_its_looks(value: bytes | None, form: Form) -> None:
    assert form_of(value, lambda schema_id: schema_id == 7) is form


@pytest.mark.parametrize(
    ("key", "form"),
    [
        (None, KeyForm.NONE),
        (b"N14228", KeyForm.TEXT),
        (b"", KeyForm.TEXT),
        (b"-17", KeyForm.NUMBER),
        (b'{"id": 1}', KeyForm.JSON),
        (framed(7, b"\x02N14"), KeyForm.WIRE),
        ((5).to_bytes(8, "big"), KeyForm.BYTES),
        ((5).to_bytes(4, "big"), KeyForm.BYTES),
    ],
)
def test_a_key_is_told_by_its_looks(key: bytes | None, form: KeyForm) -> None:
    assert key_form_of(key) is form


# ── drafts ────────────────────────────────────────────────────────────────────────────────────────────────


def drafted(samples: list[dict[str, Any]], rare: float = 0.01) -> tuple[dict[str, Any], list[Rare]]:
    drafting = Drafting()
    for offset, sample in enumerate(samples):
        assert drafting.add(sample, f"old/0/{offset}")
    found = drafting.draft("old-orders.eu", None, rare=rare)
    assert found.schema.definition["name"] == "OldOrdersEu"
    return {field["name"]: field for field in found.schema.definition["fields"]}, found.rare


def test_kinds_of_values_become_types() -> None:
    fields, rare = drafted(
        [
            {"n": 1, "x": 1, "s": "a", "b": True, "m": None, "e": [], "o": {}, "big": 2**63, "mix": 1},
            {"n": 2**40, "x": 1.5, "s": "b", "b": False, "m": None, "e": [], "o": {}, "big": 1, "mix": "a"},
        ]
    )
    assert {name: field["type"] for name, field in fields.items()} == {
        "n": "long",
        "x": "double",
        "s": "string",
        "b": "boolean",
        "m": ["null", "string"],
        "e": {"type": "array", "items": "string"},
        "o": {"type": "map", "values": "string"},
        "big": "double",
        "mix": ["long", "string"],
    }
    assert rare == []


def test_what_may_be_missing_has_a_default_and_what_may_be_null_has_not() -> None:
    fields, _ = drafted([{"a": 1, "b": None}, {"b": "x"}])
    assert fields["a"] == {"name": "a", "type": ["null", "long"], "default": None}
    assert fields["b"] == {"name": "b", "type": ["null", "string"]}


def test_an_object_whose_keys_are_data_is_a_map() -> None:
    by_name = [{"prices": {f"sku{n * 10 + m}": m / 2 for m in range(5)}} for n in range(10)]
    by_day = [{"prices": {"2013-01-01": 1, "2013-01-02": None}}]
    many = [{"prices": {f"k{n}": 1 for n in range(201)}}]
    fields = [drafted(samples)[0]["prices"]["type"] for samples in (by_name, by_day, many)]
    assert fields == [
        {"type": "map", "values": "double"},
        {"type": "map", "values": ["null", "long"]},
        {"type": "map", "values": "long"},
    ]


def test_what_is_rare_is_left_out_and_told_with_its_first_place() -> None:
    samples: list[dict[str, Any]] = [{"id": n, "at": "x", "in": [{"a": n}]} for n in range(300)]
    samples[7]["id"] = "seven"
    del samples[9]["at"]
    samples[11]["at"] = None
    samples[13]["odd"] = 1
    samples[17]["in"].append({"a": "x"})
    fields, rare = drafted(samples)
    assert fields["id"]["type"] == "long"
    assert fields["at"] == {"name": "at", "type": "string"}
    assert fields["odd"]["type"] == ["null", "long"]  # it may well be meant so: it is told all the same
    assert fields["in"]["type"]["items"]["fields"] == [{"name": "a", "type": "long"}]
    assert sorted(rare) == [
        Rare("at", "missing", 1, 300, "old/0/9"),
        Rare("at", "null", 1, 299, "old/0/11"),
        Rare("id", "string", 1, 300, "old/0/7"),
        Rare("in[].a", "string", 1, 301, "old/0/17"),
        Rare("odd", "there", 1, 300, "old/0/13"),
    ]
    fields, rare = drafted(samples, rare=0)
    assert fields["id"]["type"] == ["long", "string"]
    assert rare == []


def test_what_no_schema_describes_is_not_taken() -> None:
    drafting = Drafting()
    deep: Any = {}
    for _ in range(30):
        deep = {"a": deep}
    assert not drafting.add(deep, "old/0/0")
    assert not drafting.add({"order-id": 1}, "old/0/1")
    assert not drafting.add({"n": 10**400}, "old/0/2")
    for number in range(201):
        assert drafting.add({f"k{number}": 1}, "old/0/3")
    with pytest.raises(SchemaError, match="more than 200 different fields"):
        drafting.draft("old", None, rare=0)


def test_one_sample_of_thousands_of_keys_spoils_no_draft() -> None:
    drafting = Drafting()
    assert not drafting.add({f"k{number}": number for number in range(10_000)}, "old/0/0")
    with pytest.raises(SchemaError, match="has more than 200 fields"):
        drafting.draft("old", None, rare=0)  # there is nothing to draft from
    assert drafting.add({"id": 1}, "old/0/1")
    (field,) = drafting.draft("old", None, rare=0).schema.definition["fields"]
    assert field == {"name": "id", "type": "long"}


def test_what_is_wrong_with_a_number_is_said_in_words_of_json() -> None:
    for text, problem in (
        (b"9" * 5000, "a number in it has more than 4,300 digits"),
        (b"NaN", "NaN is no number"),
    ):
        with pytest.raises(NotJson, match=problem) as caught:
            loads_strictly(b'{"a":' + text + b"}", "old")
        assert "sys." not in caught.value.message


# ── what would be refused ─────────────────────────────────────────────────────────────────────────────────

SCHEMA = AvroSchema.of(
    {
        "type": "record",
        "name": "Order",
        "fields": [{"name": "id", "type": "int"}, {"name": "note", "type": "string", "default": ""}],
    },
    "order",
)
AS_JSON = Fitting("old", Adoption(encoding="json"), SCHEMA, Known())
AS_AVRO = Fitting("old", Adoption(subject="orders"), SCHEMA, Known(SCHEMA))


@pytest.mark.parametrize(
    ("fitting", "value", "refusal"),
    [
        (AS_JSON, None, None),
        (AS_JSON, b'{"id": 1}', None),
        (AS_JSON, b"{}", Refusal("id", "is missing", "old-value: field 'id': is missing")),
        (
            AS_JSON,
            b'{"id": "1"}',
            Refusal("id", "expected int", "old-value: field 'id': expected int, got '1'"),
        ),
        (
            AS_JSON,
            json.dumps({"id": 2**31}).encode(),
            ("id", "is out of the range of int, -2147483648 to 2147483647"),
        ),
        (AS_JSON, b'{"id": 1, "nope": 2}', ("nope", "is not in the schema")),
        (AS_JSON, b'{"id": 1, "notes": 2}', ("notes", "is not in the schema")),
        (AS_JSON, b"[]", ("", "not an object with the schema's fields")),
        (AS_JSON, b"x", ("", "not JSON")),
        (AS_JSON, b'{"id": 1}\xff', ("", "not JSON")),
        (AS_JSON, b"[" * 100_000, ("", "not JSON")),
        (AS_JSON, b'{"id": ' + b"9" * 5000 + b"}", ("", "not JSON")),
        (AS_AVRO, None, None),
        (AS_AVRO, framed(1, b"\x02\x00"), None),
        (AS_AVRO, b'{"id": 1}', ("", "not Avro in the wire format")),
        (AS_AVRO, b"\x01\x00\x00\x00\x01\x02\x00", ("", "not Avro in the wire format")),
        (AS_AVRO, framed(9, b"\x02\x00"), ("", "unknown schema id")),
        (AS_AVRO, framed(1, b"\x02"), ("", "not written by the schema that its id names")),
        (AS_AVRO, framed(1, b"\x02\x00\x00"), ("", "not written by the schema that its id names")),
    ],
)
def test_a_refusal_has_a_field_and_a_reason_that_is_the_same_for_all_alike(
    fitting: Fitting, value: bytes | None, refusal: Any
) -> None:
    found = fitting.refusal(value)
    if isinstance(refusal, Refusal) or refusal is None:
        assert found == refusal
    else:
        assert found is not None
        assert found[:2] == refusal


@pytest.mark.parametrize(
    ("most", "read"),
    [
        (None, [100, 10, 0, 1000]),
        (30, [10, 10, 0, 10]),
        (50, [20, 10, 0, 20]),
        (400, [100, 10, 0, 290]),
        (5000, [100, 10, 0, 1000]),
        (1, [0, 0, 0, 1]),
    ],
)
def test_the_newest_are_read_in_equal_parts_and_short_partitions_leave_theirs_to_the_others(
    most: int | None, read: list[int]
) -> None:
    bounds = {("t", n): Bounds(5, 5 + length) for n, length in enumerate([100, 10, 0, 1000])}
    starts = starts_of(bounds, most)
    assert [bounds["t", n].end - starts["t", n] for n in range(4)] == read
