"""What `mesh check` decides, on made-up facts: each wrong thing is found, and what is right is not complained of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from broker_mesh.adoption import Adoption
from broker_mesh.control.adopted import AdoptedFacts, check_adopted, missing_schema
from broker_mesh.control.checks import (
    Finding,
    GroupFacts,
    Level,
    SchemaFacts,
    TopicFacts,
    check_groups,
    check_kafka,
    check_schemas,
    check_settings,
    check_topics,
)
from broker_mesh.kafka import topics as made
from broker_mesh.kafka.topics import Replication, TopicSpec
from broker_mesh.settings import Settings

THREE = Replication(3, 2)
SETTINGS = Settings(bootstrap_servers="kafka:9092")
NAME = "fleet.v1.find-aircraft"


def facts(specs: Iterable[TopicSpec]) -> dict[str, TopicFacts]:
    return {
        spec.name: TopicFacts(spec.name, spec.partitions, spec.replication_factor, dict(spec.config))
        for spec in specs
    }


def operation() -> dict[str, TopicFacts]:
    return facts(made.operation_topics(NAME, SETTINGS, THREE))


def configured(topic: TopicFacts, **config: str) -> TopicFacts:
    return topic._replace(
        config={**topic.config, **{key.replace("_", "."): value for key, value in config.items()}}
    )


def not_fine(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is not Level.FINE]


def only(findings: Iterable[Finding]) -> Finding:
    found = not_fine(findings)
    assert len(found) == 1, found
    assert found[0].advice
    return found[0]


# ── topics ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kept", [Replication(1, 1), Replication(2, 1), THREE])
def test_topics_as_the_mesh_makes_them_are_fine(kept: Replication) -> None:
    event = "dispatch.v1.events.flight-departed"
    specs = [
        *made.operation_topics(NAME, SETTINGS, kept),
        made.event_topic(event, SETTINGS, kept),
        *made.subscription_topics(f"weather.v1.from.{event}", SETTINGS, kept, SETTINGS.partitions),
        made.reply_topic("dispatch", SETTINGS, kept),
    ]
    findings = check_topics(facts(specs).values(), SETTINGS, kept)
    assert not_fine(findings) == []
    assert len(findings) == len(specs)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"min_insync_replicas": "1"}, "before 2 brokers have it"),
        ({"min_insync_replicas": "4"}, "nothing can be sent"),
        ({"unclean_leader_election_enable": "true"}, "acknowledged records are lost"),
        ({"cleanup_policy": "compact"}, "only the last is kept"),
        ({"cleanup_policy": "compact,delete"}, "only the last is kept"),
        ({"retention_ms": "604800000"}, "deleted after 7 days, handled or not"),
        ({"retention_bytes": "1000"}, "a burst deletes records"),
    ],
)
def test_a_wrong_property_is_a_problem(config: dict[str, str], said: str) -> None:
    topics = operation()
    topics[NAME] = configured(topics[NAME], **config)
    finding = only(check_topics(topics.values(), SETTINGS, THREE))
    assert finding.level is Level.PROBLEM
    assert finding.what.startswith(f"{NAME}: ")
    assert said in finding.what


def test_too_few_replicas() -> None:
    topics = operation()
    topics[NAME] = topics[NAME]._replace(replication_factor=2)
    assert "kept on 2 brokers, not on 3" in only(check_topics(topics.values(), SETTINGS, THREE)).what


def test_longer_retention_is_fine() -> None:
    topics = operation()
    for retention in ("-1", "99999999999"):
        topics[NAME] = configured(topics[NAME], retention_ms=retention)
        assert not_fine(check_topics(topics.values(), SETTINGS, THREE)) == []


def test_dead_letters_that_are_deleted_are_a_warning() -> None:
    topics = operation()
    topics[f"{NAME}.dead"] = configured(topics[f"{NAME}.dead"], retention_ms="86400000")
    finding = only(check_topics(topics.values(), SETTINGS, THREE))
    assert finding.level is Level.WARNING
    assert "after 1 day," in finding.what


@pytest.mark.parametrize("suffix", ["retry", "dead"])
def test_partition_counts_must_be_equal(suffix: str) -> None:
    topics = operation()
    topics[f"{NAME}.{suffix}"] = topics[f"{NAME}.{suffix}"]._replace(partitions=3)
    assert "come to different instances" in only(check_topics(topics.values(), SETTINGS, THREE)).what


def test_a_subscriptions_partition_count_must_be_its_events() -> None:
    event = "dispatch.v1.events.flight-departed"
    topics = facts(
        [
            made.event_topic(event, SETTINGS, THREE),
            *made.subscription_topics(f"weather.v1.from.{event}", SETTINGS, THREE, 3),
        ]
    )
    assert len(not_fine(check_topics(topics.values(), SETTINGS, THREE))) == 2


@pytest.mark.parametrize("suffix", ["retry", "dead"])
def test_a_missing_topic_beside_an_operation(suffix: str) -> None:
    topics = operation()
    del topics[f"{NAME}.{suffix}"]
    finding = only(check_topics(topics.values(), SETTINGS, THREE))
    assert finding.advice == f"run mesh topics create {NAME}"


def test_a_failure_must_fit_into_the_topics_beside() -> None:
    topics = operation()
    topics[NAME] = configured(topics[NAME], max_message_bytes="2000000")
    assert len(not_fine(check_topics(topics.values(), SETTINGS, THREE))) == 2


# ── settings, kafka ───────────────────────────────────────────────────────────────────────────────────────


def test_settings_name_their_origin_and_hide_secrets() -> None:
    secrets = {"sasl.password": "hunter2", "sasl.oauthbearer.assertion.private.key.passphrase": "hunter2"}
    settings = Settings(kafka={"sasl.username": "fleet", **secrets}, schemas=Path("avro"))
    origins = {f"kafka.{name}": "the environment" for name in secrets}
    origins |= {"kafka.sasl.username": "mesh.toml", "schemas": "the environment"}
    said = "\n".join(finding.what for finding in check_settings(settings, origins))
    assert "kafka.sasl.username = fleet (from mesh.toml)" in said
    assert "kafka.sasl.password = … (from the environment)" in said
    assert "hunter2" not in said


def test_an_adopted_topic_that_is_not_there_or_has_no_schema_is_told() -> None:
    def found(
        adoption: Adoption, *, exists: bool = True, problem: str | None = None, drafted: bool = False
    ) -> Finding:
        file = "schemas/_topics/old.avsc"
        return only(check_adopted([AdoptedFacts("old", adoption, exists, problem, file, drafted)]))

    assert found(Adoption(), exists=False).what == "old: it is adopted, and there is no such topic"
    none = missing_schema("old-value", is_foreign=False)
    audited = found(Adoption(), problem=none, drafted=True)
    assert (audited.level, audited.advice) == (
        Level.WARNING,
        "review schemas/_topics/old.avsc, and register it with 'mesh schemas register'",
    )
    enforced = found(Adoption(validation="enforce"), problem=missing_schema("old-value", is_foreign=True))
    assert enforced.level is Level.PROBLEM
    assert "is not Avro without references" in enforced.what
    assert "'mesh adopt old' drafts a schema" in (enforced.advice or "")
    fine = [Adoption(validation="off"), none], [Adoption(), None]
    assert not any(
        check_adopted([AdoptedFacts("old", adoption, True, problem, "", False)])  # type: ignore[arg-type]
        for adoption, problem in fine
    )


def test_each_adopted_topic_is_a_line() -> None:
    topics = {"old": Adoption(owner="shop", encoding="json"), "older": Adoption(validation="off")}
    said = [finding.what for finding in check_settings(Settings(topics=topics), {"topics": "mesh.toml"})]
    assert said == [
        'topics."old": owner shop, kind event, validation audit, encoding json (from mesh.toml)',
        'topics."older": kind event, validation off, encoding avro (from mesh.toml)',
    ]


def test_more_handlers_than_records_make_no_sense() -> None:
    assert only(check_settings(Settings(concurrency=100, max_in_flight=10), {})).level is Level.WARNING


def test_three_brokers_are_fine() -> None:
    assert (
        not_fine(
            check_kafka("k:1", 3, SETTINGS, {"group.coordinator.rebalance.protocols": "classic,consumer"})
        )
        == []
    )


@pytest.mark.parametrize("brokers", [1, 2])
def test_fewer_brokers_are_a_warning(brokers: int) -> None:
    assert only(check_kafka("k:1", brokers, SETTINGS, {})).level is Level.WARNING


def test_more_replicas_than_brokers_are_a_problem() -> None:
    assert only(check_kafka("k:1", 1, Settings(replication_factor=3), {})).level is Level.PROBLEM


def test_brokers_without_the_group_protocol() -> None:
    config = {"group.coordinator.rebalance.protocols": "classic"}
    assert only(check_kafka("k:1", 3, SETTINGS, config)).level is Level.PROBLEM
    classic = Settings(kafka={"group.protocol": "classic"})
    assert not_fine(check_kafka("k:1", 3, classic, config)) == []


def test_topics_made_by_mistake() -> None:
    assert only(check_kafka("k:1", 3, SETTINGS, {"auto.create.topics.enable": "true"})).level is Level.WARNING


# ── schemas, groups ───────────────────────────────────────────────────────────────────────────────────────


def test_an_operation_without_a_schema() -> None:
    assert only(check_schemas([NAME], ["other-value"], [])).level is Level.PROBLEM
    assert not_fine(check_schemas([NAME], [f"{NAME}-value"], [])) == []


def test_an_empty_registry_is_fine() -> None:
    assert not_fine(check_schemas([], None, [])) == []


def test_schema_files() -> None:
    assert not_fine(check_schemas([], [], [SchemaFacts("s", True, [])])) == []
    assert only(check_schemas([], [], [SchemaFacts("s", False, [])])).level is Level.WARNING
    finding = only(check_schemas([], [], [SchemaFacts("s", False, ["field 'a' is new and has no default"])]))
    assert finding.level is Level.PROBLEM
    assert "field 'a'" in finding.what


def test_groups() -> None:
    assert (
        not_fine(check_groups([GroupFacts("fleet.v1", 1, 100, 6.0), GroupFacts("old.v1", 0, 0, None)])) == []
    )
    assert only(check_groups([GroupFacts("fleet.v1", 0, 1, 6.0)])).level is Level.WARNING
    finding = only(check_groups([GroupFacts("fleet.v1", 1, 0, 45.0)]))
    assert "rest for 45 s" in finding.what
