"""An operation with dead letters that no service had to fail for, and what is put back of them, counted from topics."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

from confluent_kafka import Producer
from pydantic import BaseModel

from broker_mesh import Mesh, Operation, StatusCode
from broker_mesh.dead_letters import Selection
from broker_mesh.headers import Envelope, Place, write
from broker_mesh.kafka import topics
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.reader import end_offset, open_consumer, scan
from broker_mesh.message import Record, new_id, now_ms
from broker_mesh.settings import Settings
from tests.support.fleet import make_mesh
from tests.support.names import fresh

PARTITIONS = 6


class Refuel(BaseModel):
    tailnum: str
    litres: int = 0


def settings_for(bootstrap_servers: str) -> Settings:
    return Settings(bootstrap_servers=bootstrap_servers)


async def make_operation(bootstrap_servers: str, stem: str = "tank") -> tuple[str, bytes]:
    """Make an operation's topics and schema without a service; gives its name and an encoded request."""
    service = fresh(stem)
    operation = Operation(f"{service}.v1.refuel", request=Refuel, key="tailnum")
    async with make_mesh(service, bootstrap_servers) as mesh:
        value = await own(mesh, operation, Refuel(tailnum="N14228", litres=7))
    return operation.name, value


async def own(mesh: Mesh, operation: Operation, body: BaseModel) -> bytes:
    runtime = mesh._connected()
    await runtime.catalog.own([operation])
    await runtime.admin.create(topics.operation_topics(operation.name, runtime.settings, runtime.kept))
    value: bytes = runtime.catalog.codec(operation).encode(body)
    return value


def write_letters(
    bootstrap_servers: str,
    stem: str,
    value: bytes,
    count: int,
    *,
    size: int = 0,
    keys: int = 50,
    more: Iterable[tuple[str, bytes]] = (),
) -> list[str]:
    """Write dead letters as a service does, spread over partitions by their number; gives their ids in order."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 5, "acks": "all"})
    ids = []
    for number in range(count):
        message_id, failed_at = new_id(), now_ms()
        facts = Envelope(
            id=message_id,
            source="dispatch",
            type=stem,
            time=failed_at,
            status=StatusCode.INTERNAL,
            status_message=f"tank {number} of 'N14228' leaks",
            origin=Place(stem, number % PARTITIONS, number),
            exception="ValueError",
            attempt=3,
            first_failure=failed_at,
            last_failure=failed_at,
        )
        producer.produce(
            f"{stem}.dead",
            key=f"key-{number % keys}".encode(),
            value=value,
            headers=[*write(facts), ("padding", b"x" * size), *more],
            partition=number % PARTITIONS,
        )
        ids.append(message_id)
        if number % 1000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0
    return ids


def records_of(bootstrap_servers: str, topic: str, partitions: int = PARTITIONS) -> Iterable[Record]:
    """Read all committed records of a topic."""
    settings = settings_for(bootstrap_servers)
    consumer = open_consumer(settings, "test", OutageLog("test"))
    try:
        ends = {(topic, number): end_offset(consumer, topic, number) for number in range(partitions)}
    finally:
        consumer.close()
    return scan(settings, client_id="test", partitions=ends, since=None, stop=threading.Event())


def ids_in(bootstrap_servers: str, topic: str, partitions: int = PARTITIONS) -> Counter[str]:
    """Count the records of a topic by their id."""
    return Counter(
        (dict(record.headers)["ce_id"] or b"").decode()
        for record in records_of(bootstrap_servers, topic, partitions)
    )


def all_of(operation: str) -> Selection:
    return Selection(operation=operation)
