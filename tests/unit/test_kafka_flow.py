"""Flow control: which partitions rest."""

from __future__ import annotations

from typing import Any, cast

from confluent_kafka import Consumer, TopicPartition

from broker_mesh.kafka.flow import Flow
from broker_mesh.kafka.positions import Partition
from broker_mesh.message import Record

A, B, C = ("a", 0), ("a", 1), ("b", 0)
ALL = {A, B, C}


class Paused:
    """The consumer's own view."""

    def __init__(self) -> None:
        self.now: set[Partition] = set()

    def pause(self, places: list[TopicPartition]) -> None:
        self.now |= {(place.topic, place.partition) for place in places}

    def resume(self, places: list[TopicPartition]) -> None:
        self.now -= {(place.topic, place.partition) for place in places}


def resting(flow: Flow, paused: Paused, assigned: set[Partition] = ALL) -> set[Partition]:
    flow.control(cast(Consumer, paused), assigned)
    assert set(flow.paused) == paused.now
    return paused.now


def deliver(flow: Flow, topic: str, number: int) -> None:
    flow.count([cast(Record, Record(topic, 0, offset, 0, None, None, [])) for offset in range(number)])


def test_a_full_topic_rests_until_half_of_it_is_finished() -> None:
    flow, paused = Flow(["a", "b"], max_in_flight=4), Paused()
    deliver(flow, "a", 3)
    assert resting(flow, paused) == set()
    deliver(flow, "a", 1)
    assert resting(flow, paused) == {A, B}
    flow.finished("a", 1)
    assert resting(flow, paused) == {A, B}
    flow.finished("a", 1)
    assert resting(flow, paused) == set()
    flow.finished("a", -2)
    assert resting(flow, paused) == {A, B}
    assert flow.delivered == {"a": 4, "b": 0}


def test_what_is_held_rests_and_after_a_stop_everything() -> None:
    flow, paused = Flow(["a", "b"], max_in_flight=4), Paused()
    flow.hold([B])
    assert resting(flow, paused) == {B}
    flow.hold([])
    assert resting(flow, paused) == set()
    flow.stop()
    assert resting(flow, paused) == ALL


def test_a_partition_that_was_given_up_is_paused_anew_and_a_hold_stays_the_loop_s() -> None:
    flow, paused = Flow(["a", "b"], max_in_flight=4), Paused()
    flow.hold([A])
    assert resting(flow, paused) == {A}
    flow.forget([A])
    paused.now.clear()  # it comes back unpaused
    assert resting(flow, paused, {B, C}) == set()
    assert resting(flow, paused) == {A}


def test_nothing_that_is_not_assigned_is_told_to_librdkafka() -> None:
    flow = Flow(["a", "b"], max_in_flight=4)

    class Strict(Paused):
        def resume(self, places: list[TopicPartition]) -> None:
            assert not [place for place in places if (place.topic, place.partition) == B]
            super().resume(places)

    paused: Any = Strict()
    flow.hold([A, B])
    flow.control(paused, ALL)
    flow.hold([])
    flow.control(paused, {A, C})
    assert paused.now == {B}
