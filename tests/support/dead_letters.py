"""Reads dead letters straight from their topic."""

from __future__ import annotations

import asyncio
import threading

from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.reader import end_offset, open_consumer, scan
from broker_mesh.message import Message, Record, received
from broker_mesh.settings import Settings


class DeadLetters:
    def __init__(self, bootstrap_servers: str) -> None:
        self._settings = Settings(bootstrap_servers=bootstrap_servers)
        self._seen: set[tuple[str, int, int]] = set()

    async def next(self, stem: str, patience: float = 40.0) -> Message:
        """Wait for a dead letter of an operation or subscription that was not given yet."""
        async with asyncio.timeout(patience):
            while True:
                for record in await asyncio.to_thread(self.all, stem):
                    place = record.topic, record.partition, record.offset
                    if place not in self._seen:
                        self._seen.add(place)
                        return received(record, stem)
                await asyncio.sleep(0.05)

    def all(self, stem: str, partitions: int = 6) -> list[Record]:
        topic = f"{stem}.dead"
        consumer = open_consumer(self._settings, "dead-letters", OutageLog("test"))
        try:
            ends = {(topic, number): end_offset(consumer, topic, number) for number in range(partitions)}
        finally:
            consumer.close()
        return list(
            scan(self._settings, client_id="test", partitions=ends, since=None, stop=threading.Event())
        )
