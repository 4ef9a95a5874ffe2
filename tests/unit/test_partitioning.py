from __future__ import annotations

import zlib

import pytest

from broker_mesh.control.checks import Level
from broker_mesh.control.partitioning import KeyedRecord, Partitioner, check_partitioning, fitting, murmur2

KEYS = [f"N{number}".encode() for number in range(60)]


def by_murmur2(key: bytes, topic: str = "legacy_orders", sender: str = "shop") -> KeyedRecord:
    return KeyedRecord(topic, murmur2(key) % 6, key, sender)


def by_crc32(key: bytes, topic: str = "legacy_orders", sender: str = "till") -> KeyedRecord:
    return KeyedRecord(topic, zlib.crc32(key) % 6, key, sender)


@pytest.mark.parametrize(
    ("key", "hashed"),
    # org.apache.kafka.common.utils.UtilsTest.testMurmur2, sign bit masked.
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafka_s_own(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed & 0x7FFFFFFF


def test_a_key_fits_what_put_it_there() -> None:
    assert fitting(b"21", murmur2(b"21") % 6, 6) >= {Partitioner.MURMUR2}
    assert fitting(b"21", zlib.crc32(b"21") % 6, 6) >= {Partitioner.CRC32}
    elsewhere = ({0, 1, 2} - {murmur2(b"21") % 6, zlib.crc32(b"21") % 6}).pop()
    assert fitting(b"21", elsewhere, 6) == {Partitioner.OTHER}


@pytest.mark.parametrize("put", [by_murmur2, by_crc32])
def test_a_topic_of_one_partitioner_is_fine(put: object) -> None:
    assert check_partitioning([put(key) for key in KEYS], {"legacy_orders": 6}) == []  # type: ignore[operator]


def test_a_mixture_is_warned_of_with_who_sends_how() -> None:
    records = [by_murmur2(key) for key in KEYS[::2]] + [by_crc32(key) for key in KEYS[1::2]]
    (finding,) = check_partitioning(records, {"legacy_orders": 6})
    assert finding.level is Level.WARNING
    assert "(murmur2) (sent by shop)" in finding.what
    assert "(crc32) (sent by till)" in finding.what


def test_native_services_would_send_elsewhere() -> None:
    topic = "fleet.v1.find-aircraft"
    (finding,) = check_partitioning([by_crc32(key, topic) for key in KEYS], {topic: 6})
    assert finding.what.startswith(f"{topic}: the keys of its newest 60 keyed records")
    assert check_partitioning([by_murmur2(key, topic) for key in KEYS], {topic: 6}) == []


def test_one_partition_and_records_without_a_key_say_nothing() -> None:
    assert (
        check_partitioning([KeyedRecord("one", 0, b"k"), KeyedRecord("two", 1, b"")], {"one": 1, "two": 2})
        == []
    )
