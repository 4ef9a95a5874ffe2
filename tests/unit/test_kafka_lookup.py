"""Offsets of partitions whose leader has just been made: asked for again, the late ones alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from broker_mesh.errors import NotFound, PermissionDenied, Unavailable
from broker_mesh.kafka import lookup
from broker_mesh.kafka.lookup import Lookup
from broker_mesh.settings import Settings

ENDS = {("t", 0): 7, ("t", 1): 7}


class Answer:
    """What a consumer tells of a partition; the real one's error can't be set."""

    def __init__(self, place: TopicPartition, offset: int, error: int | None) -> None:
        self.topic, self.partition, self.offset = place.topic, place.partition, offset
        self.error = None if error is None else KafkaError(error)


class Consumer:
    """Answers for partition 1 with errors first, one at a time; "raises" has the whole call fail with it."""

    def __init__(self, *errors: int, raises: bool = False, offset: int = 7) -> None:
        self.asked: list[list[int]] = []
        self._errors = list(errors)
        self._raises = raises
        self._offset = offset

    def offsets_for_times(self, places: list[TopicPartition], timeout: float) -> list[Answer]:
        assert timeout > 0
        self.asked.append([place.partition for place in places])
        return [self._answer(place) for place in places]

    committed = offsets_for_times

    def poll(self, timeout: float) -> None:
        assert timeout == 0

    def _answer(self, place: TopicPartition) -> Answer:
        error = self._errors.pop(0) if place.partition == 1 and self._errors else None
        if error is not None and self._raises:
            raise KafkaException(KafkaError(error))
        return Answer(place, self._offset, error)


Asking = Callable[..., Lookup]


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Asking:
    def make(consumer: Consumer, timeout: float = 10) -> Lookup:
        monkeypatch.setattr(lookup, "open_consumer", lambda *_: consumer)
        settings = Settings(bootstrap_servers="127.0.0.1:1", connect_timeout_seconds=timeout)
        return Lookup(settings, "test")

    return make


async def test_a_leader_that_does_not_know_it_yet_is_asked_again(asking: Asking) -> None:
    consumer = Consumer(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._UNKNOWN_PARTITION)
    assert await asking(consumer).ends([("t", 0), ("t", 1)]) == ENDS
    assert consumer.asked == [[0, 1], [1], [1]]


async def test_a_call_that_fails_is_made_again(asking: Asking) -> None:
    consumer = Consumer(KafkaError._TIMED_OUT, KafkaError.LEADER_NOT_AVAILABLE, raises=True)
    assert await asking(consumer).firsts([("t", 0), ("t", 1)]) == ENDS
    assert consumer.asked == [[0, 1], [0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("error", "reported"),
    [(KafkaError.NOT_LEADER_FOR_PARTITION, Unavailable), (KafkaError.UNKNOWN_TOPIC_OR_PART, NotFound)],
)
async def test_asking_again_ends(asking: Asking, error: int, reported: type[Exception]) -> None:
    with pytest.raises(reported, match="t/1"):
        await asking(Consumer(*[error] * 1000), timeout=0.1).ends([("t", 1)])


async def test_what_is_refused_is_not_asked_again(asking: Asking) -> None:
    for raises in (False, True):
        refused = Consumer(KafkaError.TOPIC_AUTHORIZATION_FAILED, raises=raises)
        with pytest.raises(PermissionDenied):
            await asking(refused).ends([("t", 1)])
        with pytest.raises(PermissionDenied):
            await asking(Consumer(KafkaError.GROUP_AUTHORIZATION_FAILED, raises=raises)).committed([("t", 1)])
        assert len(refused.asked) == 1


async def test_no_offset_and_no_error_means_that_nobody_knows_now(asking: Asking) -> None:
    with pytest.raises(Unavailable, match="nobody knows now"):
        await asking(Consumer(offset=-1), timeout=0.1).ends([("t", 1)])


async def test_committed_offsets_are_those_there_are(asking: Asking) -> None:
    assert await asking(Consumer(KafkaError.NOT_COORDINATOR)).committed([("t", 1)]) == {("t", 1): 7}
    assert await asking(Consumer(offset=-1001)).committed([("t", 0), ("t", 1)]) == {}


async def test_nothing_is_asked_about_nothing(asking: Asking) -> None:
    unasked: Any = None
    assert await asking(unasked).ends([]) == {}
    assert await asking(unasked).committed([]) == {}
