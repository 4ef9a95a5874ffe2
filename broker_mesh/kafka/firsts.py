"""The first record of partitions from an offset on: how old what waits there is.

Beside the way of a message: `mesh check` and `mesh topics show` look at what a group has not done yet. One consumer
reads one small batch of each partition.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TypeAlias

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.reader import open_consumer
from broker_mesh.kafka.records import to_record
from broker_mesh.settings import Settings

Partition: TypeAlias = tuple[str, int]

_POLL_SECONDS = 0.05
_BATCH = 100
_SMALL = {
    "enable.partition.eof": True,
    "fetch.wait.max.ms": 10,
    "queued.min.messages": 1,
    "fetch.max.bytes": 1024 * 1024,
    "max.partition.fetch.bytes": 16 * 1024,
}
# Nothing stands there any more: all is read, or retention was quicker.
_NOTHING = frozenset({KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET})


def first_timestamps(
    settings: Settings,
    *,
    client_id: str,
    starts: Mapping[Partition, int],
    patience: float,
    stop: threading.Event,
) -> dict[Partition, int]:
    """Tell when the first record of each partition, from an offset on, was written (blocking).

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        starts: the offset to begin with, by partition.
        patience: how long to read at most, seconds.
        stop: ends it early.

    Returns:
        Epoch ms by partition; without those that hold nothing from there on, or that did not come in time.

    Raises:
        MeshError: Kafka can't be asked.
    """
    if not starts:
        return {}
    until = time.monotonic() + patience
    found: dict[Partition, int] = {}
    left = set(starts)
    consumer = open_consumer(settings, client_id, OutageLog("look at what waits"), _SMALL)
    try:
        consumer.incremental_assign([TopicPartition(*key, offset) for key, offset in starts.items()])
        while left and time.monotonic() < until and not stop.is_set():
            first = consumer.poll(_POLL_SECONDS)
            answered: set[Partition] = set()
            for message in () if first is None else (first, *consumer.consume(_BATCH, 0)):
                key = message.topic() or "", message.partition() or 0
                if key in left and _is_answer(message):
                    left.discard(key)
                    answered.add(key)
                    if message.error() is None:
                        found[key] = to_record(message).timestamp
            if answered:
                consumer.incremental_unassign([TopicPartition(*key) for key in answered])
    except KafkaException as error:
        raise translate(error, "reading what waits") from error
    finally:
        consumer.close()
    return {key: timestamp for key, timestamp in found.items() if timestamp >= 0}


def _is_answer(message: KafkaMessage) -> bool:
    """Tell whether a message says what a partition holds, and is no trouble that passes.

    Raises:
        MeshError: trouble that does not.
    """
    error = message.error()
    if error is None or error.code() in _NOTHING:
        return True
    translated = translate(error, f"reading {message.topic()}/{message.partition()}")
    if error.fatal() or not translated.retriable:
        raise translated from KafkaException(error)
    return False
