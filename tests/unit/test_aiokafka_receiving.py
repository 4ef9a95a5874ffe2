"""Corners of a wrapped aiokafka consumer that need no Kafka: a mesh that stops, an assignment that comes late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import TopicPartition

from broker_mesh.errors import Unavailable
from broker_mesh_adapters.aiokafka.hands import calling
from broker_mesh_adapters.aiokafka.receiving import Receiving
from broker_mesh_adapters.aiokafka.subscriptions import Subscriber, subscribed


class Message:
    """One message, which is its own delivery."""

    topic, partition, lane = "orders", 0, None

    @property
    def delivery(self) -> Message:
        return self


class Stopping(Receiving):
    """Has one message; then the mesh can't go on."""

    def __init__(self) -> None:
        self._hands: Any = self
        self._steps: Iterator[Message] = iter([Message()])

    def lanes(self) -> set[object]:
        return set()

    def _next(self, *_: object) -> Any:
        for message in self._steps:
            return message
        raise Unavailable("an outcome could not be made durable")


def test_what_the_program_was_given_reaches_it_before_the_error() -> None:
    receiving = Stopping()
    (batch,) = receiving._batch((), 10, calling()).items()
    assert batch[0] == TopicPartition("orders", 0)
    assert len(batch[1]) == 1
    with pytest.raises(Unavailable):
        receiving._batch((), 10, calling())


async def test_an_assignment_of_an_earlier_subscription_brings_nothing_back() -> None:
    subscriber = Subscriber(None, has_group=True)
    subscriber.wish(subscribed(["now"], None, None))
    subscriber.found({"before"})
    assert subscriber._task is None
    subscriber.found({"now"})
    assert subscriber._task is not None
    subscriber.stop()
