"""Adopted topics: what mesh.toml and resources may say of them, and in which steps validation is made stricter."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from broker_mesh.adoption import Adoption, Validation, check_adoptable, step_problem
from broker_mesh.control.apply import Effect, Stored, plan
from broker_mesh.control.files import read_text
from broker_mesh.control.live import LivePolicy
from broker_mesh.control.policy import Policy
from broker_mesh.control.resources import Resource
from broker_mesh.control.store import Applied, NotUnderstood, decode, encode
from broker_mesh.errors import FailedPrecondition, InvalidArgument, SettingsError
from broker_mesh.settings import Settings, load

# ── mesh.toml ─────────────────────────────────────────────────────────────────────────────────────────────


def sections(directory: Path, text: str) -> dict[str, Adoption]:
    (directory / "mesh.toml").write_text(text)
    return load({}, environ={}, directory=directory).topics


def refused(directory: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        sections(directory, text)
    return caught.value.message


def test_a_section_says_everything_or_leaves_it_to_the_defaults(tmp_path: Path) -> None:
    found = sections(
        tmp_path,
        '[topics.legacy_orders]\n[topics."Legacy.Orders-v2"]\nowner = "shop"\nkind = "operation"\n'
        'subject = "com.shop.Order"\nvalidation = "enforce"\nencoding = "json"\n',
    )
    assert found == {
        "legacy_orders": Adoption(),
        "Legacy.Orders-v2": Adoption(
            owner="shop", kind="operation", subject="com.shop.Order", validation="enforce", encoding="json"
        ),
    }
    assert found["legacy_orders"].mode is Validation.AUDIT
    assert found["legacy_orders"].subject_of("legacy_orders") == "legacy_orders-value"
    assert found["Legacy.Orders-v2"].subject_of("Legacy.Orders-v2") == "com.shop.Order"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '[topics.old]\nvalidaton = "off"',
            "mesh.toml: [topics.\"old\"]: unknown key 'validaton': did you mean 'validation'?",
        ),
        ("[topics.old]\nx = 1", "unknown key 'x' (there are owner, kind, subject, validation, encoding)"),
        (
            '[topics.old]\nvalidation = "strict"',
            "[topics.\"old\"]: validation: write 'off', 'audit' or 'enforce', got 'strict'",
        ),
        ('[topics.old]\nkind = "queue"', "kind: write 'event' or 'operation', got 'queue'"),
        ('[topics.old]\nencoding = "protobuf"', "encoding: write 'avro' or 'json', got 'protobuf'"),
        ('[topics.old]\nowner = "Shop"', "owner: service name 'Shop' is not valid"),
        ("[topics.old]\nowner = 5", "owner: "),
        ('[topics.old]\nsubject = ""', "subject: '' is no subject"),
        ("topics = 5", "topics must hold a table for each topic"),
        ("[topics]\nold = 5", '[topics."old"] must be a table with the keys owner'),
        (
            "[topics.legacy.orders.eu]",
            'write a topic\'s whole name in quotes, as in [topics."legacy.orders.eu"]',
        ),
        ('[topics."_mesh.policy"]', "topic '_mesh.policy' is internal to the mesh or to Kafka"),
        ("[topics.__consumer_offsets]", "topic '__consumer_offsets' is internal"),
        ("[topics._schemas]", "topic '_schemas' is internal"),
        ('[topics."shop.v1.order"]', "topic 'shop.v1.order' has the name of an operation of the mesh"),
        ('[topics."shop.v1.events.ordered"]', "has the name of an event of the mesh"),
        ('[topics."shop.v1.order.dead"]', "has the reserved word 'dead'"),
        ('[topics."orders.retry"]', "has the reserved word 'retry'"),
        ('[topics."a.v1.from.orders"]', "has the reserved word 'from'"),
        ('[topics."two words"]', "'two words' is no topic's name"),
    ],
)
def test_what_a_section_may_not_say_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refused(tmp_path, text)


def test_a_topic_s_name_leaves_room_for_its_dead_letters() -> None:
    assert check_adoptable("x" * 237)
    with pytest.raises(SettingsError, match="at most 237 fit"):
        check_adoptable("x" * 238)


# ── resources ─────────────────────────────────────────────────────────────────────────────────────────────


def topic(validation: str, name: str = "legacy_orders") -> dict[str, Resource]:
    return read_text(f"kind: Topic\nname: {name}\nspec: {{owner: shop, validation: {validation}}}", "x")


def stored(*resources: dict[str, Resource]) -> Stored:
    return Stored({key: Applied(held, "me", 1) for part in resources for key, held in part.items()}, {})


def test_a_resource_says_what_a_section_says_and_yaml_s_off_is_not_a_boolean() -> None:
    (resource,) = topic("off").values()
    assert resource.spec == Adoption(owner="shop", validation="off")
    assert topic("audit", "Legacy.Orders").keys() == {"Topic/Legacy.Orders"}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("name: shop.v1.order\nspec: {}", "has the name of an operation of the mesh"),
        (
            "name: old\nspec: {validaton: audit}",
            "unknown field 'validaton' in spec: did you mean 'validation'?",
        ),
        ("name: old\nspec: {validation: true}", "spec.validation is True: write off, audit or enforce"),
        ("name: old\nspec: {owner: Shop}", "spec.owner: service name 'Shop' is not valid"),
    ],
)
def test_what_a_resource_may_not_say_is_one_sentence(document: str, sentence: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_text(f"kind: Topic\n{document}", "x")
    assert sentence in caught.value.message


def test_an_access_rule_names_adopted_topics_apart_from_operations() -> None:
    spec = "{to: shop, topics: [legacy_orders, 'legacy*'], from: ['*'], action: deny}"
    (access,) = read_text(f"kind: Access\nname: x\nspec: {spec}", "x").values()
    assert access.rule().topics == ("legacy_orders", "legacy*")  # type: ignore[union-attr]
    assert access.rule().operations == ()  # type: ignore[union-attr]
    for wrong, sentence in (
        ("topics: ['a b']", "'a b' is no topic's name"),
        ("topics: [shop.v1.order]", "has the name of an operation"),
        ("topics: []", "spec.topics is empty"),
        ("action: deny", "a rule without operations matches nothing"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            read_text(
                f"kind: Access\nname: x\nspec:\n  to: shop\n  from: ['*']\n  action: deny\n  {wrong}"
                if "action" not in wrong
                else f"kind: Access\nname: x\nspec:\n  to: shop\n  from: ['*']\n  {wrong}",
                "x",
            )
        assert sentence in caught.value.message


@pytest.mark.parametrize("before", Validation)
@pytest.mark.parametrize("after", Validation)
def test_only_the_step_from_off_to_enforce_is_refused(before: Validation, after: Validation) -> None:
    leaps = (before, after) == (Validation.OFF, Validation.ENFORCE)
    assert (step_problem(before, after) is not None) is leaps


def test_applying_goes_one_step_at_a_time_and_back_at_once() -> None:
    for before, after in (("off", "audit"), ("audit", "enforce"), ("enforce", "off"), ("enforce", "audit")):
        (change,) = plan(topic(after), stored(topic(before)), prune=False).changes
        assert change.effect is Effect.CHANGED
    with pytest.raises(FailedPrecondition) as caught:
        plan(topic("enforce"), stored(topic("off")), prune=False)
    assert caught.value.message == (
        "topic 'legacy_orders': validation goes from off to enforce by way of audit: apply 'validation: audit' "
        "first, and see with 'mesh topics report' what enforce would refuse"
    )


def test_what_mesh_toml_says_is_the_step_before_the_first_resource() -> None:
    audited, off = ({"legacy_orders": Adoption(validation=mode)} for mode in ("audit", "off"))
    assert plan(topic("enforce"), stored(), prune=False, sections=audited).changes
    for where in ({}, off):
        with pytest.raises(FailedPrecondition, match="by way of audit"):
            plan(topic("enforce"), stored(), prune=False, sections=where)
    enforced = {"legacy_orders": Adoption(validation="enforce")}
    with pytest.raises(FailedPrecondition, match="by way of audit"):  # deleting it is a step too
        plan({}, stored(topic("off")), prune=True, sections=enforced)


# ── the policy of a process ───────────────────────────────────────────────────────────────────────────────

KEY = b"Topic/legacy_orders"


def value(validation: str) -> bytes:
    (resource,) = topic(validation).values()
    return encode(Applied(resource, "me@here", 1))


def test_a_resource_takes_the_place_of_the_section_while_it_stands() -> None:
    section = {"legacy_orders": Adoption(encoding="json"), "other": Adoption()}
    policy = Policy({}, section)
    assert policy.adopted == section
    before = policy.adopted
    policy.take(KEY, value("enforce"))
    assert policy.compile_topics() == ["legacy_orders"]
    assert policy.adopted["legacy_orders"] == Adoption(owner="shop", validation="enforce")
    assert policy.adopted is not before
    assert before == section  # who still holds the earlier mapping sees no half of a change
    policy.take(KEY, None)
    assert policy.compile_topics() == ["legacy_orders"]
    assert policy.adopted == section
    assert policy.compile_topics() == []


def strange(**fields: Any) -> bytes:
    return json.dumps({**json.loads(value("audit")), **fields}).encode()


def test_a_topic_s_record_says_that_processes_may_go_on_without_it_and_a_rule_s_does_not() -> None:
    assert json.loads(value("audit"))["optional"] is True
    spec = "{to: shop, operations: ['*'], from: ['*'], action: deny}"
    (rule,) = read_text(f"kind: Access\nname: x\nspec: {spec}", "x").values()
    assert "optional" not in json.loads(encode(Applied(rule, "", 0)))


@pytest.mark.parametrize(
    ("record", "understood"),
    [
        ({"kind": "Gadget"}, NotUnderstood),
        ({"spec": {"validation": "later"}}, NotUnderstood),
        ({"spec": {"brandnew": 1}}, NotUnderstood),
        ({"kind": "Gadget", "optional": False}, InvalidArgument),
        ({"kind": "Gadget", "optional": "true"}, InvalidArgument),
        ({"format": 2}, InvalidArgument),
        ({"name": "other"}, InvalidArgument),
    ],
)
def test_only_what_says_so_may_be_left_out(record: dict[str, Any], understood: type[Exception]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode(KEY, strange(**record))
    assert type(caught.value) is understood


def test_what_may_be_left_out_is_with_one_warning_and_what_was_known_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = LivePolicy(Settings(bootstrap_servers="x:1"), client_id="test", files={})
    policy._take([(KEY, value("audit"))])
    for _ in range(3):
        policy._take([(KEY, strange(spec={"brandnew": 1})), (b"Gadget/x", strange(kind="Gadget"))])
    assert policy.adopted["legacy_orders"].validation == "audit"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert warnings[1] == (
        "topic _mesh.policy, key 'Gadget/x': kind 'Gadget' is unknown (there are Access, Mesh, Topic); it is not "
        "about access, so this process goes on without it: update the program"
    )
