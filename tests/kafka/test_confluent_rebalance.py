"""Partitions that come and go while programs read: callbacks as ever, and nothing lost of what is not settled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from broker_mesh import Retry
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Aborted
from broker_mesh_adapters.confluent_kafka import mixing
from tests.support.groups import shorten_sessions
from tests.support.names import fresh
from tests.support.plain_and_wrapped import World, poll_until, read, values, worlds
from tests.support.processes import Processes, wait_for_line

PROTOCOLS: dict[str, dict[str, Any]] = {
    "eager": {"partition_assignment_strategy": "range"},
    "cooperative": {"partition_assignment_strategy": "cooperative-sticky"},
    "consumer": {"group_protocol": "consumer"},
}


@pytest.fixture(params=["plain", "wrapped"])
def world(request: pytest.FixtureRequest, kafka: EmbeddedKafka) -> Iterator[World]:
    yield from worlds(request.param, kafka.bootstrap_servers)


@pytest.fixture
def mesh_world(kafka: EmbeddedKafka) -> Iterator[World]:
    yield from worlds("wrapped", kafka.bootstrap_servers)


def poll_both(first: Any, second: Any, condition: Callable[[], bool], patience: float = 40.0) -> None:
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        for consumer in (first, second):
            message = consumer.poll(0.1)
            assert message is None or message.error() is None


@pytest.mark.parametrize("protocol", ["eager", "consumer"])
def test_callbacks_tell_of_the_programs_partitions(world: World, protocol: str) -> None:
    topic, group = world.topic(2), fresh("group")
    told: list[tuple[str, list[tuple[str, int]]]] = []

    def note(what: str) -> Callable[[Any, list[TopicPartition]], None]:
        def callback(consumer: Any, partitions: list[TopicPartition]) -> None:
            assert consumer is first
            if partitions:
                told.append((what, sorted((each.topic, each.partition) for each in partitions)))

        return callback

    first = world.consumer(world.conf(group, **PROTOCOLS[protocol]))
    first.subscribe([topic], on_assign=note("assigned"), on_revoke=note("revoked"))
    poll_until(first, lambda: len(first.assignment()) == 2)
    assert told == [("assigned", [(topic, 0), (topic, 1)])]
    second = world.consumer(world.conf(group, **PROTOCOLS[protocol]))
    second.subscribe([topic])
    poll_both(first, second, lambda: len(first.assignment()) == len(second.assignment()) == 1)
    assert told[1][0] == "revoked"
    first.close()
    assert told[-1][0] == "revoked"
    assert {each[0] for what in told for each in what[1]} == {topic}


@pytest.mark.parametrize("protocol", ["eager", "cooperative"])
def test_a_callback_assigns_from_other_offsets(world: World, protocol: str) -> None:
    topic = world.topic()
    world.send(topic, *"abcd")

    def from_the_third(consumer: Any, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            each.offset = 2
        (consumer.assign if protocol == "eager" else consumer.incremental_assign)(partitions)

    def go(consumer: Any, partitions: list[TopicPartition]) -> None:
        if protocol == "eager":
            consumer.unassign()
        else:
            consumer.incremental_unassign(partitions)

    consumer = world.consumer(world.conf(**PROTOCOLS[protocol]))
    consumer.subscribe([topic], on_assign=from_the_third, on_revoke=go)
    assert values(read(consumer, 2)) == ["c", "d"]
    assert [each.topic for each in consumer.assignment()] == [topic]
    consumer.close()


def test_a_callback_that_raises_is_heard_by_poll(world: World) -> None:
    topic = world.topic()
    world.send(topic, "a")

    def fail(*_: Any) -> None:
        raise LookupError("no offsets of mine")

    consumer = world.consumer(world.conf())
    consumer.subscribe([topic], on_assign=fail)
    with pytest.raises(LookupError, match="no offsets of mine"):
        poll_until(consumer, lambda: False)
    assert values(read(consumer, 1)) == ["a"]


@pytest.mark.parametrize("protocol", ["cooperative", "consumer"])
def test_what_is_not_settled_comes_to_the_new_owner(mesh_world: World, protocol: str) -> None:
    world = mesh_world
    topic, group = world.topic(2), fresh("group")
    for number in range(2):
        world.send(topic, f"{number}", partition=number)
    first = world.consumer(world.conf(group, **PROTOCOLS[protocol]))
    first.subscribe([topic])
    held = {message.partition(): message for message in read_holding(first, 2)}
    second = world.consumer(world.conf(group, **PROTOCOLS[protocol]))
    second.subscribe([topic])
    came: list[Any] = []
    until = time.monotonic() + 40
    while not came:
        assert time.monotonic() < until
        first.poll(0.1)
        message = second.poll(0.1)
        came += [message] if message is not None else []
    moved = came[0].partition()
    assert values(came) == [f"{moved}"]
    assert came[0].attempt == 1
    lost = held[moved]
    with pytest.raises(Aborted, match="comes again"):
        lost.dead_letter("mine?")
    with pytest.raises(KafkaException) as refused:
        first.commit(message=lost, asynchronous=False)
    assert refused.value.args[0].code() == KafkaError.ILLEGAL_GENERATION
    with pytest.raises(KafkaException):
        first.commit(offsets=[TopicPartition(topic, moved, 0)], asynchronous=False)


def read_holding(consumer: Any, count: int) -> list[Any]:
    messages = []
    for _ in range(count):
        (message,) = read(consumer, 1)
        message.hold()
        messages.append(message)
    return messages


def test_a_member_that_subscribes_to_the_retries_is_warned_of(
    mesh_world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = mesh_world
    monkeypatch.setattr(mixing, "_SETTLED_SECONDS", 0.5)
    topic, group = world.topic(), fresh("group")
    wrapped = world.consumer(world.conf(group))
    wrapped.subscribe([topic])
    poll_until(wrapped, lambda: len(wrapped.assignment()) == 1)
    retries = f"{world.mesh.service}.v1.from.{topic}.retry"
    native = confluent_kafka.Consumer(world.conf(group, client_id="native"))
    with closing(native):
        native.subscribe([retries])
        poll_both(wrapped, native, lambda: "each is handled twice" in caplog.text)
    assert "(native)" in caplog.text
    assert group in caplog.text


def test_what_is_being_settled_is_settled_before_partitions_go(mesh_world: World) -> None:
    world = mesh_world
    topic, group = world.topic(), fresh("group")
    world.send(topic, *(f"{n}" for n in range(50)))
    consumer = world.consumer(world.conf(group))
    consumer.subscribe([topic])
    for message in read_holding(consumer, 50):
        message.dead_letter("all of them")
    consumer.close()
    again = world.consumer(world.conf(group))
    (place,) = again.committed([TopicPartition(topic, 0)], timeout=10)
    assert place.offset == 50


def test_a_pattern_finds_retries_too(mesh_world: World) -> None:
    world = mesh_world
    topic = world.topic()
    world.send(topic, *"ab")
    conf = world.conf(topic_metadata_refresh_interval_ms=300)
    consumer = world.consumer(conf, ordering="none", retry=Retry(attempts=3, backoff=0.05))
    consumer.subscribe([f"^{topic}$"])
    (message,) = read(consumer, 1)
    message.retry()
    came = {(each.value(), each.attempt, each.topic()) for each in read(consumer, 2)}
    assert came == {(b"b", 1, topic), (b"a", 2, topic)}
    assert {each.topic for each in consumer.assignment()} == {topic}


@pytest.mark.parametrize(("ordering", "commits"), [("key", "commit"), ("none", "auto")])
def test_killed_consumers_lose_nothing(
    kafka: EmbeddedKafka, processes: Processes, tmp_path: Path, ordering: str, commits: str
) -> None:
    world = next(worlds("wrapped", kafka.bootstrap_servers))
    topic, group, done = world.topic(4), fresh("group"), tmp_path / "done"
    shorten_sessions(kafka.bootstrap_servers, group)
    count, keys = 1000, 16
    for key in range(keys):
        world.send(topic, *(f"{n}" for n in range(key, count, keys)), key=f"k{key}")

    def start() -> Any:
        process = processes.start(
            "tests.support.reading_process",
            *(kafka.bootstrap_servers, world.mesh.service, group, topic, str(done), ordering, commits),
        )
        wait_for_line(process, "ready")
        return process

    def lines() -> list[list[str]]:
        return [line.split() for line in done.read_text().splitlines()] if done.exists() else []

    def wait_for(number: int) -> None:
        until = time.monotonic() + 60
        while len({line[1] for line in lines()}) < number:
            assert time.monotonic() < until, f"{len(lines())} lines"
            time.sleep(0.05)

    first, second = start(), start()
    wait_for(150)
    first.kill()
    wait_for(400)
    first = start()
    second.kill()
    wait_for(count)
    assert {int(line[1]) for line in lines()} == set(range(count))
    if ordering == "key":
        # Each key's messages come in order; after a kill some come again from an earlier one on, never past one.
        for key in range(keys):
            seen: list[int] = []
            for number in (int(line[1]) for line in lines() if line[0] == f"k{key}"):
                assert not seen or number <= max(seen) + keys, f"{number} came before its turn"
                seen.append(number)
