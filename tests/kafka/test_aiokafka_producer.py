"""aiokafka's producer behind the mesh: what it does plain, it does wrapped; and what the layers add."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import IllegalOperation, MessageSizeTooLargeError, ProducerClosed
from aiokafka.helpers import create_ssl_context
from pydantic import BaseModel

from broker_mesh import Event
from broker_mesh.adoption import Adoption
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, SchemaError
from tests.support.access import applying_rules
from tests.support.aio import Plain, Wrapped, make_topic
from tests.support.names import fresh
from tests.support.topics import Topics


@pytest.fixture(params=[Plain, Wrapped])
def clients(request: pytest.FixtureRequest, kafka: EmbeddedKafka) -> Any:
    return request.param(kafka)


async def read(kafka: EmbeddedKafka, topic: str, count: int, partitions: int = 1) -> list[Any]:
    """The committed messages of a topic, by a plain consumer, partition by partition."""
    async with Plain(kafka).consumer(isolation_level="read_committed") as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        messages = [await asyncio.wait_for(consumer.getone(), 30) for _ in range(count)]
        assert await consumer.getmany(timeout_ms=200) == {}
    return sorted(messages, key=lambda each: (each.partition, each.offset))


# ── as plain ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_message_is_sent(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka)
    producer = clients.producer(client_id="shop")
    await producer.start()
    try:
        assert await producer.partitions_for(topic) == {0}
        receipt = await producer.send_and_wait(
            topic, b"Super message", b"key", headers=[("color", b"blue")], timestamp_ms=1_700_000_000_000
        )
        pending = await producer.send(topic, value=b"and another", partition=0)
        await producer.flush()
        assert (await pending).offset == 1
    finally:
        await producer.stop()
    assert (receipt.topic, receipt.partition, receipt.offset) == (topic, 0, 0)
    assert receipt.topic_partition == TopicPartition(topic, 0)
    first, second = await read(kafka, topic, 2)
    assert (first.key, first.value, first.timestamp) == (b"key", b"Super message", 1_700_000_000_000)
    assert ("color", b"blue") in first.headers
    assert (second.key, second.value) == (None, b"and another")
    with pytest.raises(ProducerClosed):
        await producer.send(topic, b"too late")


async def test_values_are_serialized(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka)
    async with clients.producer(
        value_serializer=lambda value: json.dumps(value).encode(),
        key_serializer=str.encode,
        compression_type="gzip",
    ) as producer:
        await producer.send_and_wait(topic, {"a": 123.4, "b": "some string"}, key="k")
        await producer.send_and_wait(topic, [1, 2, 3, 4], key="l")
    assert [(each.key, json.loads(each.value)) for each in await read(kafka, topic, 2)] == [
        (b"k", {"a": 123.4, "b": "some string"}),
        (b"l", [1, 2, 3, 4]),
    ]


async def test_the_programs_partitioner_decides(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka, 3)

    def by_first_byte(key: bytes, all_partitions: list[int], available: list[int]) -> int:
        return available[-1] if key is None else sorted(all_partitions)[key[0] % len(all_partitions)]

    async with clients.producer(partitioner=by_first_byte) as producer:
        chosen = [(await producer.send_and_wait(topic, b"v", bytes([n]))).partition for n in range(6)]
    assert chosen == [0, 1, 2, 0, 1, 2]


async def test_batches_of_the_programs_own_are_sent(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka, 2)
    async with clients.producer(max_batch_size=4000) as producer:
        batch = producer.create_batch()
        count = 0
        while batch.append(key=None, value=b"message %d" % count, timestamp=None) is not None:
            count += 1
        assert batch.record_count() == count > 3
        assert batch.closed()
        assert 0 < batch.size() <= 4000
        assert batch.append(key=None, value=b"closed", timestamp=None) is None
        sent = await producer.send_batch(batch, topic, partition=1)
        receipt = await sent
        assert (receipt.topic, receipt.partition, receipt.offset) == (topic, 1, 0)
    values = [each.value for each in await read(kafka, topic, count, partitions=2)]
    assert values == [b"message %d" % n for n in range(count)]


async def test_a_transaction_is_committed_or_aborted(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka)
    async with clients.producer(transactional_id=f"tx-{topic}") as producer:
        with pytest.raises(IllegalOperation):
            await producer.send(topic, b"outside")
        async with producer.transaction():
            await producer.send(topic, b"kept")
        with pytest.raises(ValueError, match="the program's"):  # noqa: PT012 - what aborts is the test
            async with producer.transaction():
                await producer.send_and_wait(topic, b"dropped")
                raise ValueError("the program's own trouble")
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"dropped too")
        await producer.abort_transaction()
        await producer.begin_transaction()
        await producer.send(topic, b"kept too")
        await producer.commit_transaction()
    assert [each.value for each in await read(kafka, topic, 2)] == [b"kept", b"kept too"]


async def test_what_is_too_large_is_refused_by_aiokafka(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka)
    async with clients.producer(max_request_size=2000) as producer:
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send(topic, b"x" * 2000)
        with pytest.raises(AssertionError):
            await producer.send(topic, b"v", partition=7)
        await producer.send_and_wait(topic, b"small")


async def test_security_arguments_are_passed_through(clients: Any) -> None:
    context = create_ssl_context()
    producer = clients.producer(
        security_protocol="SASL_SSL",
        ssl_context=context,
        sasl_mechanism="SCRAM-SHA-256",
        sasl_plain_username="u",
        sasl_plain_password="p",
    )
    client = producer.client
    assert client._ssl_context is context
    assert (client._security_protocol, client._sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-256")
    assert (client._sasl_plain_username, client._sasl_plain_password) == ("u", "p")
    await producer.stop()


# ── what the mesh adds ────────────────────────────────────────────────────────────────────────────────────


class Price(BaseModel):
    sku: str
    cents: int


async def test_messages_carry_the_meshs_headers(kafka: EmbeddedKafka) -> None:
    topic, clients = await make_topic(kafka), Wrapped(kafka)
    async with clients.producer() as producer:
        await producer.send_and_wait(topic, b"1", headers=[("mine", b"1"), ("mesh-attempt", b"9")])
        batch = producer.create_batch()
        batch.append(key=b"k", value=b"2", timestamp=None, headers=[("mine", b"2")])
        await (await producer.send_batch(batch, topic, partition=0))
    single, batched = await Topics(kafka.bootstrap_servers).read(topic, 1)
    for message, mine in ((single, b"1"), (batched, b"2")):
        assert message.envelope.source == clients.mesh.service
        assert message.envelope.attempt == 1
        assert message.envelope.traceparent is not None
        assert message.record is not None
        assert ("mine", mine) in message.record.headers
    assert single.envelope.id != batched.envelope.id


async def test_models_are_encoded_by_their_declaration(kafka: EmbeddedKafka) -> None:
    clients = Wrapped(kafka)
    priced = Event(f"{clients.mesh.service}.v1.events.priced", Price, key="sku")
    async with clients.producer(declared=[priced]) as producer:
        await producer.send_and_wait(priced.name, Price(sku="a", cents=5), b"a")
        await producer.send_and_wait(priced.name, {"sku": "b", "cents": 6}, b"b")
        with pytest.raises(SchemaError, match="cents"):
            await producer.send(priced.name, {"sku": "b"}, b"b")
        with pytest.raises(SchemaError, match="magic byte"):
            await producer.send(priced.name, b"no avro", b"b")
        with pytest.raises(NotFound):
            await producer.send(f"{clients.mesh.service}.v1.no-such-operation", b"x")
        batch = producer.create_batch()
        with pytest.raises(InvalidArgument, match="send_batch"):
            batch.append(key=None, value=Price(sku="a", cents=5), timestamp=None)
    values = {each.value[0] for each in await Topics(kafka.bootstrap_servers).read(priced.name) if each.value}
    assert values == {0}


async def test_a_refused_message_keeps_its_batch_from_being_sent(kafka: EmbeddedKafka) -> None:
    clients = Wrapped(kafka)
    priced = Event(f"{clients.mesh.service}.v1.events.priced", Price, key="sku")
    async with clients.producer(declared=[priced]) as producer:
        batch = producer.create_batch()
        batch.append(key=b"k", value=b"no avro", timestamp=None)
        with pytest.raises(SchemaError, match="magic byte"):
            await producer.send_batch(batch, priced.name, partition=0)
        with pytest.raises(InvalidArgument, match=r"create_batch\(\)"):
            await producer.send_batch(object(), priced.name, partition=0)  # type: ignore[arg-type]
    assert await Topics(kafka.bootstrap_servers).read(priced.name) == []


async def test_an_access_rule_keeps_a_service_from_sending(kafka: EmbeddedKafka) -> None:
    topic, owner = await make_topic(kafka), fresh("owner")
    clients = Wrapped(kafka, topics={topic: Adoption(owner=owner, kind="operation")})
    with applying_rules(kafka.bootstrap_servers) as rules:
        await asyncio.to_thread(rules.apply, owner, "deny", to=owner, callers=[clients.mesh.service])
        async with clients.producer() as producer:
            with pytest.raises(PermissionDenied, match=topic):
                await producer.send(topic, b"x")
    assert await Topics(kafka.bootstrap_servers).read(topic, 1) == []


async def test_an_event_of_another_service_is_not_published(kafka: EmbeddedKafka) -> None:
    async with Wrapped(kafka).producer() as producer:
        with pytest.raises(PermissionDenied, match="only its owner publishes it"):
            await producer.send("fleet.v1.events.aircraft-retired", b"x")


async def test_the_meshs_errors_end_a_transaction_like_any_other(kafka: EmbeddedKafka) -> None:
    topic, clients = await make_topic(kafka), Wrapped(kafka)
    async with clients.producer(transactional_id=f"tx-{topic}") as producer:
        with pytest.raises(NotFound):  # noqa: PT012 - what aborts is the test
            async with producer.transaction():
                await producer.send(topic, b"dropped")
                await producer.send(f"{clients.mesh.service}.v1.no-such-operation", b"x")
        async with producer.transaction():
            await producer.send(topic, b"kept")
    assert [each.value for each in await read(kafka, topic, 1)] == [b"kept"]


async def test_a_producer_that_is_not_started_says_so(kafka: EmbeddedKafka) -> None:
    producer = Wrapped(kafka).producer()
    with pytest.raises(FailedPrecondition, match="not started"):
        await producer.send("topic", b"x")
    await producer.stop()


async def test_a_mesh_that_cant_read_its_policy_does_not_start() -> None:
    class Nowhere:
        bootstrap_servers = "localhost:1"

    clients = Wrapped(Nowhere(), connect_timeout_seconds=0.5)  # type: ignore[arg-type]
    producer = clients.producer()
    with pytest.raises(Exception, match="localhost:1"):
        await producer.start()
    await producer.stop()
