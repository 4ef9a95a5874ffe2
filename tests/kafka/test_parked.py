"""Reading what is parked, on a real Kafka: all of it, or an error."""

from __future__ import annotations

import asyncio
import threading

import pytest
from confluent_kafka import Producer

from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Unavailable
from broker_mesh.kafka.groups import Bounds, Groups
from broker_mesh.parked import Found, Wanted, read_parked
from broker_mesh.parking import Settled
from broker_mesh.settings import Settings
from tests.support.names import fresh
from tests.support.topics import Topics


async def test_what_stands_behind_an_open_transaction_is_not_taken_for_absent(kafka: EmbeddedKafka) -> None:
    topic = f"{fresh('parked')}.v1.x.retry"
    partition = topic, 0
    await Topics(kafka.bootstrap_servers).create(topic, 1)
    settings = Settings(bootstrap_servers=kafka.bootstrap_servers)

    async def read() -> Found:
        bounds: dict[tuple[str, int], Bounds] = await Groups(settings, "test").bounds([partition])
        wanted = Wanted(partition, topic.removesuffix(".retry"), Settled(0), ((topic, 0), 0))
        found = await asyncio.to_thread(
            read_parked,
            settings,
            client_id="test",
            wanted=[wanted],
            bounds=bounds,
            stop=threading.Event(),
        )
        return found[partition]

    def produce(producer: Producer, key: bytes) -> None:
        producer.produce(topic, key=key, value=b"", partition=0)
        assert producer.flush(20) == 0

    plain = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    replaying = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic})
    await asyncio.to_thread(produce, plain, b"before")
    await asyncio.to_thread(replaying.init_transactions, 20)
    replaying.begin_transaction()
    await asyncio.to_thread(produce, replaying, b"replayed")
    await asyncio.to_thread(produce, plain, b"behind")
    with pytest.raises(Unavailable, match="can be read up to 1 now, and ends at 3"):
        await read()
    await asyncio.to_thread(replaying.commit_transaction, 20)
    assert (await read()).last == {b"before": 0, b"replayed": 1, b"behind": 2}, "the marker is no record"
