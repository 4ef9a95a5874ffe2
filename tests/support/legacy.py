"""A topic as another program left it: JSON orders, and a few records in known places that no schema of orders takes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 3

PROTOBUF = b"\x08\x96\x01\x12\x05order\x19\x00\x00\x00\x00\x00\x00\xf8\x3f"
"""Fields 1 (150), 2 ("order") and 3 (1.5), as Protobuf writes them."""


class Place(NamedTuple):
    partition: int
    offset: int


def order(number: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": number,
        "customer": f"c{number % 50}",
        "amount": number / 4 if number % 2 else number,
        "placed_at": "2013-01-01T05:17:00Z",
        "lines": [{"sku": f"s{number % 7}", "pieces": number % 3 + 1}],
        "paid": number % 5 == 0,
    }
    if number % 10 == 0:
        made["coupon"] = "NEW"
    return made


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in order(4).items() if key != name}


BROKEN: dict[str, bytes] = {
    "missing": json.dumps(_without("customer")).encode(),
    "type": json.dumps({**order(4), "amount": "twelve"}).encode(),
    "inside": json.dumps(
        {**order(4), "lines": [{"sku": "s1", "pieces": 1}, {"sku": 7, "pieces": 1}]}
    ).encode(),
    "unknown": json.dumps({**order(4), "colour": "red"}).encode(),
    "cut": json.dumps(order(4)).encode()[:-9],
    "text": b"hello, world",
    "number": b"17",
    "protobuf": PROTOBUF,
    "wire": b"\x00\x00\x0f\x42\x3f" + b"\x02",  # the magic byte and an id that nobody registered
    "empty": b"",
}


def fill(bootstrap_servers: str, topic: str, *, orders: int = 2100) -> dict[Place, str]:
    """Make the topic and fill it; gives where the broken records are, and which of `BROKEN` each is.

    Every tenth record of the first hundred is broken, then every 97th; every 50th is a tombstone.
    """
    producer = _producer_for(bootstrap_servers, topic, PARTITIONS)
    broken: dict[Place, str] = {}
    kinds = list(BROKEN)
    for number in range(orders):
        place = Place(number % PARTITIONS, number // PARTITIONS)
        value: bytes | None = json.dumps(order(number)).encode()
        if number % 50 == 49:
            value = None
        elif number % 97 == 5 or (number < 100 and number % 10 == 3):
            broken[place] = kinds[len(broken) % len(kinds)]
            value = BROKEN[broken[place]]
        producer.produce(topic, key=str(number).encode(), value=value, partition=place.partition)
        producer.poll(0)
    assert producer.flush(30) == 0
    return broken


def write(bootstrap_servers: str, topic: str, values: Iterable[bytes | None]) -> None:
    """Make the topic, of one partition, and write values to it in this order."""
    producer = _producer_for(bootstrap_servers, topic, 1)
    for value in values:
        producer.produce(topic, value=value)
    assert producer.flush(30) == 0


def _producer_for(bootstrap_servers: str, topic: str, partitions: int) -> Producer:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        future.result(20)
    # Idempotent, so that nothing that is tried again gets another place than the test thinks.
    return Producer({"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, "linger.ms": 20})
