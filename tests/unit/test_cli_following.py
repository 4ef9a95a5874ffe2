"""`mesh tap` while Kafka is away: it looks again, and forgets nothing that appeared."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from broker_mesh.cli import following
from broker_mesh.errors import NotFound, Unavailable
from broker_mesh.kafka.admin import TopicInfo
from broker_mesh.kafka.reader import Partition
from broker_mesh.message import Record


class Reader:
    """Follows at once, but for the partitions that it refuses, each once."""

    def __init__(self, *_: object, **__: object) -> None:
        self.refuses = [("fleet.v1.new", 1)]

    async def follow(self, topic: str, partition: int) -> int:
        if (topic, partition) in self.refuses:
            self.refuses.remove((topic, partition))
            raise Unavailable("asking for the end: no answer")
        return 1

    async def close(self) -> None:
        pass


class Kafka:
    """Knows one topic when a tap begins, then nothing, then one more; then it refuses for good."""

    settings = None
    client_id = "test"

    def __init__(self) -> None:
        self.admin = self
        self.looks: list[Any] = [
            ["fleet.v1.old"],
            Unavailable("away"),
            ["fleet.v1.old", "fleet.v1.new"],
            ["fleet.v1.old", "fleet.v1.new"],
            NotFound("the end of the test"),
        ]

    async def topic_names(self) -> list[str]:
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return list(look)

    async def describe(self, names: list[str]) -> dict[str, Any]:
        return {name: TopicInfo(name, 2 if name.endswith("new") else 1, 1, id=name) for name in names}


async def test_a_tap_outlasts_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(*_: object, partitions: dict[Partition, int], **__: object) -> Iterator[Record]:
        for topic, partition in sorted(partitions):
            yield Record(topic, partition, 0, 0, b"k", b"v", [])

    monkeypatch.setattr(following, "TailReader", Reader)
    monkeypatch.setattr(following, "scan", scan)
    monkeypatch.setattr(following, "_LOOK_AGAIN_SECONDS", 0)
    seen: list[Partition] = []
    connection: Any = Kafka()

    async def tap() -> None:
        async with aclosing(following.follow(connection, "fleet", since=None)) as batches:
            async for batch in batches:
                seen.extend((record.topic, record.partition) for record in batch)

    with pytest.raises(NotFound, match="the end of the test"):
        await asyncio.wait_for(tap(), 30)
    assert seen == [("fleet.v1.new", 0), ("fleet.v1.new", 1)]
