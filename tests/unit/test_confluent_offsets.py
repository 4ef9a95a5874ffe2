"""What a wrapped consumer of confluent_kafka decides without Kafka: its configuration, its topics, shown retries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from broker_mesh.adapter import State
from broker_mesh.errors import FailedPrecondition, SettingsError
from broker_mesh_adapters.confluent_kafka import consumer_conf
from broker_mesh_adapters.confluent_kafka.shown import Shown
from broker_mesh_adapters.confluent_kafka.subscription import Subscription

PLACE = ("orders", 0)
RETRIES = ("desk.v1.from.orders.retry", 0)


def retried(offset: int, state: State = State.SETTLED) -> Any:
    return SimpleNamespace(
        topic="orders",
        state=state,
        record=SimpleNamespace(topic=RETRIES[0], partition=0, offset=offset),
    )


def test_a_commit_covers_the_retries_that_were_shown_before() -> None:
    shown = Shown()
    shown.note(retried(3), after=100)
    shown.note(retried(4), after=101)
    assert shown.covered(PLACE, 100) == {}  # of what was shown before the first of them
    assert shown.covered(PLACE, 101) == {RETRIES: 4}
    assert shown.covered(PLACE, 200) == {RETRIES: 5}
    assert shown.covered(("orders", 1), 200) == {}
    assert shown.all() == {RETRIES: 5}


def test_what_is_committed_is_forgotten() -> None:
    shown = Shown()
    for offset in (3, 4):
        shown.note(retried(offset), after=100)
    shown.forget(RETRIES, 4)
    assert shown.place_of(PLACE, 3) is None
    assert shown.place_of(PLACE, 4) == RETRIES
    shown.forget(RETRIES)
    assert shown.all() == {}


def test_only_what_the_program_has_is_sought_elsewhere() -> None:
    shown = Shown()
    shown.note(retried(3), after=100)
    shown.note(retried(4, State.HELD), after=100)
    assert shown.place_of(PLACE, 3, in_hand=True) is None
    assert shown.place_of(PLACE, 4, in_hand=True) == RETRIES


def test_seeking_back_brings_the_retries_that_were_shown_since() -> None:
    shown = Shown()
    for offset, after in ((3, 90), (4, 100), (5, 110)):
        shown.note(retried(offset), after=after)
    assert shown.since(PLACE, 100) == {RETRIES: 4}
    assert shown.since(PLACE, 111) == {}


def operation_of(topic: str) -> str:
    is_retry = topic.endswith(".retry")
    return topic.removeprefix("desk.v1.from.").removesuffix(".retry") if is_retry else topic


def subscription(*topics: str) -> Subscription:
    made = Subscription("desk", lambda topic: f"desk.v1.from.{topic}.retry", operation_of)
    if topics:
        made.choose(topics)
    return made


def names(made: Subscription, *topics: str) -> list[str]:
    return [each.topic for each in made.shown([TopicPartition(topic, 0) for topic in topics])]


def test_the_meshs_own_topics_are_hidden() -> None:
    found = ("orders", RETRIES[0], "desk.v1.from.orders.dead", "other.v1.from.orders.dead")
    assert names(subscription("orders"), *found) == [found[0], *found[2:]]
    assert names(subscription("^.*"), *found) == ["orders", "other.v1.from.orders.dead"]
    assert names(subscription("^.*", found[2]), *found) == ["orders", *found[2:]]
    assert names(subscription(), *found) == list(found)  # it assigns by itself, and knows what it does


def test_topics_of_retries_are_not_subscribed_to() -> None:
    with pytest.raises(FailedPrecondition, match="subscribe to 'orders', and they come with it"):
        subscription(RETRIES[0])


@pytest.mark.parametrize(
    ("conf", "commits_itself", "program_stores", "incremental"),
    [
        ({}, True, False, False),
        ({"enable.auto.commit": "false"}, False, False, False),
        ({"enable.auto.offset.store": False}, True, True, False),
        ({"enable.auto.commit": 0, "group.protocol": "consumer"}, False, False, True),
        ({"partition.assignment.strategy": "cooperative-sticky"}, True, False, True),
    ],
)
def test_the_configuration_says_who_commits(
    conf: dict[str, Any], commits_itself: bool, program_stores: bool, incremental: bool
) -> None:
    said = consumer_conf.read(conf)
    assert said[2:] == (commits_itself, program_stores, incremental)


def test_a_finished_client_must_not_commit_what_is_not_settled() -> None:
    consumer_conf.check_wrapped(consumer_conf.read({"enable.auto.commit": False}))
    with pytest.raises(SettingsError, match=r"enable\.auto\.offset\.store=False"):
        consumer_conf.check_wrapped(consumer_conf.read({}))
