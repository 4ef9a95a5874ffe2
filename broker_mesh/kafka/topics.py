"""The topics that the mesh makes, and how each is configured.

On the way of a message: before it, at a service's start. Pure: what is to be made is decided here, `admin.py`
makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from broker_mesh import naming
from broker_mesh.settings import Settings

_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_SHORTEST_SEGMENT_MS = 60_000
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
"""Kafka's own `message.max.bytes`."""

HEADROOM_BYTES = 64 * 1024
"""What the topics beside an operation's own allow above it, so that no failure or result is too large to keep."""


class TopicSpec(NamedTuple):
    """A topic to be made.

    Args:
        name: of the topic.
        partitions: how many.
        replication_factor: on how many brokers each partition is kept.
        config: topic properties, as Kafka names them.
    """

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


class Replication(NamedTuple):
    """How the mesh's topics are kept.

    Args:
        factor: replicas of each partition.
        min_in_sync: how many must have a record before it counts as sent.
    """

    factor: int
    min_in_sync: int


def replication(settings: Settings, brokers: int) -> Replication:
    """Decide the replication: three copies of which two must acknowledge, or what fewer brokers allow."""
    factor = settings.replication_factor or min(3, brokers)
    return Replication(factor, max(1, factor - 1))


def operation_topics(name: str, settings: Settings, kept: Replication) -> list[TopicSpec]:
    """Give the topics of an operation: requests, retries, dead letters, with equal partition counts."""
    return [
        _topic(name, settings, kept, _requests(settings)),
        *_failure_topics(name, settings, kept, settings.partitions),
    ]


def event_topic(name: str, settings: Settings, kept: Replication) -> TopicSpec:
    """Give the topic of an event."""
    return _topic(name, settings, kept, _requests(settings))


def subscription_topics(stem: str, settings: Settings, kept: Replication, partitions: int) -> list[TopicSpec]:
    """Give a subscriber's own retry and dead-letter topics, with as many partitions as the event has."""
    return _failure_topics(stem, settings, kept, partitions)


def idempotency_topic(operation: str, settings: Settings, kept: Replication, partitions: int) -> TopicSpec:
    """Give the topic of an operation's results by idempotency key, with as many partitions as the operation has.

    Results go after `idempotency_hours`, which Kafka does by closed segments: several of them make up that time, so
    that a start reads little more than what still counts.
    """
    remembered = round(settings.idempotency_hours * _HOUR_MS)
    config = {
        "cleanup.policy": "compact,delete",
        "retention.ms": str(remembered),
        "segment.ms": str(max(_SHORTEST_SEGMENT_MS, min(_DAY_MS, remembered // 4))),
        "max.message.bytes": str(DEFAULT_MAX_MESSAGE_BYTES + HEADROOM_BYTES),
    }
    return _topic(naming.idempotency_topic(operation), settings, kept, config, partitions)


def reply_topic(service: str, settings: Settings, kept: Replication) -> TopicSpec:
    """Give the topic of a calling service's replies: kept as long as requests, so that a handle lives as long."""
    return _topic(naming.reply_topic(service), settings, kept, _requests(settings))


def _requests(settings: Settings) -> dict[str, str]:
    return {"retention.ms": str(round(settings.request_retention_days * _DAY_MS))}


def _failure_topics(source: str, settings: Settings, kept: Replication, partitions: int) -> list[TopicSpec]:
    large = {"max.message.bytes": str(DEFAULT_MAX_MESSAGE_BYTES + HEADROOM_BYTES)}
    return [
        _topic(naming.retry_topic(source), settings, kept, {**_requests(settings), **large}, partitions),
        _topic(naming.dead_topic(source), settings, kept, {"retention.ms": "-1", **large}, partitions),
    ]


def _topic(
    name: str, settings: Settings, kept: Replication, config: Mapping[str, str], partitions: int | None = None
) -> TopicSpec:
    return TopicSpec(
        name,
        partitions or settings.partitions,
        kept.factor,
        {
            "cleanup.policy": "delete",
            "min.insync.replicas": str(kept.min_in_sync),
            "unclean.leader.election.enable": "false",
            **config,
        },
    )
