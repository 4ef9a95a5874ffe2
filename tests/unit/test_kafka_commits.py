"""Commits: what is sent, and what follows Kafka's answer."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from broker_mesh.kafka import commits as module
from broker_mesh.kafka.commits import Commits
from broker_mesh.kafka.positions import Partition, Position, Positions

A, B = ("a", 0), ("a", 1)


class Group:
    """A consumer that notes what it is to commit, and the commits of its group."""

    def __init__(self) -> None:
        self.assigned = {A: 1, B: 2}
        self.sent: list[dict[Partition, int]] = []
        self.metadata: list[dict[Partition, str]] = []
        self.first: list[set[Partition]] = []
        self.taken = 0
        self.acknowledged: list[dict[Partition, Position]] = []
        self.commits = Commits("fleet", self.assigned, self._healed, self._taken, self._first)

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self.sent.append({(place.topic, place.partition): place.offset for place in offsets})
        self.metadata.append({(place.topic, place.partition): place.metadata or "" for place in offsets})

    def send(self, *, all_failed: bool = False) -> dict[Partition, int]:
        """Send what is due; gives it."""
        before = len(self.sent)
        self.commits.send(cast(Consumer, self), all_failed=all_failed)
        return self.sent[-1] if len(self.sent) > before else {}

    def _healed(self) -> None:
        self.taken += 1

    def _taken(self, positions: Positions) -> None:
        self.acknowledged.append(dict(positions))

    def _first(self, partitions: Collection[Partition]) -> None:
        self.first.append(set(partitions))


REFUSED = KafkaError(KafkaError.REQUEST_TIMED_OUT)


def place(partition: Partition, offset: int = 0, metadata: str = "") -> TopicPartition:
    return TopicPartition(*partition, offset, metadata=metadata)


@pytest.fixture
def group() -> Group:
    return Group()


def test_the_newest_of_what_is_queued_is_sent(group: Group) -> None:
    group.commits.put({A: Position(1, 5), B: Position(2, 1)})
    group.commits.put({A: Position(1, 9)})
    group.commits.put({A: Position(1, 7)})
    assert group.send() == {A: 9, B: 1}
    assert group.send() == {}
    assert group.commits.open == 1


def test_a_position_of_an_assignment_that_is_over_is_not_sent(group: Group) -> None:
    group.commits.put({A: Position(0, 99), B: Position(2, 1), ("c", 0): Position(3, 1)})
    assert group.send() == {B: 1}


def test_first_commits_are_told_once(group: Group) -> None:
    for _ in range(2):
        group.commits.put({A: Position(1, 5)})
        group.send()
        group.commits.answered(None, [place(A, 5)])
    assert group.first == [{A}]
    assert (group.taken, group.commits.open) == (2, 0)


def test_what_kafka_refuses_is_sent_again_in_a_while_and_at_once_at_the_end(
    group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    group.commits.put({A: Position(1, 5), B: Position(2, 1)})
    group.send()
    group.commits.answered(REFUSED, [place(A, 5), place(B, 1)])
    assert "a commit of group fleet on a/0, a/1 failed" in caplog.text
    assert (group.first, group.taken) == ([], 0)
    assert group.send() == {}  # not yet
    group.commits.put({A: Position(1, 6)})
    assert group.send() == {A: 6}
    assert group.send(all_failed=True) == {A: 6, B: 1}
    group.commits.answered(REFUSED, [place(B, 1)])
    monkeypatch.setattr(module.time, "monotonic", lambda: float("inf"))
    assert group.send() == {B: 1}


def test_a_partition_that_was_given_up_is_not_committed_again(group: Group) -> None:
    group.commits.put({A: Position(1, 5)})
    group.send()
    del group.assigned[A]
    group.commits.forget([A])
    group.commits.answered(REFUSED, [place(A, 5)])
    group.assigned[A] = 3
    assert group.send(all_failed=True) == {}


def test_a_late_position_of_an_earlier_assignment_does_not_displace_what_is_to_be_sent_again(
    group: Group,
) -> None:
    group.commits.put({B: Position(2, 8)})
    group.send()
    group.commits.put({B: Position(1, 3)})
    assert group.send() == {}
    group.commits.answered(REFUSED, [place(B, 8)])
    assert group.send(all_failed=True) == {B: 8}


@pytest.mark.parametrize(
    "code", [KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.STALE_MEMBER_EPOCH]
)
def test_what_is_refused_of_who_is_no_member_ends_with_the_loss_and_never_goes_back(
    group: Group, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    group.commits.put({A: Position(1, 5)})
    group.send()
    group.commits.answered(KafkaError(code), [place(A, 5)])
    assert "unless they are another instance's by then" in caplog.text
    assert group.send(all_failed=True) == {A: 5}, "as far as is known it may still be ours"
    del group.assigned[A]
    group.commits.forget([A])
    group.commits.answered(KafkaError(code), [place(A, 5)])
    assert group.send(all_failed=True) == {}
    group.assigned[A] = 3  # ours again, and others have gone on from 5 meanwhile
    group.commits.put({A: Position(1, 5)})
    group.commits.repeat(cast(Consumer, group))
    assert group.send(all_failed=True) == {}


def test_of_one_offset_the_text_that_was_put_last_is_sent(group: Group) -> None:
    group.commits.put({A: Position(1, 5, "z")})
    group.commits.put({A: Position(1, 5, "a")})
    assert group.send() == {A: 5}
    assert group.metadata == [{A: "a"}]


def test_what_kafka_has_taken_is_told_with_its_text(group: Group) -> None:
    group.commits.put({A: Position(1, 5, "text"), B: Position(2, 1)})
    group.send()
    group.commits.answered(None, [place(A, 5, "text"), place(B, 1)])
    assert group.acknowledged == [{A: Position(1, 5, "text"), B: Position(2, 1)}]


def test_the_answer_to_a_commit_that_a_newer_one_has_followed_is_not_told(group: Group) -> None:
    for text in ("first", "second"):
        group.commits.put({A: Position(1, 5, text)})
        group.send()
    group.commits.answered(None, [place(A, 5, "first")])
    assert group.acknowledged == []
    group.commits.answered(None, [place(A, 5, "second")])
    assert group.acknowledged == [{A: Position(1, 5, "second")}]


def test_a_refused_commit_is_sent_again_with_its_text_and_told_when_it_is_taken(group: Group) -> None:
    group.commits.put({A: Position(1, 5, "text")})
    group.send()
    group.commits.answered(REFUSED, [place(A, 5, "text")])
    assert group.acknowledged == []
    assert group.send(all_failed=True) == {A: 5}
    group.commits.answered(None, [place(A, 5, "text")])
    assert group.metadata == [{A: "text"}] * 2
    assert group.acknowledged == [{A: Position(1, 5, "text")}]


def test_an_answer_after_the_partition_was_given_up_is_not_told(group: Group) -> None:
    group.commits.put({A: Position(1, 5, "text")})
    group.send()
    del group.assigned[A]
    group.commits.forget([A])
    group.commits.answered(None, [place(A, 5, "text")])
    assert group.acknowledged == []


def test_where_brokers_take_less_beside_an_offset_it_is_committed_without(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole commit is refused then, and would be for ever."""
    too_large = KafkaError(KafkaError.OFFSET_METADATA_TOO_LARGE)
    long = Position(1, 5, "x" * 1000)
    group.commits.put({A: long})
    group.send()
    group.commits.answered(too_large, [place(A, 5, long.metadata)])
    assert "set offset.metadata.max.bytes to 4096" in caplog.text
    assert group.send(all_failed=True) == {A: 5}
    assert group.metadata[-1] == {A: ""}
    group.commits.answered(None, [place(A, 5, "")])
    assert group.acknowledged == [{A: long}], "what waits for this commit would wait for ever"
    group.commits.put({A: Position(1, 6, "short")})
    group.send()
    assert group.metadata[-1] == {A: "short"}


def test_a_commit_that_was_taken_of_one_partition_shows_that_the_member_is_known(group: Group) -> None:
    """Or one topic that is gone, or forbidden, would keep a doubt about all others for ever."""
    group.commits.put({A: Position(1, 10), B: Position(2, 20)})
    group.send()
    error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    gone = SimpleNamespace(topic=A[0], partition=A[1], offset=10, metadata="", error=error)
    group.commits.answered(None, [cast(TopicPartition, gone), place(B, 20)])
    assert group.taken == 1
    assert not group.commits.unheard
    assert group.send(all_failed=True) == {A: 10}
