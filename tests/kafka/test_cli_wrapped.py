"""`mesh` on the traffic of wrapped clients: topics of other programs, whatever they are called and carry."""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from broker_mesh import Retry
from broker_mesh.control.partitioning import murmur2
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh_adapters.confluent_kafka import Producer
from tests.support.commands import Commands
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import make_mesh
from tests.support.names import fresh
from tests.support.wrapped_program import WrappedProgram

PARTITIONS = 6


async def make_topic(servers: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    made = admin.create_topics([NewTopic(topic, PARTITIONS)])[topic]
    await asyncio.to_thread(made.result, 30)


def send_plain(servers: str, topic: str, orders: list[dict[str, Any]], **conf: str) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, **conf})
    for order in orders:
        producer.produce(topic, json.dumps(order).encode(), order["id"].encode())
    assert producer.flush(30) == 0


@pytest.mark.parametrize(
    "name", ["legacy_orders", pytest.param("Legacy.orders.v1", marks=pytest.mark.long), "a.from.b-2"]
)
async def test_what_fails_in_a_wrapped_consumer_is_found_told_and_put_back(
    kafka: EmbeddedKafka, dead_letters: DeadLetters, name: str
) -> None:
    servers, service = kafka.bootstrap_servers, fresh("orders")
    topic, group = f"{name}-{service}", f"{service}-group"
    stem = f"{service}.v1.from.{topic}"
    await make_topic(servers, topic)
    handled: list[tuple[str, int]] = []
    is_mended = threading.Event()

    def handle(message: Any) -> None:
        order = json.loads(message.value())
        if order["total"] < 0 and not is_mended.is_set():
            raise ValueError(f"order {order['id']} has a total of {order['total']}")
        handled.append((order["id"], message.attempt))

    mesh = Commands(servers)
    program = WrappedProgram(
        make_mesh(service, servers), [topic], handle, group, retry=Retry(attempts=2, backoff=0.01)
    )
    async with program:
        orders = [{"id": "o1", "total": 3}, {"id": "o2", "total": -1}, {"id": "o3", "total": -2}]
        await asyncio.to_thread(send_plain, servers, topic, orders)
        letters = [await dead_letters.next(stem) for _ in range(2)]
        assert {letter.key for letter in letters} == {b"o2", b"o3"}

        (cause,) = await mesh.json("dead-letters", "list", topic)
        assert (cause["operation"], cause["subscriber"], cause["count"]) == (topic, service, 2)
        lines = (
            await mesh("dead-letters", "list", stem, "--where", "total == `-1`", "--each", "-o", "json")
        ).split("\n")
        letter = json.loads(lines[0])
        assert letter["body"] == {"id": "o2", "total": -1}
        (shown,) = await mesh.json("dead-letters", "show", letter["id"])
        assert shown["body"] == letter["body"]
        assert shown["attempts"] == 2

        rows = {row["name"]: row for row in await mesh.json("topics", "list")}
        assert (rows[topic]["kind"], rows[topic]["dead_letters"]) == ("topic", 2)
        tapped = (await mesh("tap", topic, "--from-beginning", "--limit", "5", "-o", "json")).splitlines()
        kinds = sorted(record["kind"] for record in map(json.loads, tapped))
        assert kinds == ["dead", "dead", "record", "record", "record"]

        story = await mesh.json("trace", str(letters[0].envelope.origin))
        assert [step["what"] for step in story["steps"]] == ["sent", "failed", "dead-letter"]
        (standing,) = story["standings"]
        assert (standing["service"], standing["state"]) == (group, "dead-letter")

        is_mended.set()
        await mesh("dead-letters", "replay", "--id", letter["id"])
        async with asyncio.timeout(30):
            while ("o2", 1) not in handled:
                await asyncio.sleep(0.02)
        await mesh("dead-letters", "drop", stem, "--yes")
        assert await mesh.json("dead-letters", "list", topic) == []
        story = await mesh.json("trace", letter["id"])
        assert [step["what"] for step in story["steps"]] == ["sent", "failed", "dead-letter", "replayed"]
    findings = await mesh.json("check", code=None)  # it tells of what other tests have left, too
    assert not [each for each in findings if topic in each["what"] and each["level"] != "fine"]


async def test_check_warns_of_producers_that_partition_differently(kafka: EmbeddedKafka) -> None:
    servers, service = kafka.bootstrap_servers, fresh("shop")
    operation = f"{service}.v1.place-order"
    mesh = Commands(servers)
    await mesh("topics", "create", operation)
    orders = [{"id": f"o{number}"} for number in range(40)]
    assert any(murmur2(f"o{n}".encode()) % 6 != zlib.crc32(f"o{n}".encode()) % 6 for n in range(40))

    async def warnings() -> list[str]:
        findings = json.loads(
            await mesh("check", "-o", "json", code=1)
        )  # the operation has no schema, either
        return [
            each["what"]
            for each in findings
            if each["what"].startswith(f"{operation}: the keys") and each["level"] == "warning"
        ]

    await asyncio.to_thread(send_plain, servers, operation, orders[:20], partitioner="murmur2_random")
    assert await warnings() == []
    await asyncio.to_thread(send_plain, servers, operation, orders[20:])
    (warned,) = await warnings()
    assert "(murmur2)" in warned
    assert "(crc32)" in warned


async def test_a_wrapped_producer_s_messages_are_told_by_id(kafka: EmbeddedKafka) -> None:
    servers, service, topic = kafka.bootstrap_servers, fresh("orders"), fresh("legacy_orders")
    await make_topic(servers, topic)
    seen: list[str] = []

    def send() -> None:
        producer = Producer({}, mesh=make_mesh(fresh("shop"), servers))
        producer.produce(topic, b'{"total": 3}', "o1")
        assert producer.flush(30) == 0
        producer.close()

    async with WrappedProgram(
        make_mesh(service, servers), [topic], lambda message: seen.append(message.context.id), service
    ):
        await asyncio.to_thread(send)
        async with asyncio.timeout(30):
            while not seen:
                await asyncio.sleep(0.02)
    story = await Commands(servers).json("trace", seen[0])
    assert story["operation"] == topic
    assert [step["what"] for step in story["steps"]] == ["sent"]
    assert [(each["service"], each["state"]) for each in story["standings"]] == [(service, "handled")]
