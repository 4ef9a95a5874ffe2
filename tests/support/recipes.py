"""The programs of `examples/`, as processes: what goes in, and what has come out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from broker_mesh.headers import TRACEPARENT
from tests.support.names import fresh
from tests.support.processes import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
PARTITIONS = 6  # as many as the topics that the mesh makes have
PATIENCE_SECONDS = 60.0


class Recipe:
    """One program between a topic of orders and one of their totals, both of its own.

    Args:
        bootstrap_servers: of Kafka.
        program: below `examples/`.
        directory: where it runs.
    """

    def __init__(self, bootstrap_servers: str, program: str, directory: Path) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.orders, self.totals = fresh("orders"), fresh("totals")
        self.log = directory / f"{self.orders}.log"
        self._program = EXAMPLES / program
        self._directory = directory
        self._running: subprocess.Popen[bytes] | None = None
        self._producer = Producer({"bootstrap.servers": bootstrap_servers})
        admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        made = admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in (self.orders, self.totals)])
        for future in made.values():
            future.result(10)

    def start(self, prices: dict[str, float]) -> None:
        """Start the program with these prices."""
        file = self._directory / "prices.json"
        file.write_text(json.dumps(prices))
        said = {
            "KAFKA": self.bootstrap_servers,
            "ORDERS": self.orders,
            "TOTALS": self.totals,
            "PRICES": str(file),
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MESH_", "OTEL_"))}
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                [sys.executable, str(self._program)],
                cwd=self._directory,
                env={**kept, **said},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """Kill the program, where it runs."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            self._running = None

    def send(self, orders: list[dict[str, Any]]) -> None:
        """Produce orders as any program does, each with its id as the trace that it belongs to."""
        for order in orders:
            self._producer.produce(
                self.orders,
                json.dumps(order),
                f"customer-{order['id'] % 7}",
                headers={TRACEPARENT: f"00-{trace_id(order['id'])}-{order['id'] + 1:016x}-01"},
            )
        assert self._producer.flush(30) == 0

    def lag(self, group: str) -> int:
        """Tell how many orders the program's group has not committed."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": group})
        try:
            asked = [TopicPartition(self.orders, number) for number in range(PARTITIONS)]
            return sum(
                consumer.get_watermark_offsets(place, 10)[1] - max(place.offset, 0)
                for place in consumer.committed(asked, 10)
            )
        finally:
            consumer.close()

    def results(self, enough: Callable[[list[Message]], bool]) -> list[Message]:
        """Wait until what has come out is enough; gives all of it."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": fresh("results")})
        consumer.assign([TopicPartition(self.totals, number, 0) for number in range(PARTITIONS)])
        found: list[Message] = []
        until = time.monotonic() + PATIENCE_SECONDS
        try:
            while not enough(found):
                assert time.monotonic() < until, f"{len(found)} came out\n{self.log.read_text()[-3000:]}"
                assert self._running is None or self._running.poll() is None, self.log.read_text()[-3000:]
                message = consumer.poll(0.2)
                if message is not None and message.error() is None:
                    found.append(message)
        finally:
            consumer.close()
        return found


def trace_id(order_id: int) -> str:
    return f"{order_id + 1:032x}"


def order_ids(results: list[Message]) -> set[int]:
    return {json.loads(result.value() or b"")["id"] for result in results}
