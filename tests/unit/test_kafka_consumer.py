"""The group's consumer at its end, without a broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, TopicPartition

from broker_mesh.kafka import consumer as module
from broker_mesh.kafka.consumer import GroupConsumer, GroupListener, Partition, Position, Positions
from broker_mesh.settings import Settings

A = ("fleet.v1.retire", 0)


async def test_the_last_commit_is_sent_also_where_its_partition_is_revoked_before_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was put beside the poll loop; the poll that still runs then may bring the revocation."""
    settings = Settings(bootstrap_servers="127.0.0.1:1")
    member = GroupConsumer(
        settings, client_id="fleet", group="fleet", topics=[A[0]], listener=cast(GroupListener, None)
    )
    sent: list[int] = []

    class Client:
        def commit(self, offsets: list[TopicPartition], **_: Any) -> None:
            sent.extend(place.offset for place in offsets)

    real = member._consumer
    monkeypatch.setattr(member, "_consumer", Client())
    member._assigned[A] = 1
    member.commit({A: Position(1, 7)})
    member._closing.set()
    member._on_revoke(cast(Consumer, None), [TopicPartition(*A)])
    assert sent == [7]
    real.close()


async def test_a_drain_that_the_loop_comes_to_too_late_spares_the_assignment_that_has_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A handler that blocks the loop: with all it hears at once, the new assignment would be drained and dropped."""
    monkeypatch.setattr(module, "_DRAIN_PATIENCE_SECONDS", 0.01)
    heard: list[str] = []

    class Listener:
        async def drain(self, _: Sequence[Partition]) -> Positions:
            heard.append("drain")
            return {}

        def lost(self, _: Sequence[Partition]) -> None:
            heard.append("lost")

        def assigned(self, _: Positions) -> None:
            heard.append("assigned")

    listener = cast(GroupListener, Listener())
    settings = Settings(bootstrap_servers="127.0.0.1:1")
    member = GroupConsumer(settings, client_id="fleet", group="fleet", topics=[A[0]], listener=listener)
    member._assigned[A] = 1

    def rebalance() -> None:
        member._on_revoke(cast(Consumer, None), [TopicPartition(*A)])
        member._tell(listener.assigned, {A: Position(2, 7)})

    thread = threading.Thread(target=rebalance)
    thread.start()
    thread.join()  # the loop is blocked meanwhile
    for _ in range(5):
        await asyncio.sleep(0)
    assert heard == ["lost", "assigned"]
    member._consumer.close()
