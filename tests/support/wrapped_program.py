"""A program that polls Kafka through a wrapped consumer, in a thread of its own beside a test's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from broker_mesh import Mesh
from broker_mesh_adapters.confluent_kafka import Consumer

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 30.0


class WrappedProgram:
    """Polls, and handles each message in its settling block: `async with WrappedProgram(…)`, until the block ends.

    Args:
        mesh: the consumer's.
        topics: to subscribe to.
        handle: is given each message, within `settling()`.
        group: the consumer's.
        options: of the consumer, as `declared` and `retry`.
    """

    def __init__(
        self, mesh: Mesh, topics: list[str], handle: Callable[[Any], None], group: str, **options: Any
    ) -> None:
        self._mesh = mesh
        self._topics = topics
        self._handle = handle
        self._group = group
        self._options = options
        self._assigned = threading.Event()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="polling")

    async def __aenter__(self) -> WrappedProgram:
        self._thread.start()
        is_assigned = await asyncio.to_thread(self._assigned.wait, PATIENCE_SECONDS)
        if self._failure is not None:
            raise self._failure
        assert is_assigned, "no partition was assigned in time"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the polling thread has not ended in time"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._poll()
        except BaseException as error:  # noqa: BLE001 - it is raised where the test waits
            self._failure = error
            self._assigned.set()

    def _poll(self) -> None:
        consumer = Consumer(
            {"group.id": self._group, "auto.offset.reset": "earliest"}, mesh=self._mesh, **self._options
        )
        try:
            consumer.subscribe(self._topics, on_assign=lambda *_: self._assigned.set())
            while not self._stop.is_set():
                message = consumer.poll(POLL_SECONDS)
                if message is None:
                    continue
                assert message.error() is None, message.error()
                with message.settling():
                    self._handle(message)
        finally:
            consumer.close()
