"""aiokafka's consumer behind the mesh: what it does plain, it does wrapped."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from aiokafka import (
    ConsumerRebalanceListener,
    ConsumerRecord,
    ConsumerStoppedError,
    IllegalOperation,
    TopicPartition,
)
from aiokafka.errors import IllegalStateError

from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.aio import Plain, Wrapped, fill, make_topic, take
from tests.support.names import fresh


@pytest.fixture(params=[Plain, Wrapped])
def clients(request: pytest.FixtureRequest, kafka: EmbeddedKafka) -> Any:
    return request.param(kafka)


async def drain(consumer: Any, count: int) -> list[Any]:
    """Messages by batches, until there are so many."""
    messages: list[Any] = []
    while len(messages) < count:
        batch = await asyncio.wait_for(consumer.getmany(timeout_ms=1000), 30)
        messages += [each for several in batch.values() for each in several]
    return messages


# ── one message after the other ───────────────────────────────────────────────────────────────────────────


async def test_messages_are_consumed(kafka: EmbeddedKafka, clients: Any) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 3)
    consumer = clients.consumer(topic, group_id=group)
    await consumer.start()
    seen = []
    async for message in consumer:
        assert isinstance(message, ConsumerRecord)
        assert (message.topic, message.partition) == (topic, 0)
        assert message.key == b"k%d" % message.offset
        assert ("n", b"%d" % message.offset) in message.headers
        assert (message.serialized_key_size, message.serialized_value_size) == (2, 1)
        assert message.timestamp > 0
        seen.append((message.offset, message.value))
        if len(seen) == 3:
            break
    place = TopicPartition(topic, 0)
    assert seen == [(0, b"0"), (1, b"1"), (2, b"2")]
    assert consumer.subscription() == {topic}
    assert consumer.assignment() == {place}
    assert topic in await consumer.topics()
    assert consumer.partitions_for_topic(topic) == {0}
    assert (await consumer.position(place), consumer.highwater(place)) == (3, 3)
    assert consumer.last_poll_timestamp(place) > 0
    assert await consumer.beginning_offsets([place]) == {place: 0}
    assert await consumer.end_offsets([place]) == {place: 3}
    assert (await consumer.offsets_for_times({place: 0}))[place].offset == 0
    await consumer.stop()
    await consumer.stop()
    for ask in (consumer.getone, consumer.getmany):
        with pytest.raises(ConsumerStoppedError):
            await ask()
    async with clients.consumer(topic, group_id=group) as later:
        assert await later.committed(place) == 3  # by stop


async def test_values_are_deserialized(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka)
    async with Plain(kafka).producer() as producer:
        await producer.send_and_wait(topic, json.dumps({"a": [1, 2]}).encode(), b"k")
    async with clients.consumer(
        topic, value_deserializer=lambda value: json.loads(value), key_deserializer=bytes.decode
    ) as consumer:
        (message,) = await take(consumer, 1)
    assert (message.key, message.value) == ("k", {"a": [1, 2]})
    assert message.serialized_value_size == 13


async def test_batches_come_by_partition(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka, 2)
    await fill(kafka, topic, 20, partitions=2)
    async with clients.consumer(topic, group_id=fresh("group")) as consumer:
        with pytest.raises(ValueError, match="positive"):
            await consumer.getmany(max_records=0)
        only = TopicPartition(topic, 1)
        first = await asyncio.wait_for(consumer.getmany(only, timeout_ms=20_000, max_records=4), 30)
        assert [each.value for each in first[only]] == [b"1", b"3", b"5", b"7"]
        assert set(first) == {only}
        assert (await consumer.getone(only)).value == b"9"
        rest = await drain(consumer, 15)
        assert await consumer.getmany(timeout_ms=100) == {}
    assert sorted(int(each.value) for each in rest) == [n for n in range(20) if n not in (1, 3, 5, 7, 9)]
    for number in range(2):
        offsets = [each.offset for each in rest if each.partition == number]
        assert offsets == sorted(offsets)


async def test_keys_keep_their_order(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka, 3)
    async with clients.producer() as producer:
        for n in range(60):
            await producer.send(topic, b"%d" % n, b"k%d" % (n % 7))
    seen: dict[bytes, list[int]] = {}
    async with clients.consumer(topic, group_id=fresh("group")) as consumer:
        for message in await drain(consumer, 60):
            seen.setdefault(message.key, []).append(int(message.value))
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 60


async def test_several_tasks_share_a_consumer(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka, 2)
    await fill(kafka, topic, 40, partitions=2)
    seen: Counter[bytes] = Counter()

    async def work(consumer: Any) -> None:
        async for message in consumer:
            seen[message.value] += 1
            await asyncio.sleep(0)

    async with clients.consumer(topic, group_id=fresh("group")) as consumer:
        workers = [asyncio.create_task(work(consumer)) for _ in range(4)]
        while sum(seen.values()) < 40:
            await asyncio.sleep(0.01)
        await consumer.stop()
        await asyncio.wait_for(asyncio.gather(*workers), 10)
    assert set(seen.values()) == {1}


async def test_a_call_that_is_given_up_loses_nothing(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka)
    seen: list[bytes] = []
    async with (
        clients.consumer(topic, group_id=fresh("group")) as consumer,
        Plain(kafka).producer() as producer,
    ):

        async def send() -> None:
            for n in range(100):
                await producer.send_and_wait(topic, b"%d" % n)

        sending = asyncio.create_task(send())
        patience = 0
        while len(seen) < 100:
            patience += 1
            assert patience < 50_000
            try:
                seen.append((await asyncio.wait_for(consumer.getone(), 0.0005 * (patience % 4))).value)
            except TimeoutError:
                continue
        await sending
    assert seen == [b"%d" % n for n in range(100)]


# ── offsets ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_program_commits(kafka: EmbeddedKafka, clients: Any) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    place = TopicPartition(topic, 0)
    await fill(kafka, topic, 10)
    async with clients.consumer(topic, group_id=group, enable_auto_commit=False) as consumer:
        assert await consumer.committed(place) is None
        await take(consumer, 3)
        await consumer.commit()
        assert await consumer.committed(place) == 3
        (message,) = await take(consumer, 1)
        await consumer.commit({place: message.offset + 1})
        assert await consumer.committed(place) == 4
        await take(consumer, 2)
        await consumer.commit({place: (6, "some metadata")})
        assert await consumer.committed(place) == 6
        with pytest.raises(IllegalStateError):
            await consumer.commit({TopicPartition(topic, 7): 1})
        with pytest.raises(ValueError):
            await consumer.commit({})
        await take(consumer, 1)
    async with clients.consumer(topic, group_id=group, enable_auto_commit=False) as consumer:
        assert [each.value for each in await take(consumer, 1)] == [b"6"]
    async with clients.consumer(topic) as consumer:
        with pytest.raises(IllegalOperation):
            await consumer.commit()


async def test_an_idle_group_goes_on_where_it_was(kafka: EmbeddedKafka, clients: Any) -> None:
    """With "latest", what comes while the group is away is still its own."""
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 3)
    options = {"group_id": group, "auto_offset_reset": "latest"}
    async with clients.consumer(topic, **options) as consumer:
        assert await consumer.position(TopicPartition(topic, 0)) == 3
        assert await consumer.getmany(timeout_ms=100) == {}
    await fill(kafka, topic, 1)
    async with clients.consumer(topic, **options) as consumer:
        assert (await take(consumer, 1))[0].offset == 3


async def test_the_program_seeks(kafka: EmbeddedKafka, clients: Any) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    place = TopicPartition(topic, 0)
    await fill(kafka, topic, 10)
    async with clients.consumer(topic, group_id=group, enable_auto_commit=False) as consumer:
        await take(consumer, 4)
        await consumer.commit()
        consumer.seek(place, 7)
        assert await consumer.position(place) == 7
        assert [each.value for each in await take(consumer, 2)] == [b"7", b"8"]
        await consumer.seek_to_beginning()
        assert [each.value for each in await take(consumer, 2)] == [b"0", b"1"]
        assert await consumer.seek_to_committed(place) == {place: 4}
        assert [each.value for each in await take(consumer, 1)] == [b"4"]
        await consumer.seek_to_end(place)
        assert await consumer.position(place) == 10
        with pytest.raises(IllegalStateError):
            await consumer.seek_to_end(TopicPartition(topic, 5))
        with pytest.raises(ValueError, match="positive"):
            consumer.seek(place, -1)


async def test_the_program_assigns(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka, 2)
    await fill(kafka, topic, 10, partitions=2)
    for group in (None, fresh("group")):
        async with clients.consumer(group_id=group) as consumer:
            consumer.assign([TopicPartition(topic, 1)])
            consumer.seek(TopicPartition(topic, 1), 3)
            assert [each.value for each in await take(consumer, 2)] == [b"7", b"9"]
            assert consumer.assignment() == {TopicPartition(topic, 1)}
            with pytest.raises(IllegalStateError):
                consumer.subscribe([topic])
            if group is None:  # with a group, aiokafka's coordinator may stumble over a second assign
                consumer.assign([TopicPartition(topic, 0)])
                assert (await take(consumer, 1))[0].partition == 0


async def test_the_program_pauses(kafka: EmbeddedKafka, clients: Any) -> None:
    topic = await make_topic(kafka, 2)
    await fill(kafka, topic, 20, partitions=2)
    async with clients.consumer(topic, group_id=fresh("group")) as consumer:
        await take(consumer, 1)
        consumer.pause(TopicPartition(topic, 0))
        assert consumer.paused() == {TopicPartition(topic, 0)}
        seen = []
        while batch := await consumer.getmany(timeout_ms=700):
            seen += [each for several in batch.values() for each in several]
        assert {each.partition for each in seen} <= {1}
        consumer.resume(TopicPartition(topic, 0))
        assert consumer.paused() == set()
        more = await drain(consumer, 20 - 1 - len(seen))
    assert len({(each.partition, each.offset) for each in [*seen, *more]}) == 19


async def test_a_pattern_finds_topics(kafka: EmbeddedKafka, clients: Any) -> None:
    first, second = await make_topic(kafka), await make_topic(kafka)
    await fill(kafka, first, 2)
    await fill(kafka, second, 2)
    consumer = clients.consumer(group_id=fresh("group"), metadata_max_age_ms=500)
    consumer.subscribe(pattern=f"^({first}|{second})$")
    async with consumer:
        assert Counter(each.topic for each in await take(consumer, 4)) == {first: 2, second: 2}
        assert consumer.subscription() == {first, second}
        with pytest.raises(TypeError):
            consumer.subscribe([first], pattern="x")
        with pytest.raises(ValueError, match="not a valid pattern"):
            consumer.subscribe(pattern="(")


async def test_a_subscription_changes_and_ends(kafka: EmbeddedKafka, clients: Any) -> None:
    first, second = await make_topic(kafka), await make_topic(kafka)
    await fill(kafka, first, 1)
    await fill(kafka, second, 1)
    async with clients.consumer(first, group_id=fresh("group")) as consumer:
        assert (await take(consumer, 1))[0].topic == first
        consumer.subscribe([second])
        assert (await take(consumer, 1))[0].topic == second
        assert consumer.subscription() == {second}
        consumer.unsubscribe()
        assert consumer.subscription() == set()
        assert consumer.assignment() == set()


async def test_a_subscription_without_a_group_changes(kafka: EmbeddedKafka, clients: Any) -> None:
    first, second = await make_topic(kafka), await make_topic(kafka)
    await fill(kafka, first, 1)
    await fill(kafka, second, 1)
    async with clients.consumer(first) as consumer:
        assert (await take(consumer, 1))[0].topic == first
        consumer.subscribe([second])
        assert (await take(consumer, 1))[0].topic == second


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────


class Notes(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self) -> None:
        self.events: list[tuple[str, set[TopicPartition]]] = []

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self.events.append(("revoked", set(revoked)))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await asyncio.sleep(0)
        self.events.append(("assigned", set(assigned)))


async def test_a_group_shares_its_partitions(kafka: EmbeddedKafka, clients: Any) -> None:
    topic, group = await make_topic(kafka, 2), fresh("group")
    await fill(kafka, topic, 10, partitions=2)
    both = {TopicPartition(topic, 0), TopicPartition(topic, 1)}
    notes = Notes()
    first, second = clients.consumer(group_id=group), clients.consumer(topic, group_id=group)
    first.subscribe([topic], listener=notes)
    async with first:
        seen = await drain(first, 10)
        assert notes.events[-1] == ("assigned", both)
        joining = asyncio.create_task(second.start())
        while not joining.done() or len(notes.events) < 4 or len(first.assignment()) != 1:
            await first.getmany(timeout_ms=50)
        assert ("revoked", both) in notes.events
        assert first.assignment() | second.assignment() == both
        assert len(second.assignment()) == 1
        await fill(kafka, topic, 10, partitions=2)
        more = [*await drain(first, 5), *await drain(second, 5)]
        await second.stop()
    assert Counter(each.value for each in [*seen, *more]) == {b"%d" % n: 2 for n in range(10)}


async def test_state_of_the_programs_own_goes_with_the_partitions(kafka: EmbeddedKafka, clients: Any) -> None:
    """Offsets kept outside of Kafka: the listener seeks, and `auto_offset_reset` is "none"."""
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 10)
    saved = {TopicPartition(topic, 0): 4}

    class Restoring(ConsumerRebalanceListener):  # type: ignore[misc]
        def __init__(self, consumer: Any) -> None:
            self.consumer = consumer

        async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None: ...

        async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
            for each in assigned:
                self.consumer.seek(each, saved[each])

    consumer = clients.consumer(group_id=group, enable_auto_commit=False)
    consumer.subscribe([topic], listener=Restoring(consumer))
    async with consumer:
        assert [each.value for each in await take(consumer, 2)] == [b"4", b"5"]


# ── transactions ──────────────────────────────────────────────────────────────────────────────────────────


async def test_messages_are_consumed_and_produced_in_one_transaction(
    kafka: EmbeddedKafka, clients: Any
) -> None:
    source, target, group = await make_topic(kafka), await make_topic(kafka), fresh("group")
    place = TopicPartition(source, 0)
    await fill(kafka, source, 6)
    async with (
        clients.consumer(
            source, group_id=group, enable_auto_commit=False, isolation_level="read_committed"
        ) as consumer,
        clients.producer(transactional_id=fresh("tx")) as producer,
    ):
        batch = await asyncio.wait_for(consumer.getmany(timeout_ms=20_000, max_records=3), 30)
        async with producer.transaction():
            for message in batch[place]:
                await producer.send(target, b"did " + message.value)
            await producer.send_offsets_to_transaction({place: batch[place][-1].offset + 1}, group)
        while await consumer.committed(place) != 3:  # Kafka writes a transaction's end after it has answered
            await asyncio.sleep(0.01)

        batch = await asyncio.wait_for(consumer.getmany(timeout_ms=20_000, max_records=3), 30)
        await producer.begin_transaction()
        await producer.send_and_wait(target, b"never")
        await producer.send_offsets_to_transaction({place: batch[place][-1].offset + 1}, group)
        await producer.abort_transaction()
        assert await consumer.committed(place) == 3
        assert await consumer.seek_to_committed(place) == {place: 3}
        assert [each.value for each in await take(consumer, 1)] == [b"3"]
    async with clients.consumer(isolation_level="read_committed") as consumer:
        consumer.assign([TopicPartition(target, 0)])
        assert [each.value for each in await take(consumer, 3)] == [b"did 0", b"did 1", b"did 2"]
        assert await consumer.getmany(timeout_ms=200) == {}
