"""What each topic carries: where that is looked up, in which order, and how values are written and read by it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from broker_mesh.adoption import Adoption, Validation
from broker_mesh.contracts.catalog import is_unknown_schema
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.store import RegisteredSchema
from broker_mesh.contracts.topic_contracts import TopicContracts
from broker_mesh.errors import FailedPrecondition, MeshError, NotFound, SchemaError, Unavailable

FIND = "fleet.v1.find-aircraft"
DEPARTED = "fleet.v1.events.departed"


def schema(*names: str) -> AvroSchema:
    fields = [{"name": name, "type": "string"} for name in names]
    return AvroSchema.of({"type": "record", "name": "Order", "fields": fields, "mesh-key": names[0]}, "order")


class Registry:
    """Shows what is registered once it was read, as the real one does."""

    def __init__(self, **registered: AvroSchema) -> None:
        self.registered = dict(registered)
        self.reads = 0
        self.away = False
        self._seen: dict[str, RegisteredSchema] = {}

    async def read(self) -> None:
        self.reads += 1
        if self.away:
            raise Unavailable("no broker answers")
        self._seen = {
            subject: self._seen[subject]
            if subject in self._seen and self._seen[subject].schema is each
            else RegisteredSchema(subject, 1, number, each)
            for number, (subject, each) in enumerate(self.registered.items(), 1)
        }

    def latest(self, subject: str) -> RegisteredSchema | None:
        return self._seen.get(subject)

    def by_id(self, schema_id: int) -> AvroSchema | None:
        return next((each.schema for each in self._seen.values() if each.id == schema_id), None)


class World:
    """Contracts with a registry, sections and a clock of the test's own."""

    def __init__(self, **registered: AvroSchema) -> None:
        self.registry = Registry(**registered)
        self.adopted: dict[str, Adoption] = {}
        self.now = 0.0
        registry: Any = self.registry
        self.contracts = TopicContracts(
            registry, self.registry.read, self.not_found, lambda: self.adopted, lambda: self.now
        )

    async def not_found(self, name: str) -> MeshError:
        return NotFound(f"{name} does not exist")

    def say(self, topic: str, **said: Any) -> None:
        self.adopted = {**self.adopted, topic: Adoption(**said)}


def registered(topic: str, *names: str) -> World:
    world = World()
    world.registry.registered[f"{topic}-value"] = schema(*(names or ("id",)))
    return world


async def test_a_registered_operation_or_event_is_enforced_whatever_is_said_of_it() -> None:
    for name, kind in ((FIND, "operation"), (DEPARTED, "event")):
        world = registered(name)
        assert not world.contracts.is_known(name)
        await world.contracts.ready(name)
        contract = world.contracts.of(name)
        assert world.contracts.is_known(name)
        assert contract[:6] == (name, kind, "fleet", Validation.ENFORCE, "avro", "id")
        assert contract.decode(contract.encode({"id": "a"})) == {"id": "a"}
        with pytest.raises(SchemaError, match="the value is null"):
            contract.decode(None)


async def test_a_name_of_the_mesh_s_form_without_a_schema_is_not_found() -> None:
    world = World()
    with pytest.raises(NotFound, match=FIND):
        await world.contracts.ready(FIND)
    assert not world.contracts.is_known(FIND)


async def test_an_adopted_topic_is_as_its_section_says() -> None:
    world = registered("old")
    world.say("old", owner="shop", kind="operation", validation="enforce", encoding="json")
    await world.contracts.ready("old")
    contract = world.contracts.of("old")
    assert contract[:6] == ("old", "operation", "shop", Validation.ENFORCE, "json", "id")
    assert contract.encode({"id": "é"}) == '{"id":"é"}'.encode()
    assert contract.decode(b'{"id": "a"}') == {"id": "a"}
    assert contract.decode(None) is None


async def test_a_section_may_name_another_subject() -> None:
    world = registered("orders")
    world.say("old", subject="orders-value")
    await world.contracts.ready("old")
    assert world.contracts.of("old").encode({"id": "a"}) == b"\x00\x00\x00\x00\x01\x02a"


async def test_an_unknown_topic_is_audited_where_its_subject_is_registered_else_left_alone() -> None:
    world = registered("old")
    for topic in ("old", "other"):
        await world.contracts.ready(topic)
    assert world.contracts.of("old")[:4] == ("old", "plain", None, Validation.AUDIT)
    other = world.contracts.of("other")
    assert other[:4] == ("other", "plain", None, Validation.OFF)
    assert other.decode(b"\xff") == b"\xff"
    assert other.decode(None) is None
    with pytest.raises(SchemaError, match=r"topic 'other' has no schema, so .*'mesh adopt other'"):
        other.encode({"id": "a"})


async def test_what_is_said_anew_holds_at_once_and_makes_the_topic_unknown_until_it_is_looked_up() -> None:
    world = registered("old")
    world.say("old", validation="audit", encoding="json")
    await world.contracts.ready("old")
    first = world.contracts.of("old")
    assert world.contracts.of("old") is first
    world.say("old", validation="enforce", encoding="json")
    assert world.contracts.of("old").validation is Validation.ENFORCE
    assert not world.contracts.is_known("old")
    await world.contracts.ready("old")
    assert world.contracts.is_known("old")


async def test_a_topic_is_looked_up_again_after_half_a_minute_and_an_outage_leaves_what_was_known() -> None:
    world = registered("old")
    await world.contracts.ready("old")
    world.registry.registered["old-value"] = schema("id", "more")
    world.now = 31
    assert not world.contracts.is_known("old")
    world.registry.away = True
    await world.contracts.ready("old")
    assert world.contracts.of("old").decode(b"\x00\x00\x00\x00\x01\x02a") == {"id": "a"}
    with pytest.raises(Unavailable):
        await world.contracts.ready("other")
    world.registry.away = False
    world.now = 62
    await world.contracts.ready("old")
    with pytest.raises(SchemaError, match="'more': is missing"):
        world.contracts.of("old").encode({"id": "a"})


@pytest.mark.parametrize("encoding", ["avro", "json"])
async def test_without_a_schema_nothing_is_enforced_and_what_is_audited_says_so(encoding: Any) -> None:
    world = World()
    world.say("old", validation="enforce", encoding=encoding)
    with pytest.raises(FailedPrecondition, match="nothing is registered under the subject 'old-value'"):
        await world.contracts.ready("old")
    world.say("old", validation="audit", encoding=encoding)
    await world.contracts.ready("old")
    for act in (
        lambda: world.contracts.of("old").decode(b"{}"),
        lambda: world.contracts.of("old").encode({}),
    ):
        with pytest.raises(
            SchemaError, match="nothing is registered under the subject 'old-value'"
        ) as caught:
            act()
        assert is_unknown_schema(caught.value)


async def test_a_subject_that_is_deleted_goes_on_to_be_enforced_by_who_runs() -> None:
    world = registered("old")
    world.say("old", validation="enforce", encoding="json")
    await world.contracts.ready("old")
    world.registry.registered.clear()
    await world.registry.read()
    with pytest.raises(SchemaError, match="'id': is missing"):
        world.contracts.of("old").decode(b"{}")


class Order(BaseModel):
    id: str


async def test_models_are_written_as_their_fields() -> None:
    world = registered("old")
    await world.contracts.ready("old")
    assert world.contracts.of("old").encode(Order(id="a")) == b"\x00\x00\x00\x00\x01\x02a"
    world.say("old", encoding="json")
    assert world.contracts.of("old").encode(Order(id="a")) == b'{"id":"a"}'


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b'{"id": 7}', "field 'id': expected string, got 7"),
        (b"{}", "field 'id': is missing"),
        (b"[]", "the value: expected the fields id"),
        (b'{"id": "a"', "the value is not JSON"),
        (b"\xef\xbb\xbf{}", "the value is not JSON"),
        ('{"id": "a"}'.encode("utf-16"), "byte 0 is not UTF-8"),
        (b'{"id": NaN}', "NaN is no number of JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b"9" * 5000, "not usable JSON"),
        (b"\x00\x00\x00\x00\x01\x02a", "the value is not JSON"),
    ],
)
async def test_json_that_does_not_fit_is_a_schema_error(value: bytes, problem: str) -> None:
    world = registered("old")
    world.say("old", encoding="json")
    await world.contracts.ready("old")
    with pytest.raises(SchemaError) as caught:
        world.contracts.of("old").decode(value)
    assert problem in caught.value.message


async def test_json_is_written_as_utf_8_and_numbers_that_it_has_not_by_their_names() -> None:
    world = World()
    fields = [
        {"name": "id", "type": "string"},
        {"name": "n", "type": "double"},
        {"name": "b", "type": "bytes"},
    ]
    world.registry.registered["old-value"] = AvroSchema.of(
        {"type": "record", "name": "O", "fields": fields}, "o"
    )
    world.say("old", encoding="json")
    await world.contracts.ready("old")
    contract = world.contracts.of("old")
    written = contract.encode({"id": "é", "n": float("inf"), "b": b"ab"})
    assert written == '{"id":"é","n":"Infinity","b":"YWI="}'.encode()
    assert contract.decode(written) == {"id": "é", "n": float("inf"), "b": b"ab"}
    with pytest.raises(SchemaError, match="can't be written as UTF-8"):
        contract.encode({"id": "\ud800", "n": 1, "b": b""})
    endless: dict[str, Any] = {"id": "a", "n": 1, "b": b""}
    endless["id"] = endless
    with pytest.raises(SchemaError, match="expected string"):
        contract.encode(endless)
