"""A backlog is drained within bounded memory, whatever its length: what waits, waits in Kafka.

`make backlog` takes a million requests, `make test` fewer.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from broker_mesh import naming
from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.backlog import WORK, Work, declare, peak_memory, write_copies
from tests.support.fleet import make_mesh
from tests.support.names import fresh
from tests.support.processes import Processes

REQUESTS = int(os.environ.get("BACKLOG", "30000"))
KEYS = 1000
PATIENCE = 90.0 + REQUESTS / 500  # ten times what it takes on two idle cores
MOST_MEMORY = 300_000_000
LOOK_AGAIN_SECONDS = 0.2


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peaks of memory are read as Linux tells them"
)
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.long
async def test_a_backlog_of_small_requests_is_drained_within_bounded_memory(
    kafka: EmbeddedKafka, processes: Processes
) -> None:
    servers, caller = kafka.bootstrap_servers, fresh("caller")
    admin = AdminClient({"bootstrap.servers": servers})
    async with declare(make_mesh("backlog", servers)).serving():
        pass  # the topics are there, and nobody works
    async with make_mesh(caller, servers) as calling:
        for number in range(KEYS):
            await calling.call(WORK, Work(key=f"k{number}"))
    originals = await asyncio.to_thread(read, servers, WORK.name, KEYS)
    began = time.monotonic()
    await asyncio.to_thread(write_copies, servers, originals, REQUESTS - KEYS)
    written = time.monotonic()
    desk = processes.start(
        *("broker_mesh.cli", "run", "tests.support.backlog:desk"),
        MESH_BOOTSTRAP_SERVERS=servers,
        MESH_SCHEMAS="no-such-folder",
        MESH_ACCESS_LOG="false",  # a line for each request: time and disk, not memory
    )
    await asyncio.to_thread(wait_until_drained, admin, desk)
    drained = time.monotonic()
    peak = peak_memory(desk.pid)
    print(
        f"{REQUESTS:,} requests: written in {written - began:.0f} s, "
        f"drained in {drained - written:.0f} s ({REQUESTS / (drained - written):,.0f} a second), "
        f"peak memory {peak / 1e6:.0f} MB"
    )
    assert sum(ends(admin, naming.reply_topic(caller)).values()) == REQUESTS
    assert not any(ends(admin, naming.dead_topic(WORK.name)).values())
    assert peak < MOST_MEMORY


def read(servers: str, topic: str, count: int) -> list[Message]:
    """Read the first records of a topic."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": fresh("reader"), "enable.auto.commit": False}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        found: list[Message] = []
        while len(found) < count:
            found += consumer.consume(count - len(found), 1.0)
    finally:
        consumer.close()
    assert not [message.error() for message in found if message.error() is not None]
    return found


def wait_until_drained(admin: AdminClient, desk: subprocess.Popen[str]) -> None:
    end, until = ends(admin, WORK.name), time.monotonic() + PATIENCE
    at_half: dict[int, int] = {}
    while (done := committed(admin, "backlog")) != end:
        if not at_half and 2 * sum(done.values()) >= sum(end.values()):
            at_half = done
        assert desk.poll() is None, "the service has ended"
        assert time.monotonic() < until, f"{sum(done.values())} of {sum(end.values())} are done"
        time.sleep(LOOK_AGAIN_SECONDS)
    # Side by side: what waits in one partition does not wait for all of another.
    assert all(10 * at_half.get(number, 0) >= length for number, length in end.items()), (at_half, end)


def committed(admin: AdminClient, group: str) -> dict[int, int]:
    (answer,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
    places = answer.result(PATIENCE).topic_partitions
    return {
        place.partition: place.offset for place in places if place.topic == WORK.name and place.offset >= 0
    }


def ends(admin: AdminClient, topic: str) -> Mapping[int, int]:
    """The offset that the next record of each partition gets."""
    partitions = admin.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = dict.fromkeys((TopicPartition(topic, number) for number in partitions), latest)
    return {
        place.partition: found.result(PATIENCE).offset for place, found in admin.list_offsets(asked).items()
    }
