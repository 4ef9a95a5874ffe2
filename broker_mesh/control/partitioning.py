"""Which partitioner put keyed records where they are, for `mesh check`: a topic's producers should all use the same.

On the way of a message: beside it. Pure functions. What is known of a record is its key and its partition alone, so
that one record proves little: a key fits any partitioner by chance once in as many keys as there are partitions.
Java's and the mesh's producers use murmur2, librdkafka's by default crc32. A wrapped producer keeps its program's own.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from broker_mesh import naming
from broker_mesh.control.checks import Finding, Level

_MOST_SENDERS = 3


class Partitioner(StrEnum):
    """How a key chooses its partition."""

    MURMUR2 = "murmur2"
    CRC32 = "crc32"
    OTHER = "neither"


_KNOWN_AS = {
    Partitioner.MURMUR2: "as Java and the mesh do (murmur2)",
    Partitioner.CRC32: "as librdkafka does by default (crc32)",
    Partitioner.OTHER: "in neither way",
}


class KeyedRecord(NamedTuple):
    """Where a record stands.

    Args:
        topic: its topic.
        partition: the number of its partition.
        key: of the record.
        sender: who sent it, where its headers say so.
    """

    topic: str
    partition: int
    key: bytes
    sender: str = ""


def murmur2(data: bytes) -> int:
    """Hash a key as Kafka's Java client does (org.apache.kafka.common.utils.Utils.murmur2), without the sign."""
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    hashed = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        hashed = hashed * multiplier & mask ^ word
    if rest := data[whole:]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * multiplier & mask
    hashed = (hashed ^ hashed >> 13) * multiplier & mask
    return (hashed ^ hashed >> 15) & 0x7FFFFFFF


def fitting(key: bytes, partition: int, partitions: int) -> frozenset[Partitioner]:
    """Tell which partitioners put a key into a partition."""
    found = {
        name
        for name, number in (
            (Partitioner.MURMUR2, murmur2(key) % partitions),
            (Partitioner.CRC32, zlib.crc32(key) % partitions),
        )
        if number == partition
    }
    return frozenset(found or {Partitioner.OTHER})


def check_partitioning(records: Iterable[KeyedRecord], partitions: Mapping[str, int]) -> list[Finding]:
    """Judge how the keyed records of topics are spread.

    Args:
        records: the newest of each topic.
        partitions: how many each topic has.
    """
    topics: dict[str, list[KeyedRecord]] = defaultdict(list)
    for record in records:
        if record.key and partitions.get(record.topic, 1) > 1:
            topics[record.topic].append(record)
    findings = (_judged(topic, found, partitions[topic]) for topic, found in sorted(topics.items()))
    return [finding for finding in findings if finding is not None]


def _judged(topic: str, records: list[KeyedRecord], partitions: int) -> Finding | None:
    fits = {record: fitting(record.key, record.partition, partitions) for record in records}
    # What explains all of them is the simplest explanation, also of keys that fit another one by chance.
    for one in (Partitioner.MURMUR2, Partitioner.CRC32):
        if all(one in found for found in fits.values()):
            if one is Partitioner.CRC32 and naming.is_target(topic):
                return _unlike_the_mesh(topic, records)
            return None
    surely = {record: next(iter(found)) for record, found in fits.items() if len(found) == 1}
    keys = {one: len({record.key for record, found in surely.items() if found is one}) for one in Partitioner}
    senders: dict[Partitioner, Counter[str]] = defaultdict(Counter)
    for record, one in surely.items():
        if record.sender:
            senders[one][record.sender] += 1
    ways = ", ".join(
        f"{keys[one]} {_KNOWN_AS[one]}{_named(senders[one])}" for one in Partitioner if keys[one]
    )
    return Finding(
        "topics",
        Level.WARNING,
        f"{topic}: the keys of its newest {len(records)} keyed records chose their partitions in several ways: {ways}; "
        "messages of one key can be in two partitions, where nothing keeps their order",
        'give all producers of the topic the same partitioner, as "partitioner": "murmur2_random" in librdkafka\'s '
        "configuration; keys sent before partitions were added, or to a partition of the program's choice, look alike",
    )


def _unlike_the_mesh(topic: str, records: list[KeyedRecord]) -> Finding:
    named = _named(Counter(record.sender for record in records if record.sender))
    return Finding(
        "topics",
        Level.WARNING,
        f"{topic}: the keys of its newest {len(records)} keyed records chose their partitions "
        f"{_KNOWN_AS[Partitioner.CRC32]}{named}; what native services send of the same keys goes elsewhere",
        'set "partitioner": "murmur2_random" in the configuration of the producers that are wrapped',
    )


def _named(senders: Counter[str]) -> str:
    if not senders:
        return ""
    names = [name for name, _ in senders.most_common(_MOST_SENDERS)]
    more = f" and {len(senders) - len(names)} more" if len(senders) > len(names) else ""
    return f" (sent by {', '.join(names)}{more})"
