"""The same program with a plain client and with a wrapped one: what comes out must be the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

from broker_mesh_adapters import confluent_kafka as wrapped
from tests.support.fleet import make_mesh
from tests.support.names import fresh

PATIENCE = 30.0


class World:
    """A Kafka, and clients for it: plain ones, or wrapped ones of one service."""

    def __init__(self, bootstrap_servers: str, kind: str, stack: ExitStack) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.is_wrapped = kind == "wrapped"
        self.mesh = make_mesh(fresh("reader"), bootstrap_servers)
        self._stack = stack

    def topic(self, partitions: int = 1) -> str:
        """A new topic of no mesh's."""
        name = fresh("legacy").replace("-", "_")
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        admin.create_topics([NewTopic(name, partitions, 1)])[name].result(20)
        return name

    def conf(self, group: str | None = None, **more: Any) -> dict[str, Any]:
        """Of a consumer; the names of properties, but of callbacks, with underscores for dots."""
        given = {name if callable(value) else name.replace("_", "."): value for name, value in more.items()}
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "group.id": group or fresh("group"),
            "auto.offset.reset": "earliest",
            **given,
        }

    def consumer(self, conf: dict[str, Any], cls: str = "Consumer", **options: Any) -> Any:
        """A consumer that is closed with the test at the latest."""
        made = (
            getattr(wrapped, cls)(conf, mesh=self.mesh, **options)
            if self.is_wrapped
            else getattr(confluent_kafka, cls)(conf)
        )
        self._stack.callback(made.close)
        return made

    def send(self, topic: str, *values: str, key: str | None = None, partition: int = -1) -> None:
        """Produce with a plain client: what other programs write."""
        producer = confluent_kafka.Producer({"bootstrap.servers": self.bootstrap_servers, "linger.ms": 5})
        for value in values:
            producer.produce(topic, value, key, partition)
        assert producer.flush(PATIENCE) == 0


def worlds(kind: str, bootstrap_servers: str) -> Iterator[World]:
    """For a fixture."""
    with ExitStack() as stack:
        yield World(bootstrap_servers, kind, stack)


def read(consumer: Any, count: int, patience: float = PATIENCE) -> list[Any]:
    """Poll until so many messages have come."""
    messages: list[Any] = []
    until = time.monotonic() + patience
    while len(messages) < count:
        assert time.monotonic() < until, f"{len(messages)} of {count} messages came in {patience} s"
        message = consumer.poll(0.5)
        if message is not None:
            assert message.error() is None, message.error()
            messages.append(message)
    return messages


def values(messages: list[Any]) -> list[str]:
    return [message.value().decode() for message in messages]


def poll_until(consumer: Any, condition: Callable[[], bool], patience: float = PATIENCE) -> list[Any]:
    """Poll until something holds; gives what came meanwhile."""
    messages = []
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        message = consumer.poll(0.1)
        if message is not None:
            messages.append(message)
    return messages


def nothing_comes(consumer: Any, seconds: float = 1.0) -> bool:
    """Poll for a while: whether nothing is given."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if consumer.poll(0.1) is not None:
            return False
    return True
