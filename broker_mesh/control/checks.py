"""What `mesh check` decides: from facts about settings, Kafka, topics, schemas and groups to findings.

On the way of a message: beside it. Pure functions; `cli/check.py` gathers the facts and prints the findings. Each
finding says what is so and, where something is not right, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from broker_mesh import naming
from broker_mesh.adoption import Adoption
from broker_mesh.kafka.topics import DEFAULT_MAX_MESSAGE_BYTES, HEADROOM_BYTES, Replication
from broker_mesh.settings import Settings

_DAY_MS = 86_400_000
_LONG_SESSION_SECONDS = 30.0
_SECRET_WORDS = ("password", "passphrase", "secret", "key.pem", "token", "jaas")


class Level(StrEnum):
    """How a finding is to be taken."""

    FINE = "fine"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """One thing that was checked.

    Args:
        section: where it belongs: settings, kafka, topics, schemas, groups, queues.
        level: how it is to be taken.
        what: what is so.
        advice: what to do; None where nothing is.
        figures: for programs; None where there are none.
    """

    section: str
    level: Level
    what: str
    advice: str | None = None
    figures: Mapping[str, Any] | None = None


class TopicFacts(NamedTuple):
    """A topic as Kafka has it; `config` has its effective properties."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


class SchemaFacts(NamedTuple):
    """A schema file against the registry: registered or not, and why it may not be."""

    subject: str
    registered: bool
    problems: Sequence[str]


class GroupFacts(NamedTuple):
    """A service's group: how many members, how many records wait for it, its session timeout in seconds."""

    name: str
    members: int
    waiting: int
    session_timeout: float | None


def check_settings(settings: Settings, origins: Mapping[str, str]) -> list[Finding]:
    """List the settings that are not defaults with where each was found; and combinations that make no sense.

    Args:
        settings: all of them.
        origins: where each that is not a default was found, by its name; Kafka's properties by `kafka.` and theirs.
    """
    section = "settings"
    findings = []
    for name, origin in origins.items():
        prefix, _, key = name.partition(".")
        if name == "topics":
            findings += [_shown_topic(topic, said, origin) for topic, said in settings.topics.items()]
            continue
        shown = _masked(key, settings.kafka[key]) if prefix == "kafka" else getattr(settings, name)
        findings.append(Finding(section, Level.FINE, f"{name} = {shown} (from {origin})"))
    if settings.concurrency > settings.max_in_flight:
        findings.append(
            Finding(
                section,
                Level.WARNING,
                f"concurrency is {settings.concurrency}, but only {settings.max_in_flight} records are taken at once",
                "raise max_in_flight to at least concurrency",
            )
        )
    return findings


def _shown_topic(topic: str, adoption: Adoption, origin: str) -> Finding:
    told = ", ".join(f"{name} {value}" for name, value in adoption.model_dump(exclude_none=True).items())
    return Finding("settings", Level.FINE, f'topics."{topic}": {told} (from {origin})')


def check_kafka(servers: str, brokers: int, settings: Settings, config: Mapping[str, str]) -> list[Finding]:
    """Judge the cluster.

    Args:
        servers: its addresses.
        brokers: how many there are.
        settings: of the mesh.
        config: a broker's properties.
    """
    section = "kafka"
    findings = [Finding(section, Level.FINE, f"Kafka answers at {servers}, {_count(brokers, 'broker')}")]
    wanted = settings.replication_factor
    if wanted is not None and wanted > brokers:
        findings.append(
            Finding(
                section,
                Level.PROBLEM,
                f"replication_factor is {wanted}, but there are only {brokers} brokers: no topic can be made",
                "add brokers, or lower replication_factor",
            )
        )
    elif (wanted or min(3, brokers)) < 3:
        findings.append(
            Finding(
                section,
                Level.WARNING,
                f"each record is kept on {_count(wanted or brokers, 'broker')} only: a lost disk is a lost record",
                "use three brokers or more in production",
            )
        )
    else:
        findings.append(Finding(section, Level.FINE, "each record can be kept on 3 brokers"))
    protocols = config.get("group.coordinator.rebalance.protocols")
    if settings.kafka.get("group.protocol") != "classic" and "consumer" not in (
        protocols or "consumer"
    ).split(","):
        findings.append(
            Finding(
                section,
                Level.PROBLEM,
                f"the brokers do not offer the KIP-848 group protocol (they offer {protocols})",
                'use Kafka 4.0 or later, or set "group.protocol" = "classic" in the [kafka] table of mesh.toml',
            )
        )
    if config.get("auto.create.topics.enable") == "true":
        findings.append(
            Finding(
                section,
                Level.WARNING,
                "the brokers make topics that plain Kafka clients misspell",
                "set auto.create.topics.enable=false on the brokers",
            )
        )
    return findings


def check_topics(topics: Iterable[TopicFacts], settings: Settings, kept: Replication) -> list[Finding]:
    """Judge the topics of the mesh: those of operations, events, subscriptions and replies.

    Args:
        topics: all that there are; and those of other programs that are subscribed to, which are theirs to configure.
        settings: of the mesh.
        kept: how topics are to be replicated.
    """
    by_name = {topic.name: topic for topic in topics}
    findings = []
    for topic in by_name.values():
        configured = _misconfigured(topic, settings, kept) if naming.is_of_the_mesh(topic.name) else ()
        problems = [*configured, *_mismatched(topic, by_name)]
        if problems:
            findings += [
                Finding("topics", level, f"{topic.name}: {what}", todo) for level, what, todo in problems
            ]
        else:
            findings.append(
                Finding(
                    "topics",
                    Level.FINE,
                    f"{topic.name}: {_count(topic.partitions, 'partition')}, "
                    f"{_count(topic.replication_factor, 'replica')}",
                )
            )
    return findings


def check_schemas(
    operations: Iterable[str], subjects: Iterable[str] | None, files: Iterable[SchemaFacts]
) -> list[Finding]:
    """Judge the registry against topics and files.

    Args:
        operations: the operations and events that have topics.
        subjects: those registered; None where there is no registry yet.
        files: the schema files of the folder.
    """
    section = "schemas"
    findings = []
    if subjects is None:
        findings.append(
            Finding(
                section,
                Level.FINE,
                "no schema is registered yet; the first service to start makes the registry",
            )
        )
    known = set(subjects or ())
    if subjects is not None:
        findings.append(Finding(section, Level.FINE, f"the registry has {_count(len(known), 'subject')}"))
    findings += [
        Finding(
            section,
            Level.PROBLEM,
            f"{name} has a topic, but its schema is not registered: it can't be called",
            "start its service once, or run mesh schemas register",
        )
        for name in operations
        if naming.value_subject(name) not in known
    ]
    for file in files:
        if file.problems:
            reasons = "; ".join(file.problems)
            findings.append(
                Finding(
                    section,
                    Level.PROBLEM,
                    f"the file of {file.subject} is not compatible with what is registered: {reasons}",
                    "change the schema so that old messages can still be read",
                )
            )
        elif not file.registered:
            findings.append(
                Finding(
                    section,
                    Level.WARNING,
                    f"the file of {file.subject} is not registered",
                    "start its service, or run mesh schemas register",
                )
            )
        else:
            findings.append(Finding(section, Level.FINE, f"the file of {file.subject} is registered"))
    return findings


def check_groups(groups: Iterable[GroupFacts]) -> list[Finding]:
    """Judge the groups of the services: who works, what waits, how soon a dead instance is noticed."""
    section = "groups"
    findings = []
    for group in groups:
        what = f"{group.name}: {_count(group.members, 'member')}, {_count(group.waiting, 'record')} waiting"
        if group.waiting and not group.members:
            findings.append(
                Finding(section, Level.WARNING, what, "start the service: nothing is lost meanwhile")
            )
        else:
            findings.append(Finding(section, Level.FINE, what))
        if group.session_timeout is not None and group.session_timeout > _LONG_SESSION_SECONDS:
            findings.append(
                Finding(
                    section,
                    Level.WARNING,
                    f"{group.name}: after a crash its partitions rest for {group.session_timeout:g} s, "
                    "until Kafka counts the instance as gone",
                    f"lower consumer.session.timeout.ms of group {group.name}, or group.consumer.session.timeout.ms "
                    "of the brokers, to some seconds",
                )
            )
    return findings


_Problem = tuple[Level, str, str]


def _misconfigured(topic: TopicFacts, settings: Settings, kept: Replication) -> Iterable[_Problem]:
    config = topic.config
    if topic.replication_factor < kept.factor:
        yield (
            Level.PROBLEM,
            f"it is kept on {_count(topic.replication_factor, 'broker')}, not on {kept.factor}",
            "raise its replication factor with kafka-reassign-partitions",
        )
    in_sync = int(config.get("min.insync.replicas", "1"))
    if in_sync < kept.min_in_sync:
        yield (
            Level.PROBLEM,
            f"min.insync.replicas is {in_sync}: a record counts as sent before {kept.min_in_sync} brokers have it",
            f"set min.insync.replicas={kept.min_in_sync} on the topic",
        )
    elif in_sync > topic.replication_factor:
        yield (
            Level.PROBLEM,
            f"min.insync.replicas is {in_sync}, more than its {_count(topic.replication_factor, 'replica')}: "
            "nothing can be sent",
            f"set min.insync.replicas={max(1, topic.replication_factor - 1)} on the topic",
        )
    if config.get("unclean.leader.election.enable") == "true":
        yield (
            Level.PROBLEM,
            "a broker that was out of sync may become leader, and acknowledged records are lost then",
            "set unclean.leader.election.enable=false on the topic",
        )
    if "compact" in config.get("cleanup.policy", "delete"):
        yield (
            Level.PROBLEM,
            "cleanup.policy has compact: of several messages of one key only the last is kept",
            "set cleanup.policy=delete on the topic",
        )
    yield from _short_kept(topic, settings)


def _short_kept(topic: TopicFacts, settings: Settings) -> Iterable[_Problem]:
    retention = int(topic.config.get("retention.ms", "-1"))
    size = int(topic.config.get("retention.bytes", "-1"))
    dead = topic.name.endswith(".dead")
    wanted = -1 if dead else round(settings.request_retention_days * _DAY_MS)
    if retention >= 0 and (dead or retention < wanted):
        yield (
            Level.WARNING if dead else Level.PROBLEM,
            f"records are deleted after {_days(retention)}, "
            + ("replayed or not" if dead else "handled or not"),
            f"set retention.ms={wanted} on the topic"
            + ("" if dead else ", or lower request_retention_days of the mesh"),
        )
    if size >= 0:
        yield (
            Level.PROBLEM,
            f"retention.bytes is {size}: a burst deletes records that nobody has handled",
            "set retention.bytes=-1 on the topic",
        )


def _mismatched(topic: TopicFacts, by_name: Mapping[str, TopicFacts]) -> Iterable[_Problem]:
    """Compare an operation with the retry and dead-letter topics beside it, and a subscription's with its event."""
    subscription = naming.parse_subscription(topic.name.rpartition(".")[0])
    source = None if subscription is None else by_name.get(subscription.source)
    if source is not None and source.partitions != topic.partitions:
        what = "event" if naming.is_target(source.name) else "source"
        yield (
            Level.PROBLEM,
            f"it has {_count(topic.partitions, 'partition')}, its {what} {source.name} has {source.partitions}: "
            "a record and its retry would come to different instances",
            _as_many(source, topic),
        )
    is_operation = naming.is_target(topic.name) and not naming.is_event(topic.name)
    for name in (naming.retry_topic(topic.name), naming.dead_topic(topic.name)):
        beside = by_name.get(name)
        if beside is None:
            if is_operation:
                yield Level.PROBLEM, f"{name} is missing", f"run mesh topics create {topic.name}"
            continue
        if beside.partitions != topic.partitions:
            yield (
                Level.PROBLEM,
                f"it has {_count(topic.partitions, 'partition')}, {name} has {beside.partitions}: "
                "a record and its retry would come to different instances",
                _as_many(topic, beside),
            )
        wanted = _max_bytes(topic) + HEADROOM_BYTES
        if _max_bytes(beside) < wanted:
            yield (
                Level.PROBLEM,
                f"{name} takes at most {_max_bytes(beside)} bytes: a large failure could not be kept",
                f"set max.message.bytes={wanted} on {name}",
            )


def _as_many(source: TopicFacts, beside: TopicFacts) -> str:
    """Say how to give a topic and one beside it the same number of partitions."""
    if source.partitions > beside.partitions and naming.is_target(source.name):
        return f"run mesh topics grow {source.name} --partitions {source.partitions}"
    return f"give {min(source, beside, key=lambda topic: topic.partitions).name} as many as the other"


def _max_bytes(topic: TopicFacts) -> int:
    return int(topic.config.get("max.message.bytes", DEFAULT_MAX_MESSAGE_BYTES))


def _days(milliseconds: int) -> str:
    days, hours = milliseconds / _DAY_MS, milliseconds / 3_600_000
    return _count(days, "day") if days >= 1 else _count(hours, "hour")


def _count(number: int | float, noun: str) -> str:
    shown = number if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def _masked(name: str, value: object) -> object:
    return "…" if any(word in name for word in _SECRET_WORDS) else value
