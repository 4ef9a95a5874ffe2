"""The group's consumer at its end, without a broker."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import Consumer, TopicPartition

from broker_mesh.kafka.consumer import GroupConsumer, GroupListener, Position
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
