"""Is a Kafka really usable? Only a record that every in-sync replica has taken tells.

Beside the way of a message: the embedded Kafka asks here before it calls itself started. A listening port says
little, since a broker listens seconds before it accepts a record, and the port may be somebody else's.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from broker_mesh.errors import FailedPrecondition, Unavailable

PROBE_TOPIC = "_mesh.probe"

_POLL_SECONDS = 0.03
_CALL_SECONDS = 3.0
_RETENTION_MS = 60_000


def wait_until_usable(
    bootstrap_servers: str, *, cluster_id: str, brokers: int, timeout: float, check: Callable[[], None]
) -> None:
    """Wait until every broker is known to the cluster and a record is accepted.

    Args:
        bootstrap_servers: `host:port` of every broker, with commas.
        cluster_id: what the cluster has to call itself.
        brokers: how many brokers it has to have.
        timeout: seconds to wait at most.
        check: called between attempts; raises when waiting is of no use any more.

    Raises:
        Unavailable: not usable in time.
        FailedPrecondition: somebody else's Kafka answers there.
    """
    until = time.monotonic() + timeout
    for address in bootstrap_servers.split(","):
        _wait_for_port(address, until, check)
    properties: dict[str, str | int | float | bool] = {
        "bootstrap.servers": bootstrap_servers,
        "client.id": "mesh-probe",
        "log_level": 0,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 100,
        "retry.backoff.ms": 20,
        "topic.metadata.refresh.sparse": True,
        "topic.metadata.refresh.fast.interval.ms": 50,
    }
    admin = AdminClient(properties)
    producer = Producer({**properties, "acks": "all", "linger.ms": 0, "message.timeout.ms": 3000})
    reason = "no answer"
    while True:
        check()
        try:
            reason = _attempt(admin, producer, cluster_id, brokers)
        except KafkaException as error:
            reason = error.args[0].str()
        if not reason:
            return
        if time.monotonic() >= until:
            raise Unavailable(f"Kafka at {bootstrap_servers} was not usable within {timeout:g} s: {reason}.")
        time.sleep(_POLL_SECONDS)


def _wait_for_port(address: str, until: float, check: Callable[[], None]) -> None:
    """Wait for the port first: librdkafka's reconnect back-off would cost more than the start itself."""
    host, _, port = address.rpartition(":")
    while True:
        check()
        try:
            connection = socket.create_connection((host, int(port)), _CALL_SECONDS)
        except OSError as error:
            if time.monotonic() >= until:
                raise Unavailable(f"No broker listened at {address} in time.") from error
            time.sleep(_POLL_SECONDS)
        else:
            connection.close()
            return


def _attempt(admin: AdminClient, producer: Producer, cluster_id: str, brokers: int) -> str:
    """Try once; the reason why the cluster is not usable yet, empty when it is."""
    metadata = admin.list_topics(timeout=_CALL_SECONDS)
    found: Any = metadata.cluster_id  # its type hint says None
    if found != cluster_id:
        raise FailedPrecondition(
            f"Another Kafka answers on the port of this one (it is cluster {found}, not {cluster_id})."
        )
    if len(metadata.brokers) < brokers:
        return f"{len(metadata.brokers)} of {brokers} brokers have joined"
    if PROBE_TOPIC not in metadata.topics:
        topic = NewTopic(PROBE_TOPIC, 1, brokers, config={"retention.ms": str(_RETENTION_MS)})
        creation = admin.create_topics([topic], request_timeout=_CALL_SECONDS)[PROBE_TOPIC]
        try:
            creation.result(_CALL_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    outcome: list[KafkaError | None] = []

    def delivered(error: KafkaError | None, _message: Any) -> None:
        outcome.append(error)

    producer.produce(PROBE_TOPIC, b"", on_delivery=delivered)
    producer.flush(2 * _CALL_SECONDS)
    if not outcome:
        return "a record was neither accepted nor refused"
    return outcome[0].str() if outcome[0] is not None else ""
