"""Messages that a wrapped consumer has ready and the program has not seen: nothing that it says covers them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition

from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Aborted
from tests.support.names import fresh
from tests.support.plain_and_wrapped import World, poll_until, read, values, worlds


@pytest.fixture
def world(kafka: EmbeddedKafka) -> Iterator[World]:
    yield from worlds("wrapped", kafka.bootstrap_servers)


@pytest.fixture(params=["plain", "wrapped"])
def either(request: pytest.FixtureRequest, kafka: EmbeddedKafka) -> Iterator[World]:
    yield from worlds(request.param, kafka.bootstrap_servers)


def once_taken(topic: str, act: Callable[[], None]) -> Callable[[str], None]:
    """A `stats_cb` that acts once the client has given out the topic's first message, in the midst of `consume`."""
    acted = []

    def told(statistics: str) -> None:
        partitions = json.loads(statistics)["topics"].get(topic, {}).get("partitions", {})
        if not acted and partitions.get("0", {}).get("app_offset", -1) >= 1:
            acted.append(True)
            act()

    return told


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("commits", ["auto", "on_revoke"])
def test_what_an_interrupted_consume_had_ready_comes_again(world: World, commits: str) -> None:
    topic, group = world.topic(), fresh("group")
    world.send(topic, "a")
    conf = world.conf(
        group,
        enable_auto_commit=commits == "auto",
        statistics_interval_ms=100,
        stats_cb=once_taken(topic, interrupt),
    )
    consumer = world.consumer(conf)
    consumer.subscribe([topic], on_revoke=commit_all if commits == "on_revoke" else None)
    try:
        consumer.consume(10, timeout=30)
        pytest.fail("it was not interrupted")
    except KeyboardInterrupt:
        pass
    consumer.close()
    again = world.consumer(world.conf(group))
    again.subscribe([topic])
    assert values(read(again, 1)) == ["a"]


def commit_all(consumer: Any, _: list[TopicPartition]) -> None:
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as nothing:
        assert nothing.args[0].name() == "_NO_OFFSET"  # noqa: PT017


@pytest.mark.parametrize("says", ["commit", "position"])
def test_a_commit_in_a_callback_does_not_cover_what_consume_has_ready(world: World, says: str) -> None:
    topic, seen = world.topic(), []
    world.send(topic, "a")
    place = TopicPartition(topic, 0)

    def commit() -> None:
        if says == "commit":
            commit_all(consumer, [place])
        else:
            consumer.commit(offsets=consumer.position([place]), asynchronous=False)
        seen.extend(consumer.committed([place], timeout=10))

    conf = world.conf(
        enable_auto_commit=False, statistics_interval_ms=100, stats_cb=once_taken(topic, commit)
    )
    consumer = world.consumer(conf)
    consumer.subscribe([topic])
    came: list[Any] = []
    while not seen:
        came += consumer.consume(10, timeout=1)
    assert values(came) == ["a"]
    assert seen[0].offset < 1
    consumer.commit(asynchronous=False)
    assert consumer.committed([place], timeout=10)[0].offset == 1


def test_callbacks_that_raise_lose_no_message(world: World) -> None:
    topic, raised, count = world.topic(), [], 3000
    world.send(topic, *(f"{n}" for n in range(count)))
    came: list[Any] = []

    def fail(_: str) -> None:
        if len(came) < count:
            raised.append(True)
            raise LookupError

    consumer = world.consumer(world.conf(statistics_interval_ms=1, stats_cb=fail))
    consumer.subscribe([topic])
    until = time.monotonic() + 60
    while len(came) < count:
        assert time.monotonic() < until, f"{len(came)} messages came"
        with suppress(LookupError):
            came += consumer.consume(100, timeout=0.1)
    assert raised
    assert values(came) == [f"{n}" for n in range(count)]


def test_a_program_commits_as_it_is_closed(either: World) -> None:
    world = either
    topic, group = world.topic(), fresh("group")
    world.send(topic, *"ab")
    told = []

    def commit(consumer: Any, places: list[TopicPartition]) -> None:
        told.extend(consumer.commit(asynchronous=False))

    consumer = world.consumer(world.conf(group, enable_auto_commit=False))
    consumer.subscribe([topic], on_revoke=commit)
    read(consumer, 1)
    consumer.close()
    assert [(each.topic, each.offset) for each in told] == [(topic, 1)]
    again = world.consumer(world.conf(group))
    again.subscribe([topic])
    assert values(read(again, 1)) == ["b"]


def test_a_callback_that_assigns_nothing_is_obeyed(either: World) -> None:
    told = []

    def refuse(consumer: Any, partitions: list[TopicPartition]) -> None:
        told.extend(partitions)
        consumer.unassign()

    topic = either.topic()
    consumer = either.consumer(either.conf())
    consumer.subscribe([topic], on_assign=refuse)
    poll_until(consumer, lambda: bool(told))
    assert consumer.assignment() == []


def test_a_callback_that_raises_while_closing_leaves_nothing_behind(world: World) -> None:
    topic = world.topic()
    world.send(topic, "a")

    def fail(*_: Any) -> None:
        raise LookupError("no offsets of mine")

    consumer = world.consumer(world.conf())
    consumer.subscribe([topic], on_revoke=fail)
    (message,) = read(consumer, 1)
    message.hold()
    with pytest.raises(LookupError, match="no offsets of mine"):
        consumer.close()
    with pytest.raises(Aborted):
        message.retry()
    consumer.close()
    with pytest.raises(RuntimeError, match="closed"):
        consumer.poll(0)
