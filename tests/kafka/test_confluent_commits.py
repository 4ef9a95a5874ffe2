"""What is committed and when: with the plain consumer and with ours, and what ours adds for messages that fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition

from broker_mesh import Retry
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Aborted, FailedPrecondition
from tests.support.dead_letters import DeadLetters
from tests.support.names import fresh
from tests.support.plain_and_wrapped import World, nothing_comes, poll_until, read, values, worlds

QUICK = Retry(attempts=3, backoff=0.05, max_backoff=0.1)


@pytest.fixture(params=["plain", "wrapped"])
def world(request: pytest.FixtureRequest, kafka: EmbeddedKafka) -> Iterator[World]:
    yield from worlds(request.param, kafka.bootstrap_servers)


@pytest.fixture
def mesh_world(kafka: EmbeddedKafka) -> Iterator[World]:
    yield from worlds("wrapped", kafka.bootstrap_servers)


def committed(consumer: Any, topic: str, partition: int = 0) -> int:
    (place,) = consumer.committed([TopicPartition(topic, partition)], timeout=10)
    return int(place.offset)


def subscribed(world: World, conf: dict[str, Any], topic: str, **options: Any) -> Any:
    consumer = world.consumer(conf, **options)
    consumer.subscribe([topic])
    return consumer


# ── as ever ───────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_read_is_committed_on_close_and_a_second_consumer_goes_on(world: World) -> None:
    topic, group = world.topic(), fresh("group")
    world.send(topic, *"abcd")
    first = subscribed(world, world.conf(group), topic)
    assert values(read(first, 2)) == ["a", "b"]
    first.close()
    second = subscribed(world, world.conf(group), topic)
    assert values(read(second, 2)) == ["c", "d"]


def test_what_was_read_is_committed_at_intervals(world: World) -> None:
    topic, told = world.topic(), []
    world.send(topic, *"ab")
    conf = world.conf(
        auto_commit_interval_ms=100,
        on_commit=lambda error, places: told.append((error, places[0].topic, places[0].offset)),
    )
    consumer = subscribed(world, conf, topic)
    read(consumer, 2)
    poll_until(consumer, lambda: (None, topic, 2) in told)
    assert {place[1] for place in told} == {topic}
    assert committed(consumer, topic) == 2


def test_the_program_commits(world: World) -> None:
    topic, told = world.topic(2), []
    world.send(topic, *"abcd", partition=0)
    conf = world.conf(enable_auto_commit=False, on_commit=lambda error, places: told.append(places))
    consumer = subscribed(world, conf, topic)
    messages = read(consumer, 3)
    done = consumer.commit(message=messages[0], asynchronous=False)
    assert [(each.topic, each.partition, each.offset, each.error) for each in done] == [(topic, 0, 1, None)]
    assert committed(consumer, topic) == 1
    consumer.commit(offsets=[TopicPartition(topic, 0, 2, "noted")], asynchronous=False)
    (place,) = consumer.committed([TopicPartition(topic, 0)], timeout=10)
    assert (place.offset, place.metadata) == (2, "noted")
    assert {
        (each.partition, each.offset) for each in consumer.commit(asynchronous=False) if each.offset >= 0
    } == {(0, 3)}
    told.clear()
    assert consumer.commit(message=messages[1]) is None
    poll_until(consumer, lambda: bool(told))
    assert committed(consumer, topic) == 2  # a program may go back
    consumer.close()
    assert committed(world.consumer(conf), topic) == 2  # closing commits nothing more


def test_stored_offsets_are_what_is_committed(world: World) -> None:
    topic, group = world.topic(), fresh("group")
    world.send(topic, *"abc")
    consumer = subscribed(world, world.conf(group, enable_auto_offset_store=False), topic)
    messages = read(consumer, 3)
    consumer.store_offsets(message=messages[0])
    consumer.close()
    again = subscribed(world, world.conf(group, enable_auto_offset_store=False), topic)
    assert values(read(again, 2)) == ["b", "c"]
    again.store_offsets(offsets=[TopicPartition(topic, 0, 2)])
    assert [each.offset for each in again.commit(asynchronous=False)] == [2]


def test_a_transaction_carries_the_offsets(world: World) -> None:
    topic, out, group = world.topic(), world.topic(), fresh("group")
    world.send(topic, *"abc")
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": world.bootstrap_servers, "transactional.id": fresh("transaction")}
    )
    producer.init_transactions(20)
    consumer = subscribed(world, world.conf(group, enable_auto_commit=False), topic)
    for end in ("commit", "abort"):
        (message,) = read(consumer, 1)
        producer.begin_transaction()
        producer.produce(out, message.value())
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 20
        )
        producer.commit_transaction(20) if end == "commit" else producer.abort_transaction(20)
    assert committed(consumer, topic) == 1
    consumer.seek(TopicPartition(topic, 0, 1))
    assert values(read(consumer, 2)) == ["b", "c"]
    reader = world.consumer(world.conf())
    reader.subscribe([out])
    assert values(read(reader, 1)) == ["a"]


# ── messages that fail ────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_message_comes_again_in_place_and_its_key_waits(mesh_world: World) -> None:
    world, told = mesh_world, []
    topic = world.topic()
    for key, value in (("k", "1"), ("k", "2"), ("other", "3"), ("k", "4")):
        world.send(topic, value, key=key)
    consumer = subscribed(world, world.conf(), topic, retry=QUICK)
    while len(told) < 6:
        (message,) = read(consumer, 1)
        told.append((message.value().decode(), message.attempt, message.offset()))
        with message.settling():
            if message.value() == b"1" and message.attempt < 3:
                raise RuntimeError("not yet")
    of_key = [each[0] for each in told if each[0] != "3"]
    assert of_key == ["1", "1", "1", "2", "4"]
    assert [each[1] for each in told if each[0] == "1"] == [1, 2, 3]
    assert told.index(("3", 1, 2)) < told.index(("1", 3, 0))


def test_a_commit_never_passes_what_waits_for_its_next_attempt(mesh_world: World) -> None:
    world = mesh_world
    topic = world.topic()
    for key, value in (("k", "1"), ("a", "2"), ("b", "3")):
        world.send(topic, value, key=key)
    conf = world.conf(enable_auto_commit=False)
    consumer = subscribed(world, conf, topic, retry=Retry(attempts=3, backoff=1.0, max_backoff=1.0))
    first, second, third = [*_take_first_and_fail(consumer), *read(consumer, 2)]
    assert values([first, second, third]) == ["1", "2", "3"]
    consumer.commit(message=third, asynchronous=False)
    assert committed(consumer, topic) == 0
    assert [each.offset for each in consumer.position([TopicPartition(topic, 0)])] == [0]
    (again,) = read(consumer, 1)
    assert (again.value(), again.attempt) == (b"1", 2)
    consumer.commit(message=again, asynchronous=False)
    assert committed(consumer, topic) == 3  # what was said of the others counts now


def _take_first_and_fail(consumer: Any) -> list[Any]:
    (message,) = read(consumer, 1)
    message.retry(after=0.5)
    return [message]


def test_a_held_message_is_not_committed_over(mesh_world: World) -> None:
    world = mesh_world
    topic = world.topic()
    world.send(topic, *"ab")
    consumer = subscribed(world, world.conf(enable_auto_commit=False), topic)
    (first,) = read(consumer, 1)
    first.hold()
    (second,) = read(consumer, 1)
    for commit in (lambda: consumer.commit(), lambda: consumer.commit(message=second)):
        with pytest.raises(FailedPrecondition, match=r"the message at 0 is not settled; .*or commit up to 0"):
            commit()
    with first.settling():
        pass
    consumer.commit(message=second, asynchronous=False)
    assert committed(consumer, topic) == 2


@pytest.mark.parametrize("commits", ["auto", "message", "offsets", "all"])
def test_a_parked_message_comes_again_under_its_own_topic(mesh_world: World, commits: str) -> None:
    world, told = mesh_world, []
    topic, group = world.topic(2), fresh("group")
    conf = world.conf(
        group,
        enable_auto_commit=commits == "auto",
        auto_offset_reset="latest",
        on_commit=lambda error, places: told.extend(places),
    )
    assigned: list[TopicPartition] = []
    consumer = world.consumer(conf, ordering="none", retry=QUICK)
    consumer.subscribe([topic], on_assign=lambda _, places: assigned.extend(places))
    poll_until(consumer, lambda: len(consumer.position(consumer.assignment())) == 2)
    assert nothing_comes(consumer, 0.5)  # "latest" is found
    world.send(topic, *(f"{n}" for n in range(8)), key="k")
    came = []
    while len(came) < 9:
        (message,) = read(consumer, 1)
        came.append((message.value().decode(), message.attempt))
        assert message.topic() == topic
        with message.settling():
            if came[-1] == ("2", 1):
                raise RuntimeError("not yet")
        match commits:
            case "message":
                consumer.commit(message=message, asynchronous=False)
            case "offsets":
                place = TopicPartition(message.topic(), message.partition(), message.offset() + 1)
                consumer.commit(offsets=[place], asynchronous=False)
            case "all":
                consumer.commit(asynchronous=False)
    assert sorted(came) == sorted([*((f"{n}", 1) for n in range(8)), ("2", 2)])
    retry_topic = f"{world.mesh.service}.v1.from.{topic}.retry"
    shown = {each.topic for each in [*assigned, *consumer.assignment(), *told]}
    assert shown == {topic}
    assert retry_topic not in consumer.list_topics(timeout=10).topics
    consumer.close()
    again = world.consumer(conf, ordering="none")
    partition = message.partition()
    assert committed(again, topic, partition) == 8
    assert committed(again, retry_topic, partition) == 1
    again.subscribe([topic])
    assert nothing_comes(again, 1.0)


def test_an_offset_that_a_held_retry_has_as_well_means_the_topic_s_own(mesh_world: World) -> None:
    world, topic, group = mesh_world, mesh_world.topic(), fresh("group")
    world.send(topic, *"ab", key="k")
    conf = world.conf(group, enable_auto_commit=False)
    consumer = world.consumer(conf, ordering="none", retry=QUICK)
    consumer.subscribe([topic])
    for _ in range(2):
        (message,) = read(consumer, 1)
        with message.settling():
            raise RuntimeError("not yet")
    retried: list[Any] = []
    while len(retried) < 2:
        (message,) = read(consumer, 1)
        message.hold()
        retried.append(message)
    assert [(message.offset(), message.attempt) for message in retried] == [(0, 2), (1, 2)]
    (place,) = consumer.commit(offsets=[TopicPartition(topic, 0, 2)], asynchronous=False)
    assert (place.topic, place.offset) == (topic, 2)
    retry_topic = f"{world.mesh.service}.v1.from.{topic}.retry"
    assert committed(consumer, retry_topic) < 0
    for message in retried:
        with message.settling():
            pass
    consumer.commit(message=retried[1], asynchronous=False)
    assert committed(consumer, retry_topic) == 2


async def test_an_exhausted_message_is_kept_with_its_bytes(
    mesh_world: World, dead_letters: DeadLetters
) -> None:
    world = mesh_world
    topic = world.topic(6)
    world.send(topic, "poor", "good", key="k")
    consumer = subscribed(world, world.conf(), topic, retry=Retry(attempts=2, backoff=0.01, max_backoff=0.01))
    for _ in range(2):
        (message,) = read(consumer, 1)
        with message.settling():
            raise ValueError("never")
    assert values(read(consumer, 1)) == ["good"]
    letter = await dead_letters.next(f"{world.mesh.service}.v1.from.{topic}")
    assert letter.value == b"poor"
    assert "never" in str(letter.envelope.status_message)
    with pytest.raises(FailedPrecondition, match="settled already"):
        message.dead_letter("again")


def test_seek_begins_anew(mesh_world: World) -> None:
    world = mesh_world
    topic = world.topic()
    world.send(topic, *"ab", key="k")
    consumer = subscribed(world, world.conf(), topic, retry=Retry(attempts=3))
    (message,) = read(consumer, 1)
    message.retry(after=30.0)  # not by the back-off alone, whose jitter begins at nothing
    assert nothing_comes(consumer, 0.5)
    consumer.seek(TopicPartition(topic, 0, 0))
    assert [(each.value(), each.attempt) for each in read(consumer, 2)] == [(b"a", 1), (b"b", 1)]
    held = world.consumer(world.conf())
    held.subscribe([topic])
    (message,) = read(held, 1)
    message.hold()
    held.seek(TopicPartition(topic, 0, 0))
    with pytest.raises(Aborted, match="comes again"):
        message.retry()


def test_an_exception_on_its_way_leaves_the_last_message_to_come_again(mesh_world: World) -> None:
    world = mesh_world
    topic, group = world.topic(), fresh("group")
    world.send(topic, *"ab")

    def program() -> None:
        with world.consumer(world.conf(group)) as consumer:
            consumer.subscribe([topic])
            read(consumer, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        program()
    again = subscribed(world, world.conf(group), topic)
    assert values(read(again, 1)) == ["b"]


def test_paused_partitions_give_no_retries(mesh_world: World) -> None:
    world = mesh_world
    topic = world.topic()
    world.send(topic, *"ab", key="k")
    consumer = subscribed(world, world.conf(), topic, retry=QUICK)
    (message,) = read(consumer, 1)
    message.retry()
    places = [TopicPartition(topic, 0)]
    consumer.pause(places)
    assert nothing_comes(consumer, 0.6)
    consumer.resume(places)
    assert [(each.value(), each.attempt) for each in read(consumer, 2)] == [(b"a", 2), (b"b", 1)]


def test_with_assign_alone_retries_are_made_in_place(mesh_world: World) -> None:
    world = mesh_world
    topic = world.topic()
    world.send(topic, *"ab", key="k")
    consumer = world.consumer(world.conf(), ordering="none", retry=QUICK)
    consumer.assign([TopicPartition(topic, 0, 0)])
    (message,) = read(consumer, 1)
    with message.settling():
        raise RuntimeError("not yet")
    assert sorted((each.value(), each.attempt, each.offset()) for each in read(consumer, 2)) == [
        (b"a", 2, 0),
        (b"b", 1, 1),
    ]


def test_a_batch_has_no_two_messages_of_a_key(mesh_world: World) -> None:
    world = mesh_world
    topic = world.topic()
    for n in range(30):
        world.send(topic, f"{n}", key=f"{n % 3}")
    consumer = subscribed(world, world.conf(), topic)
    came: list[Any] = []
    while len(came) < 30:
        batch = consumer.consume(10, timeout=3)  # what waits for the next batch is not waited for
        assert len({message.key() for message in batch}) == len(batch)
        came += batch
    for key in range(3):
        assert [int(each.value()) for each in came if each.key() == b"%d" % key] == list(range(key, 30, 3))
