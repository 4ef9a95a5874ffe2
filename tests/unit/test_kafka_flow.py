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
    for _ in range(2):  # what goes on does so one first, and then the others
        flow.control(cast(Consumer, paused), assigned)
    assert set(flow.paused) == paused.now
    return paused.now


def deliver(flow: Flow, topic: str, number: int) -> None:
    flow.count([cast(Record, Record(topic, 0, offset, 0, None, None, [])) for offset in range(number)])


def test_a_full_topic_rests_until_half_of_it_is_finished() -> None:
    flow, paused = Flow(["a", "b"], concurrency=2, max_in_flight=4), Paused()
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


def test_a_topic_that_rests_for_what_waits_lacks_room_until_it_goes_on() -> None:
    """Or what holds it up would be left where it is, and nothing new ever come."""
    flow, paused = Flow(["a"], concurrency=50, max_in_flight=100), Paused()
    deliver(flow, "a", 100)
    assert resting(flow, paused, {A}) == {A}
    flow.finished("a", 45)
    assert resting(flow, paused, {A}) == {A}
    assert flow.lacks_room("a", waiting=51)
    assert not flow.lacks_room("a", waiting=50), "what is in work makes the room"
    flow.finished("a", 5)
    assert resting(flow, paused, {A}) == set()
    assert not flow.lacks_room("a", waiting=50)


def test_what_is_held_rests_and_after_a_stop_everything() -> None:
    flow, paused = Flow(["a", "b"], concurrency=2, max_in_flight=4), Paused()
    flow.hold([B])
    assert resting(flow, paused) == {B}
    flow.hold([])
    assert resting(flow, paused) == set()
    flow.stop()
    assert resting(flow, paused) == ALL


def test_a_partition_that_was_given_up_is_paused_anew_and_a_hold_stays_the_loop_s() -> None:
    flow, paused = Flow(["a", "b"], concurrency=2, max_in_flight=4), Paused()
    flow.hold([A])
    assert resting(flow, paused) == {A}
    flow.forget([A])
    paused.now.clear()  # it comes back unpaused
    assert resting(flow, paused, {B, C}) == set()
    assert resting(flow, paused) == {A}


def test_nothing_that_is_not_assigned_is_told_to_librdkafka() -> None:
    flow = Flow(["a", "b"], concurrency=2, max_in_flight=4)

    class Strict(Paused):
        def resume(self, places: list[TopicPartition]) -> None:
            assert not [place for place in places if (place.topic, place.partition) == B]
            super().resume(places)

    paused: Any = Strict()
    flow.hold([A, B])
    flow.control(paused, ALL)
    flow.hold([])
    flow.control(paused, {A, C})
    flow.control(paused, {A, C})
    assert paused.now == {B}


def test_the_window_follows_the_handlers_and_says_when_it_is_nearly_full() -> None:
    flow, paused = Flow(["a"], concurrency=2, max_in_flight=100), Paused()
    assert flow.windows == {"a": 4}
    deliver(flow, "a", 2)
    assert not flow.lacks_room("a", waiting=0)
    deliver(flow, "a", 2)
    assert flow.lacks_room("a", waiting=0)
    assert resting(flow, paused, {A}) == {A}
    flow.adapt(1.0, idle=False)
    flow.finished("a", 4)
    assert resting(flow, paused, {A}) == set()
    deliver(flow, "a", 36)
    resting(flow, paused, {A})
    flow.finished("a", 36)
    resting(flow, paused, {A})
    flow.adapt(2.0, idle=False)
    assert flow.windows == {"a": 40}  # as many as were finished within the second
    flow.adapt(4.0, idle=False)
    assert flow.windows == {"a": 40}  # it has kept nothing out since


def test_idle_handlers_behind_a_full_window_make_it_grow() -> None:
    flow, paused = Flow(["a"], concurrency=2, max_in_flight=100), Paused()
    deliver(flow, "a", 4)
    for number in range(6):
        resting(flow, paused, {A})
        flow.adapt(0.2 * number, idle=True)
        deliver(flow, "a", flow.windows["a"] - (flow.delivered["a"]))
    assert flow.windows == {"a": 100}


def test_a_batch_is_as_large_as_the_smallest_room_that_is_left_but_never_tiny() -> None:
    flow, paused = Flow(["a", "b"], concurrency=100, max_in_flight=1000), cast(Consumer, Paused())
    assert flow.control(paused, ALL) == 200
    deliver(flow, "a", 120)
    assert flow.control(paused, ALL) == 80
    deliver(flow, "a", 79)
    assert flow.control(paused, ALL) == 50
    deliver(flow, "a", 1)
    assert flow.control(paused, ALL) == 200  # it rests; the other has room


def test_each_partition_begins_in_its_turn_since_the_first_may_fill_the_window() -> None:
    flow, paused = Flow(["a"], concurrency=2, max_in_flight=4), Paused()
    three = {("a", number) for number in range(3)}
    began = []
    for _ in range(6):
        deliver(flow, "a", 4)
        assert resting(flow, paused, three) == three
        flow.finished("a", 2)
        flow.control(cast(Consumer, paused), three)
        began += sorted(three - paused.now)
        flow.finished("a", 2)
    assert began == [("a", 1), ("a", 2), ("a", 0)] * 2
    flow.control(cast(Consumer, paused), three)
    assert paused.now == set()
