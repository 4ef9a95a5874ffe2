"""The registry on a real Kafka: one id per schema, Confluent's records, and what others write."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Sequence

import pytest

from broker_mesh.contracts import registry as registry_module
from broker_mesh.contracts.errors import IncompatibleSchema
from broker_mesh.contracts.registry import INTENT_TOPIC, Registry
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Aborted, FailedPrecondition, SchemaError, Unavailable
from broker_mesh.kafka.fenced import FencedWriter, NewRecord, send_all
from broker_mesh.kafka.table import CompactedTable, make_table_topic
from broker_mesh.settings import Settings


def schema(name: str, *fields: str, **with_default: str) -> AvroSchema:
    required = [{"name": field, "type": "string"} for field in fields]
    optional = [{"name": field, "type": "string", "default": value} for field, value in with_default.items()]
    return AvroSchema.of(
        {"type": "record", "name": name, "namespace": "fleet.v1", "fields": [*required, *optional]}
    )


@pytest.fixture
def settings(kafka: EmbeddedKafka) -> Settings:
    return Settings(bootstrap_servers=kafka.bootstrap_servers)


@pytest.fixture
def topic() -> str:
    return f"_schemas-{uuid.uuid4().hex}"


@pytest.fixture
def registry(settings: Settings, topic: str) -> Registry:
    return Registry(settings, topic=topic)


def raw(settings: Settings, topic: str) -> list[tuple[str, str | None]]:
    table = CompactedTable(settings, topic, client_id="test", isolation="read_uncommitted")
    return [
        (r.key.decode(), None if r.value is None else r.value.decode(errors="replace"))
        for r in table.read_to_end()
    ]


def write(settings: Settings, topic: str, records: Sequence[tuple[bytes, bytes | None]]) -> None:
    make_table_topic(settings, topic, client_id="test")
    new = [NewRecord(topic, key, value) for key, value in records]
    send_all(settings, new, client_id="test", deadline=time.monotonic() + 20)


def test_versions_and_ids(registry: Registry) -> None:
    first = registry.register("a-value", schema("A", "tailnum"))
    assert (first.subject, first.version, first.id, first.schema) == ("a-value", 1, 1, schema("A", "tailnum"))
    second = registry.register("a-value", schema("A", "tailnum", seats="?"))
    assert (second.version, second.id) == (2, 2)
    assert registry.register("a-value", schema("A", "tailnum")) == first
    other = registry.register("b-value", schema("A", "tailnum"))
    assert (other.subject, other.version, other.id) == ("b-value", 1, 1)
    assert registry.latest("a-value") == second
    assert registry.versions("a-value") == [first, second]
    assert registry.subjects() == ["a-value", "b-value"]
    assert registry.by_id(2) == second.schema
    assert registry.by_id(3) is None
    assert registry.latest("c-value") is None


def test_records_are_confluents_byte_for_byte(settings: Settings, topic: str, registry: Registry) -> None:
    registry.register("fleet.v1.find-aircraft-value", schema("FindAircraft", "tailnum"))
    registry.set_compatibility("fleet.v1.find-aircraft-value", "FULL")
    registry.set_compatibility(None, "forward")
    assert raw(settings, topic) == [
        (
            '{"keytype":"SCHEMA","subject":"fleet.v1.find-aircraft-value","version":1,"magic":1}',
            '{"subject":"fleet.v1.find-aircraft-value","version":1,"id":1,"schema":"{\\"type\\":\\"record\\",'
            '\\"name\\":\\"FindAircraft\\",\\"namespace\\":\\"fleet.v1\\",\\"fields\\":[{\\"name\\":\\"tailnum\\",'
            '\\"type\\":\\"string\\"}]}","deleted":false}',
        ),
        (
            '{"keytype":"CONFIG","subject":"fleet.v1.find-aircraft-value","magic":0}',
            '{"subject":"fleet.v1.find-aircraft-value","compatibilityLevel":"FULL"}',
        ),
        ('{"keytype":"CONFIG","magic":0}', '{"compatibilityLevel":"FORWARD"}'),
    ]


def test_an_incompatible_schema_is_refused_with_all_it_came_with(registry: Registry) -> None:
    registry.register("a-value", schema("A", "tailnum"))
    wanted = {"new-value": schema("B", "x"), "a-value": schema("A", "tailnum", "seats")}
    assert registry.check("a-value", wanted["a-value"]) == [
        "field 'seats' is new and has no default, so older messages can't be read: give it a default"
    ]
    with pytest.raises(
        IncompatibleSchema, match="'a-value' is not BACKWARD compatible: field 'seats'"
    ) as caught:
        registry.register_all(wanted)
    assert caught.value.reasons == tuple(registry.check("a-value", wanted["a-value"]))
    assert caught.value.status.name == "FAILED_PRECONDITION"
    registry.refresh()
    assert registry.subjects() == ["a-value"]
    registry.set_compatibility("a-value", "NONE")
    assert registry.compatibility("a-value") == "NONE"
    assert registry.compatibility("new-value") == "BACKWARD"
    assert registry.register_all(wanted)["a-value"].version == 2


def test_a_mode_that_does_not_exist(registry: Registry) -> None:
    with pytest.raises(SchemaError, match="did you mean BACKWARD"):
        registry.set_compatibility(None, "BACKWORD")


def test_a_start_with_everything_registered_opens_no_transaction(
    settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {f"s{i}-value": schema(f"S{i}", "x") for i in range(5)}
    opened = []

    class Counted(FencedWriter):
        def __init__(self, *args: object, **named: object) -> None:
            opened.append(args)
            super().__init__(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(registry_module, "FencedWriter", Counted)
    registered = Registry(settings, topic=topic).register_all(wanted)
    assert len(opened) == 1
    assert Registry(settings, topic=topic).register_all(wanted) == registered
    assert len(opened) == 1


def test_what_does_not_fit_into_one_intent_goes_in_turns(settings: Settings, registry: Registry) -> None:
    wanted = {f"s{i}-value": schema(f"S{i}", x="y" * 200_000) for i in range(5)}
    registered = registry.register_all(wanted)
    assert sorted(found.id for found in registered.values()) == [1, 2, 3, 4, 5]


def test_an_intent_is_taken_back_once_it_is_copied(
    settings: Settings, topic: str, registry: Registry
) -> None:
    registry.register("a-value", schema("A", "x"))
    intents = CompactedTable(settings, INTENT_TOPIC, client_id="test")
    stated = [record for record in intents.read_to_end() if record.key == topic.encode()]
    assert [record.value is None for record in stated] == [False, True]
    assert json.loads(stated[0].value or b"")["records"][0]["value"]["id"] == 1


def test_an_intent_that_was_never_copied_is_copied_first(settings: Settings, topic: str) -> None:
    key = {"keytype": "SCHEMA", "subject": "dead-value", "version": 1, "magic": 1}
    value = {
        "subject": "dead-value",
        "version": 1,
        "id": 7,
        "schema": schema("D", "x").canonical,
        "deleted": False,
    }
    intent = json.dumps({"records": [{"key": key, "value": value}]}).encode()
    write(settings, INTENT_TOPIC, [(topic.encode(), intent)])
    registry = Registry(settings, topic=topic)
    registry.refresh()
    assert registry.subjects() == []
    assert registry.register("a-value", schema("A", "x")).id == 8
    assert registry.latest("dead-value") is not None
    # Without anything of its own to register, a writer still finishes what was stated.
    assert registry.register("dead-value", schema("D", "x")).id == 7


def test_an_intent_that_is_none_stops_registrations(
    settings: Settings, topic: str, registry: Registry
) -> None:
    write(settings, INTENT_TOPIC, [(topic.encode(), b"{}")])
    with pytest.raises(
        FailedPrecondition, match=r"'_mesh.registry' holds a record that the mesh did not write"
    ):
        registry.register("a-value", schema("A", "x"))


def test_rivals_that_never_stop(settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def always_fenced(*_: object, **__: object) -> None:
        raise Aborted("a rival has taken over")

    monkeypatch.setattr(registry_module, "FencedWriter", always_fenced)
    registry = Registry(settings, topic=topic, write_timeout=0.3)
    with pytest.raises(Unavailable, match="other processes were writing all the time"):
        registry.register("a-value", schema("A", "x"))


FOREIGN = [
    (b'{"keytype":"NOOP","magic":0}', None),
    (
        b'{"keytype":"SCHEMA","subject":"orders-value","version":1,"magic":1}',
        b'{"subject":"orders-value","version":1,"id":41,"md5":"dqPf6ykmsiNPdI+aQXw3ZA==","schema":"\\"string\\"",'
        b'"deleted":false}',
    ),
    (
        b'{"keytype":"SCHEMA","subject":"orders-value","version":2,"magic":1}',
        b'{"subject":"orders-value","version":2,"id":42,"schema":"{\\"type\\":\\"record\\",\\"name\\":\\"Order\\",'
        b'\\"namespace\\":\\"com.example\\",\\"fields\\":[{\\"name\\":\\"id\\",\\"type\\":\\"long\\"}]}",'
        b'"deleted":false}',
    ),
    (
        b'{"keytype":"SCHEMA","subject":"proto-value","version":1,"magic":1}',
        b'{"subject":"proto-value","version":1,"id":50,"schemaType":"PROTOBUF","schema":"syntax = \\"proto3\\";",'
        b'"deleted":false}',
    ),
    (b'{"keytype":"CONFIG","subject":null,"magic":0}', b'{"compatibilityLevel":"FULL_TRANSITIVE"}'),
    (b'{"keytype":"MODE","subject":"orders-value","magic":0}', b'{"mode":"READWRITE"}'),
    (
        b'{"keytype":"SCHEMA","subject":"gone-value","version":1,"magic":1}',
        b'{"subject":"gone-value","version":1,"id":43,"schema":"\\"bytes\\"","deleted":false}',
    ),
    (
        b'{"keytype":"DELETE_SUBJECT","subject":"gone-value","magic":0}',
        b'{"subject":"gone-value","version":1}',
    ),
    (
        b'{"keytype":"SCHEMA","subject":"erased-value","version":1,"magic":1}',
        b'{"subject":"erased-value","version":1,"id":44,"schema":"\\"long\\"","deleted":false}',
    ),
    (b'{"keytype":"SCHEMA","subject":"erased-value","version":1,"magic":1}', None),
]

GARBAGE = [
    (b"not json", b"x"),
    (b"[1]", b"{}"),
    (b'{"keytype":"SCHEMA","subject":"bad-value","version":1,"magic":1}', b'{"id":"x"}'),
    (b'{"keytype":"SCHEMA","subject":"bad-value","version":2,"magic":1}', b"\xff\xfe"),
    (
        b'{"keytype":"SCHEMA","subject":"twice-value","version":1,"magic":1}',
        b'{"subject":"twice-value","version":1,"id":42,"schema":"\\"int\\"","deleted":false}',
    ),
    (b'{"keytype":"SOMETHING"}', b"{}"),
    (b'{"keytype":"CONFIG","subject":"x-value","magic":0}', b'{"compatibilityLevel":"SOMETIMES"}'),
    (b'{"keytype":"SCHEMA","subject":"deep-value","version":1,"magic":1}', b"[" * 100_000),
]


def test_what_another_registry_wrote(
    settings: Settings, topic: str, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    write(settings, topic, FOREIGN + GARBAGE)
    with caplog.at_level(logging.WARNING, logger="broker_mesh"):
        registry.refresh()
    offsets = [record.args[0] for record in caplog.records if isinstance(record.args, tuple)]
    assert offsets == [len(FOREIGN) + i for i in range(len(GARBAGE))]

    assert registry.subjects() == ["orders-value"]
    foreign = {name: registry.is_foreign(f"{name}-value") for name in ("proto", "orders", "gone", "never")}
    assert foreign == {"proto": True, "orders": False, "gone": False, "never": False}
    assert [version.id for version in registry.versions("orders-value")] == [41, 42]
    assert registry.by_id(42) == AvroSchema(
        '{"namespace": "com.example", "name": "Order", "type": "record", '
        '"fields": [{"type": {"type": "long"}, "name": "id"}]}'
    )
    assert registry.by_id(43) is not None  # deleted schemas still decode
    assert registry.by_id(44) is not None  # ids are for ever
    assert registry.by_id(50) is None  # not Avro
    assert registry.compatibility("orders-value") == "FULL_TRANSITIVE"

    # Numbers and ids go on where the other registry stopped; its text of a schema is kept.
    assert registry.register("gone-value", AvroSchema.parse('"bytes"'))[1:3] == (2, 43)
    assert registry.register("new-value", schema("New", "x"))[1:3] == (1, 51)
    order = AvroSchema.parse(
        '{"type":"record","name":"com.example.Order","fields":[{"name":"id","type":"long"}]}'
    )
    assert registry.register("copy-value", order).id == 42
    assert json.loads(raw(settings, topic)[-1][1] or "")["schema"].startswith(
        '{"type":"record","name":"Order"'
    )
    assert registry.register("proto-value", schema("P", "x")).version == 2
