"""Programs that consume as confluent-kafka's documentation shows, once with the plain consumer and once with ours."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_CREATE_TIME,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.error import ValueDeserializationError
from confluent_kafka.serialization import StringDeserializer

from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import FailedPrecondition, SettingsError
from broker_mesh_adapters.confluent_kafka import AIOConsumer, Consumer, Message, wrap
from tests.support.names import fresh
from tests.support.plain_and_wrapped import World, nothing_comes, poll_until, read, values, worlds


@pytest.fixture(params=["plain", "wrapped"])
def world(request: pytest.FixtureRequest, kafka: EmbeddedKafka) -> Iterator[World]:
    yield from worlds(request.param, kafka.bootstrap_servers)


@pytest.fixture
def wrapped_world(kafka: EmbeddedKafka) -> Iterator[World]:
    yield from worlds("wrapped", kafka.bootstrap_servers)


def places(partitions: list[TopicPartition]) -> list[tuple[str, int, int]]:
    return sorted((each.topic, each.partition, each.offset) for each in partitions)


# ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────


def test_subscribe_and_poll(world: World) -> None:
    topic = world.topic()
    before = time.time() * 1000
    producer = confluent_kafka.Producer({"bootstrap.servers": world.bootstrap_servers})
    producer.produce(topic, b"value", b"key", headers=[("a", b"1"), ("a", None)])
    producer.flush()
    consumer = world.consumer(world.conf())
    consumer.subscribe([topic])
    (message,) = read(consumer, 1)
    assert (message.topic(), message.partition(), message.offset()) == (topic, 0, 0)
    assert (message.key(), message.value(), len(message)) == (b"key", b"value", 5)
    assert message.headers() == [("a", b"1"), ("a", None)]
    kind, timestamp = message.timestamp()
    assert kind == TIMESTAMP_CREATE_TIME
    assert before - 1000 <= timestamp <= time.time() * 1000 + 1000
    assert (message.error(), message.latency(), message.leader_epoch()) == (None, None, 0)
    assert isinstance(message, confluent_kafka.Message)
    message.set_value("changed")
    assert message.value() == "changed"
    assert consumer.memberid()
    assert consumer.cluster_id(10)
    assert topic in consumer.list_topics(timeout=10).topics
    assert list(consumer.list_topics(topic, timeout=10).topics) == [topic]
    assert consumer.poll(0) is None


def test_error_events_come_through(world: World) -> None:
    topic = world.topic()
    world.send(topic, "a")
    consumer = world.consumer(world.conf(enable_partition_eof=True))
    consumer.subscribe([topic])
    events = []
    while len(events) < 2:
        if (message := consumer.poll(1)) is not None:
            events.append(message)
    assert events[0].error() is None
    assert events[1].error().code() == KafkaError._PARTITION_EOF
    assert events[1].topic() == topic
    missing = fresh("missing")
    other = world.consumer(world.conf())
    other.subscribe([missing])
    error = None
    while error is None:
        message = other.poll(1)
        error = None if message is None else message.error()
    assert error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_consume_gives_batches(world: World) -> None:
    topic = world.topic(3)
    sent = [f"{n}" for n in range(60)]
    for number in range(3):
        world.send(topic, *sent[number::3], partition=number)
    consumer = world.consumer(world.conf())
    consumer.subscribe([topic])
    came: list[Any] = []
    while len(came) < 60:
        batch = consumer.consume(num_messages=25, timeout=1.0)
        assert len(batch) <= 25
        came += batch
    assert sorted(values(came), key=int) == sent
    for number in range(3):
        assert values([each for each in came if each.partition() == number]) == sent[number::3]
    assert consumer.consume(10, 0.1) == []
    with pytest.raises(ValueError, match="num_messages must be between"):
        consumer.consume(-1)


def test_a_closed_consumer_refuses_and_a_second_close_is_nothing(world: World) -> None:
    with world.consumer(world.conf()) as consumer:
        consumer.subscribe([world.topic()])
        consumer.poll(0)
    for call in (
        lambda: consumer.poll(0),
        lambda: consumer.consume(1, 0),
        lambda: consumer.subscribe(["x"]),
        lambda: consumer.assign([]),
        lambda: consumer.assignment(),
        lambda: consumer.commit(),
        lambda: consumer.seek(TopicPartition("x", 0, 0)),
        lambda: consumer.memberid(),
        lambda: consumer.pause([]),
        lambda: consumer.unassign(),
        lambda: consumer.unsubscribe(),
        lambda: consumer.position([]),
        lambda: consumer.committed([]),
        lambda: consumer.consumer_group_metadata(),
        lambda: consumer.list_topics(),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    consumer.close()


def test_wrong_arguments_are_refused_with_the_same_words(world: World) -> None:
    consumer = world.consumer(world.conf())
    message = confluent_kafka.Message(topic="t", partition=0, offset=0, error=KafkaError(1))
    for error, words, call in (
        (TypeError, "list of topic", lambda: consumer.subscribe("abc")),
        (TypeError, "on_assign expects a callable", lambda: consumer.subscribe(["a"], on_assign=3)),
        (ValueError, "mutually exclusive", lambda: consumer.commit(message=message, offsets=[])),
        (KafkaException, "message with error", lambda: consumer.commit(message=message, asynchronous=False)),
        (KafkaException, "_NO_OFFSET", lambda: consumer.commit(asynchronous=False)),
        (ValueError, "expected either message or offsets", lambda: consumer.store_offsets()),
        (KafkaException, "_INVALID_ARG", lambda: consumer.store_offsets(offsets=[TopicPartition("t", 0, 1)])),
    ):
        with pytest.raises(error, match=words):
            call()
    with pytest.raises(KafkaException, match="No such configuration property"):
        world.consumer(world.conf(no_such_thing=1))


# ── where it reads ────────────────────────────────────────────────────────────────────────────────────────


def test_assign_with_offsets_and_seek(world: World) -> None:
    topic = world.topic(2)
    world.send(topic, *"abcdef", partition=0)
    world.send(topic, *"xyz", partition=1)
    consumer = world.consumer(world.conf())
    consumer.assign([TopicPartition(topic, 0, 4), TopicPartition(topic, 1, OFFSET_END)])
    assert values(read(consumer, 2)) == ["e", "f"]
    assert [each.offset for each in consumer.position([TopicPartition(topic, 0)])] == [6]
    consumer.seek(TopicPartition(topic, 0, 1))
    assert values(read(consumer, 5)) == ["b", "c", "d", "e", "f"]
    consumer.seek(TopicPartition(topic, 0, OFFSET_BEGINNING))
    assert values(read(consumer, 1)) == ["a"]
    consumer.incremental_unassign([TopicPartition(topic, 0)])
    assert [each.partition for each in consumer.assignment()] == [1]
    consumer.incremental_assign([TopicPartition(topic, 0, 5)])
    assert values(read(consumer, 1)) == ["f"]
    consumer.unassign()
    assert consumer.assignment() == []
    assert nothing_comes(consumer, 0.3)


def test_seek_back_to_a_message_gives_it_again(world: World) -> None:
    topic = world.topic()
    world.send(topic, *"abc", key="k")
    consumer = world.consumer(world.conf())
    consumer.subscribe([topic])
    first, second = read(consumer, 2)
    consumer.seek(TopicPartition(second.topic(), second.partition(), second.offset()))
    assert values(read(consumer, 2)) == ["b", "c"]
    consumer.seek(TopicPartition(first.topic(), first.partition(), first.offset()))
    assert values(read(consumer, 3)) == ["a", "b", "c"]


def test_pause_and_resume(world: World) -> None:
    topic = world.topic(2)
    consumer = world.consumer(world.conf())
    consumer.subscribe([topic])
    poll_until(consumer, lambda: len(consumer.assignment()) == 2)
    paused = [TopicPartition(topic, 0)]
    consumer.pause(paused)
    world.send(topic, "a", partition=0)
    world.send(topic, "x", partition=1)
    assert values(read(consumer, 1)) == ["x"]
    assert nothing_comes(consumer, 0.5)
    consumer.resume(paused)
    assert values(read(consumer, 1)) == ["a"]


def test_offsets_by_time_and_watermarks(world: World) -> None:
    topic = world.topic()
    producer = confluent_kafka.Producer({"bootstrap.servers": world.bootstrap_servers})
    start = round(time.time() * 1000) - 10_000
    for later in (0, 2000, 4000):
        producer.produce(topic, b"v", timestamp=start + later)
    producer.flush()
    consumer = world.consumer(world.conf())
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10) == (0, 3)
    found = consumer.offsets_for_times([TopicPartition(topic, 0, start + 1000)], timeout=10)
    assert places(found) == [(topic, 0, 1)]
    read(consumer, 3)
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), cached=True)[1] == 3


def test_a_pattern_finds_topics(world: World) -> None:
    stem = fresh("found").replace("-", "_")
    admin_topics = [f"{stem}_a", f"{stem}_b"]
    admin = AdminClient({"bootstrap.servers": world.bootstrap_servers})
    for future in admin.create_topics(
        [NewTopic(name, 1, 1) for name in [*admin_topics, f"x{stem}"]]
    ).values():
        future.result(20)
    for name in [*admin_topics, f"x{stem}"]:
        world.send(name, name)
    consumer = world.consumer(world.conf(topic_metadata_refresh_interval_ms=500))
    consumer.subscribe([f"^{stem}_.*"])
    assert sorted(values(read(consumer, 2))) == admin_topics
    assert sorted(each.topic for each in consumer.assignment()) == admin_topics
    consumer.subscribe([f"^{stem}_a$"])
    poll_until(consumer, lambda: [each.topic for each in consumer.assignment()] == [f"{stem}_a"])
    consumer.unsubscribe()
    poll_until(consumer, lambda: consumer.assignment() == [])


# ── others of the family ──────────────────────────────────────────────────────────────────────────────────


def test_deserializing(world: World) -> None:
    topic = world.topic()

    def number(value: bytes, _: Any) -> int:
        return int(value)

    world.send(topic, "1", "x", "3", key="k")
    conf = {
        **world.conf(),
        "key.deserializer": StringDeserializer("utf_8"),
        "value.deserializer": number,
    }
    consumer = world.consumer(conf, "DeserializingConsumer")
    consumer.subscribe([topic])
    came: list[Any] = []
    failed = []
    while len(came) + len(failed) < 3:
        try:
            message = consumer.poll(1)
        except ValueDeserializationError as error:
            failed.append(error.kafka_message.value())
            continue
        if message is not None:
            came.append((message.key(), message.value()))
    assert came == [("k", 1), ("k", 3)]
    assert failed == [b"x"]
    with pytest.raises(NotImplementedError):
        consumer.consume(1)


@pytest.mark.parametrize("kind", ["plain", "wrapped"])
async def test_asyncio(kind: str, kafka: EmbeddedKafka) -> None:
    from confluent_kafka.aio import AIOConsumer as PlainAIOConsumer

    world = next(worlds(kind, kafka.bootstrap_servers))
    topic = await asyncio.to_thread(world.topic)
    await asyncio.to_thread(world.send, topic, *"abc")
    told: list[Any] = []

    async def on_assign(consumer: Any, partitions: list[TopicPartition]) -> None:
        told.append(consumer)
        await consumer.assign([TopicPartition(each.topic, each.partition, 1) for each in partitions])

    conf = world.conf(enable_auto_commit=False)
    consumer = AIOConsumer(conf, mesh=world.mesh) if kind == "wrapped" else PlainAIOConsumer(conf)
    async with consumer:
        await consumer.subscribe([topic], on_assign=on_assign)
        messages = []
        while len(messages) < 2:
            messages += await consumer.consume(2, timeout=1.0)
        assert values(messages) == ["b", "c"]
        assert told == [consumer]
        committed = await consumer.commit(message=messages[-1], asynchronous=False)
        assert places(committed) == [(topic, 0, 3)]
        assert places(await consumer.committed([TopicPartition(topic, 0)])) == [(topic, 0, 3)]
        assert [each.topic for each in await consumer.assignment()] == [topic]
        await consumer.seek(TopicPartition(topic, 0, 0))
        message = None
        while message is None:
            message = await consumer.poll(1.0)
        assert message.value() == b"a"
    with pytest.raises(RuntimeError, match="closed"):
        await consumer.poll(0)


async def test_a_cancelled_asyncio_poll_loses_nothing(kafka: EmbeddedKafka) -> None:
    world = next(worlds("wrapped", kafka.bootstrap_servers))
    topic = await asyncio.to_thread(world.topic)
    async with AIOConsumer(world.conf(), mesh=world.mesh) as consumer:
        await consumer.subscribe([topic])
        waiting = asyncio.ensure_future(consumer.poll(20))
        assert await asyncio.wait({waiting}, timeout=1) == (set(), {waiting})  # in the thread by now
        waiting.cancel()
        await asyncio.wait({waiting})
        await asyncio.to_thread(world.send, topic, "a")
        message = await consumer.poll(20)
        assert message is not None
        assert message.value() == b"a"


async def test_what_comes_to_a_cancelled_asyncio_poll_comes_to_the_next(kafka: EmbeddedKafka) -> None:
    came, go_on = threading.Event(), threading.Event()

    class Late(ThreadPoolExecutor):
        def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            def late() -> Any:
                result = call(*args, **kwargs)
                if isinstance(result, Message):
                    came.set()
                    go_on.wait(20)
                return result

            return super().submit(late)

    world = next(worlds("wrapped", kafka.bootstrap_servers))
    topic = await asyncio.to_thread(world.topic)
    await asyncio.to_thread(world.send, topic, "a")
    with Late(2) as executor:
        async with AIOConsumer(world.conf(), executor=executor, mesh=world.mesh) as consumer:
            await consumer.subscribe([topic])
            waiting = asyncio.ensure_future(consumer.poll(20))
            assert await asyncio.to_thread(came.wait, 20)
            waiting.cancel()
            await asyncio.wait({waiting})
            go_on.set()
            message = await consumer.poll(20)
            assert message is not None
            assert message.value() == b"a"


async def test_a_cancelled_asyncio_poll_keeps_nobody_waiting(kafka: EmbeddedKafka) -> None:
    world = next(worlds("wrapped", kafka.bootstrap_servers))
    topic = await asyncio.to_thread(world.topic)
    consumer = AIOConsumer(world.conf(), mesh=world.mesh)
    await consumer.subscribe([topic])
    polls = [asyncio.ensure_future(consumer.poll(40)) for _ in range(2)]  # one is in the thread, one waits
    assert await asyncio.wait(polls, timeout=0.5) == (set(), set(polls))
    for waiting in polls:
        waiting.cancel()
    await asyncio.wait(polls)
    await asyncio.wait_for(consumer.close(), 20)


# ── what a wrapped consumer adds ──────────────────────────────────────────────────────────────────────────


def test_a_message_tells_what_the_mesh_knows(wrapped_world: World) -> None:
    world = wrapped_world
    topic = world.topic()
    world.send(topic, json.dumps({"n": 1}), key="k")
    consumer = world.consumer(world.conf())
    consumer.subscribe([topic])
    (message,) = read(consumer, 1)
    assert isinstance(message, Message)
    assert message.attempt == 1
    assert message.data == {"n": 1} or message.data == b'{"n": 1}'
    assert message.context.key == b"k"
    with pytest.raises(FailedPrecondition, match="asks for no reply"):
        message.reply({})


def test_subclasses_work(wrapped_world: World) -> None:
    class Mine(Consumer):
        def poll(self, timeout: float | None = None) -> Any:
            message = super().poll(timeout)
            return None if message is None else message.value()

    topic = wrapped_world.topic()
    wrapped_world.send(topic, "a")
    with Mine(wrapped_world.conf(), mesh=wrapped_world.mesh) as consumer:
        consumer.subscribe([topic])
        value = None
        while value is None:
            value = consumer.poll(1)
        assert value == b"a"


def test_a_finished_consumer_is_wrapped(wrapped_world: World) -> None:
    world = wrapped_world
    topic = world.topic()
    world.send(topic, "a")
    conf = world.conf(enable_auto_offset_store=False)
    told: list[Any] = []
    consumer = wrap(confluent_kafka.Consumer(conf), mesh=world.mesh, conf=conf)
    consumer.subscribe([topic], on_assign=lambda client, _: told.append(client))
    (message,) = read(consumer, 1)
    assert message.attempt == 1
    assert told == [consumer]
    consumer.store_offsets(message)
    consumer.close()
    plain = confluent_kafka.Consumer(world.conf())
    with pytest.raises(SettingsError, match=r"enable\.auto\.offset\.store=False"):
        wrap(plain, mesh=world.mesh, conf=world.conf())
    plain.close()


def test_reading_uncommitted_records_is_refused(wrapped_world: World) -> None:
    with pytest.raises(SettingsError, match=r"isolation\.level"):
        wrapped_world.consumer(wrapped_world.conf(isolation_level="read_uncommitted"))


def test_topics_of_retries_and_operations_of_others_are_refused(wrapped_world: World) -> None:
    world = wrapped_world
    consumer = world.consumer(world.conf())
    with pytest.raises(FailedPrecondition, match="subscribe to 'orders'"):
        consumer.subscribe([f"{world.mesh.service}.v1.from.orders.retry"])
    with pytest.raises(FailedPrecondition, match="only that service handles its requests"):
        consumer.subscribe(["fleet.v1.find-aircraft"])
