"""The librdkafka properties of the mesh's clients, in one place, each with its reason.

On the way of a message: before it. User properties pass through first; what delivery rests on is set last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from broker_mesh.kafka.topics import HEADROOM_BYTES
from broker_mesh.settings import Settings

# librdkafka refuses consumer properties on producers (with a warning) and the reverse; users write one table.
CONSUMER_ONLY = (
    "fetch.",
    "max.partition.fetch.",
    "max.poll.",
    "queued.",
    "session.timeout",
    "heartbeat.",
    "group.",
    "partition.assignment",
    "check.crcs",
    "receive.message",
)
# What only a member of a group may have: librdkafka refuses combinations that make no sense for one.
MEMBER_ONLY = ("group.", "session.timeout", "heartbeat.", "max.poll.", "partition.assignment")
PRODUCER_ONLY = (
    "linger.",
    "queue.buffering",
    "compression.",
    "batch.",
    "message.send",
    "sticky.",
    "retries",
    "request.required",
)


def common(
    settings: Settings, *, client_id: str, on_error: Callable[[Any], None] | None = None
) -> dict[str, Any]:
    """Give the properties that all clients share.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers' logs and quotas name this client.
        on_error: gets librdkafka's own errors, such as all brokers down; they heal by themselves.
    """
    properties: dict[str, Any] = {
        **settings.kafka,
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": client_id,
        # librdkafka's log lines reach on_error in a form we can rate-limit; its own stderr output is doubled noise.
        "log_level": settings.kafka.get("log_level", 0),
        # After an outage the next request should not wait out a long back-off.
        "reconnect.backoff.max.ms": settings.kafka.get("reconnect.backoff.max.ms", 1000),
    }
    if on_error is not None:
        properties["error_cb"] = on_error
    return properties


def producer(settings: Settings, *, client_id: str, on_error: Callable[[Any], None]) -> dict[str, Any]:
    """Give the properties of a producer that loses, repeats and reorders nothing."""
    return {
        **without(common(settings, client_id=client_id, on_error=on_error), CONSUMER_ONLY),
        "acks": "all",
        "enable.idempotence": True,
        # A partition that knows nothing of a producer takes any sequence number as its first. With two batches in
        # flight, a leader that refuses the first (it is just taking over) and takes the second makes librdkafka
        # count both as stored: seen as acknowledged records that were never there.
        "max.in.flight.requests.per.connection": 1,
        # 0 means never: a message waits for Kafka as long as its caller does. A finite limit leaves gaps.
        "message.timeout.ms": 0,
        # Room for a dead letter's headers; requests are held to the user's limit by Producer itself.
        "message.max.bytes": max_message_bytes(settings) + HEADROOM_BYTES,
        # As Java and aiokafka partition; librdkafka's own default puts keys elsewhere.
        "partitioner": "murmur2_random",
        # Any linger costs over a millisecond on every hop.
        "linger.ms": settings.kafka.get("linger.ms", 0),
        # How soon a growth of partitions is known: by default a key would go on to its old one for 5 minutes.
        "topic.metadata.refresh.interval.ms": refresh_ms(settings),
    }


def max_message_bytes(settings: Settings) -> int:
    """Tell how large a record may be, key, value and headers together: `message.max.bytes` of [kafka]."""
    return int(settings.kafka.get("message.max.bytes", 1_000_000))


def group_consumer(
    settings: Settings, *, client_id: str, group: str, on_error: Callable[[Any], None]
) -> dict[str, Any]:
    """Give the properties of a member of a service's consumer group.

    The KIP-848 protocol with the broker's range assignor keeps an operation and its retries with one member;
    `group.protocol = "classic"` in [kafka] falls back to the classic protocol, with range there too.
    """
    properties = {
        **reader(settings, client_id=client_id, on_error=on_error),
        **{name: value for name, value in settings.kafka.items() if name.startswith(MEMBER_ONLY)},
        **_prefetching(settings),
        "group.id": group,
        "group.protocol": settings.kafka.get("group.protocol", "consumer"),
    }
    if properties["group.protocol"] == "consumer":
        properties["group.remote.assignor"] = "range"
    else:
        properties["partition.assignment.strategy"] = "range"
    return properties


def _prefetching(settings: Settings) -> dict[str, Any]:
    """Give how much a service's consumer fetches ahead; the user's own properties stay.

    What waits, waits in Kafka. librdkafka would keep 100,000 records, or 64 MB, ready for each process; that counts
    neither headers nor its own 500 bytes a record, so that small requests take some 120 MB before anything is done
    with them, and one answer of a broker may bring 50 MB more. A thousand records are what a process handles while the
    next ones are on their way. What was fetched of a partition is thrown away when it is paused, and fetched again:
    small pieces waste less. A record that is larger than a piece comes all the same, alone.
    """
    bounds = {
        "queued.min.messages": 1000,
        "queued.max.messages.kbytes": 8 * 1024,
        "fetch.max.bytes": 8 * 1024 * 1024,
        "max.partition.fetch.bytes": 128 * 1024,
    }
    if "fetch.message.max.bytes" in settings.kafka:  # librdkafka's other name of the same
        del bounds["max.partition.fetch.bytes"]
    return {name: settings.kafka.get(name, bound) for name, bound in bounds.items()}


def reader(settings: Settings, *, client_id: str, on_error: Callable[[Any], None]) -> dict[str, Any]:
    """Give the properties of a consumer that assigns its partitions itself and commits nothing."""
    return {
        **without(common(settings, client_id=client_id, on_error=on_error), PRODUCER_ONLY + MEMBER_ONLY),
        # librdkafka wants a group id even where no group is joined; nothing is ever committed under this one.
        "group.id": "_mesh.reader",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A position that is gone is an error for us to decide on, never a silent skip or re-run.
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        # How long a partition added to a running consumer, or an idle fetch, may wait.
        "fetch.wait.max.ms": settings.kafka.get("fetch.wait.max.ms", 50),
        "fetch.error.backoff.ms": settings.kafka.get("fetch.error.backoff.ms", 50),
        "fetch.queue.backoff.ms": settings.kafka.get("fetch.queue.backoff.ms", 50),
        # Topics that appear later (an event not yet published) are seen within seconds, not 5 minutes.
        "topic.metadata.refresh.interval.ms": refresh_ms(settings),
    }


def refresh_ms(settings: Settings) -> int:
    """Tell how often the mesh's producers and consumers ask what topics and partitions there are, ms."""
    return int(settings.kafka.get("topic.metadata.refresh.interval.ms", 5000))


def without(properties: Mapping[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Leave out the properties that a kind of client does not know."""
    return {name: value for name, value in properties.items() if not name.startswith(prefixes)}
