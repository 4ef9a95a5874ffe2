"""Offsets of partitions whose leader has just been made: asked for again, the late ones alone."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from broker_mesh.errors import PermissionDenied, Unavailable
from broker_mesh.kafka import groups
from broker_mesh.kafka.groups import Bounds, Groups
from broker_mesh.settings import Settings


class Broker:
    """Answers `list_offsets`: for partition 1 with errors first."""

    def __init__(self, *errors: int) -> None:
        self.asked: list[list[int]] = []
        self.heard = 0
        self._errors = {kind: list(errors) for kind in ("first", "end")}

    def list_offsets(self, request: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Future[Any]]:
        self.asked.append([place.partition for place in request])
        return {place: self._answer(place, spec) for place, spec in request.items()}

    def list_topics(self, timeout: float) -> None:
        """Is asked in between: librdkafka goes on by what it has heard of a topic when that was new."""
        self.heard += 1

    def _answer(self, place: TopicPartition, spec: Any) -> Future[Any]:
        future: Future[Any] = Future()
        kind = "first" if spec._value == groups.OffsetSpec.earliest()._value else "end"
        if place.partition == 1 and self._errors[kind]:
            future.set_exception(KafkaException(KafkaError(self._errors[kind].pop(0))))
        else:
            future.set_result(SimpleNamespace(offset=0 if kind == "first" else 7))
        return future


def asking(monkeypatch: pytest.MonkeyPatch, broker: Broker, timeout: float = 10) -> Groups:
    monkeypatch.setattr(groups, "AdminClient", lambda _: broker)
    settings = Settings(bootstrap_servers="127.0.0.1:1", connect_timeout_seconds=timeout)
    return Groups(settings, "test")


async def test_a_leader_that_does_not_know_it_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._NOENT)
    found = await asking(monkeypatch, broker).bounds([("t", 0), ("t", 1)])
    assert found == {("t", 0): Bounds(0, 7), ("t", 1): Bounds(0, 7)}
    assert sorted(broker.asked) == [[0, 1], [0, 1], [1], [1], [1], [1]]
    assert broker.heard == 4


async def test_asking_again_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for_long = Broker(*[KafkaError.NOT_LEADER_FOR_PARTITION] * 1000)
    with pytest.raises(Unavailable, match="t/1"):
        await asking(monkeypatch, for_long, timeout=0.1).bounds([("t", 1)])
    refused = Broker(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(PermissionDenied):
        await asking(monkeypatch, refused).bounds([("t", 1)])
    assert len(refused.asked) == 2
