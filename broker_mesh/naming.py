"""Names of services, operations, topics, subjects and groups, and what a topic's name tells.

On the way of a message: nowhere; everything that addresses a topic asks here. Pure functions and one pattern.

====================================================  ==================================================
``fleet.v1.find-aircraft``                            an operation, and its topic
``fleet.v1.find-aircraft.retry`` · ``.dead``          its retries and dead letters
``fleet.v1.find-aircraft.idempotency``                its results by idempotency key
``dispatch.v1.events.flight-departed``                an event, and its topic
``weather.v1.from.<topic>.retry`` · ``.dead``         a subscriber's own failures of an event, or of any other topic
``dispatch.replies``                                  replies to a calling service
``<operation or event>-value``                        subject of the request or event
``<operation>.reply-value``                           subject of the reply
====================================================  ==================================================
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from broker_mesh.errors import SettingsError

RESERVED_WORDS = frozenset({"events", "from", "retry", "dead", "idempotency", "replies", "reply"})

INTERNAL_PREFIX = "_mesh."

# Kafka's limit (org.apache.kafka.common.internals.Topic), less what our longest suffix takes.
MAX_NAME_LENGTH = 249 - len(".idempotency")

_WORD = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_VERSION = re.compile(r"v[1-9][0-9]*")


class TopicName(NamedTuple):
    """The parts of an operation's or event's name.

    Args:
        service: the owner, for instance ``fleet``.
        version: for instance ``v1``.
        name: the last part, for instance ``find-aircraft``.
        is_event: whether it names an event rather than an operation.
    """

    service: str
    version: str
    name: str
    is_event: bool


class Subscription(NamedTuple):
    """The parts of a subscription's name: the stem of a subscriber's own retry and dead-letter topics.

    Args:
        service: the subscriber.
        version: its version.
        source: the topic that it subscribes to: an event, or any topic of other programs.
    """

    service: str
    version: str
    source: str


def check_service(name: str) -> str:
    """Return a service's name unchanged.

    Raises:
        SettingsError: it is not lower-case words joined by hyphens, or is a reserved word.
    """
    return _check_word("service", name)


def check_version(version: str) -> str:
    """Return a version unchanged.

    Raises:
        SettingsError: it is not ``v`` and a number from 1 on.
    """
    if not _VERSION.fullmatch(version):
        raise SettingsError(f"version {version!r} is not valid: write 'v' and a number, as in 'v1'")
    return version


def parse_operation(name: str) -> TopicName:
    """Take apart an operation's name, ``<service>.<version>.<name>``.

    Raises:
        SettingsError: the name does not have that form.
    """
    parts = name.split(".")
    if len(parts) != 3:
        raise SettingsError(
            f"operation {name!r} is not valid: write <service>.<version>.<name>, as in 'fleet.v1.find-aircraft'"
        )
    return _parse(name, parts[0], parts[1], parts[2], is_event=False)


def parse_event(name: str) -> TopicName:
    """Take apart an event's name, ``<service>.<version>.events.<name>``.

    Raises:
        SettingsError: the name does not have that form.
    """
    parts = name.split(".")
    if len(parts) != 4 or parts[2] != "events":
        raise SettingsError(
            f"event {name!r} is not valid: write <service>.<version>.events.<name>, "
            "as in 'dispatch.v1.events.flight-departed'"
        )
    return _parse(name, parts[0], parts[1], parts[3], is_event=True)


def is_event(name: str) -> bool:
    """Tell whether a name has an event's form, without checking its words."""
    parts = name.split(".")
    return len(parts) == 4 and parts[2] == "events"


@lru_cache(maxsize=4096)  # asked for each message of a wrapped client
def is_target(topic: str) -> bool:
    """Tell whether a topic is an operation's or event's own, not one of those beside it nor another program's."""
    try:
        (parse_event if is_event(topic) else parse_operation)(topic)
    except SettingsError:
        return False
    return True


def retry_topic(source: str) -> str:
    """Name the topic where records of an operation, or of a subscription, wait for their next attempt."""
    return f"{source}.retry"


def dead_topic(source: str) -> str:
    """Name the topic that keeps the dead letters of an operation, or of a subscription."""
    return f"{source}.dead"


def idempotency_topic(operation: str) -> str:
    """Name the topic that keeps an operation's results by idempotency key."""
    return f"{operation}.idempotency"


def subscription(service: str, version: str, source: str) -> str:
    """Name a subscriber's own side of an event, or of any other topic: the stem of its retry and dead-letter topics.

    Raises:
        SettingsError: the name would be longer than Kafka allows a topic's to be.
    """
    return _check_length(f"{service}.{version}.from.{source}")


def parse_subscription(stem: str) -> Subscription | None:
    """Take apart a subscription's name; None for any other name: an operation, for one, has no subscribers.

    The source may hold dots, and words that are reserved elsewhere.
    """
    service, _, rest = stem.partition(".")
    version, _, source = rest.partition(".from.")
    try:
        check_service(service)
        check_version(version)
    except SettingsError:
        return None
    if not source or (is_target(source) and not is_event(source)):
        return None
    return Subscription(service, version, source)


def source_of_failures(topic: str) -> str | None:
    """Tell whose records a retry or dead-letter topic keeps: the operation, or the topic that is subscribed to.

    None for any other topic, whatever its last word is.
    """
    stem, _, last = topic.rpartition(".")
    if last not in ("retry", "dead"):
        return None
    if is_target(stem):
        return None if is_event(stem) else stem
    found = parse_subscription(stem)
    return None if found is None else found.source


def is_of_the_mesh(topic: str) -> bool:
    """Tell whether a topic is one that the mesh makes: of an operation, event, failures, results or replies."""
    stem, _, last = topic.rpartition(".")
    return (
        is_target(topic)
        or source_of_failures(topic) is not None
        or (last == "idempotency" and is_target(stem))
        or (last == "replies" and is_group(stem))
    )


def reply_topic(service: str) -> str:
    """Name the topic on which a calling service gets its replies."""
    return f"{service}.replies"


def group(service: str) -> str:
    """Name the consumer group of a service: all its instances share the work, also those of two versions.

    A version of its own for the group would have a new version run everything again that is kept.
    """
    return service


def is_group(name: str) -> bool:
    """Tell whether a name has the form of a service's consumer group."""
    try:
        check_service(name)
    except SettingsError:
        return False
    return True


def value_subject(topic: str) -> str:
    """Name the registry's subject of the requests or events on a topic (Confluent's TopicNameStrategy)."""
    return f"{topic}-value"


def reply_subject(operation: str) -> str:
    """Name the registry's subject of an operation's replies."""
    return f"{operation}.reply-value"


def owner(topic: str) -> str:
    """Tell the service that owns a topic: what stands before its first dot."""
    return topic.split(".", 1)[0]


def _parse(whole: str, service: str, version: str, name: str, *, is_event: bool) -> TopicName:
    _check_length(whole)
    check_service(service)
    check_version(version)
    _check_word("event" if is_event else "operation", name)
    return TopicName(service, version, name, is_event)


def _check_length(name: str) -> str:
    if len(name) > MAX_NAME_LENGTH:
        raise SettingsError(
            f"the name {name[:40]!r}… has {len(name)} characters: at most {MAX_NAME_LENGTH} fit"
        )
    return name


def _check_word(what: str, word: str) -> str:
    if word in RESERVED_WORDS:
        raise SettingsError(f"{what} name {word!r} is reserved by the mesh: choose another")
    if not _WORD.fullmatch(word):
        raise SettingsError(
            f"{what} name {word!r} is not valid: write lower-case letters, digits and single hyphens, "
            "beginning with a letter"
        )
    return word
