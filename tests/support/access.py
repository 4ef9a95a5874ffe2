"""Access rules on the session's Kafka: applied for a test, and gone when it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from broker_mesh.control.apply import PolicyStore
from broker_mesh.control.files import read_text
from broker_mesh.control.store import POLICY_TOPIC
from broker_mesh.errors import NotFound
from broker_mesh.kafka.fenced import NewRecord, send_all
from broker_mesh.settings import Settings


class Rules:
    """Applies and deletes rules, and deletes what is left of them."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.settings = Settings(bootstrap_servers=bootstrap_servers)
        self.store = PolicyStore(self.settings, "test-rules")
        self.applied: set[str] = set()

    def apply(self, name: str, action: str, *, to: str, callers: list[str], operations: str = "*") -> float:
        """Apply a rule; gives when that was acknowledged, epoch seconds."""
        spec = {"to": to, "operations": [operations], "from": callers, "action": action}
        document = json.dumps({"kind": "Access", "name": name, "spec": spec})
        self.store.apply(read_text(document, "test"), prune=False)
        self.applied.add(name)
        return time.time()

    def delete(self, name: str) -> float:
        self.store.delete("Access", name)
        self.applied.discard(name)
        return time.time()

    def write(self, key: str, value: bytes | None) -> None:
        """Write a record that is not the mesh's own."""
        record = NewRecord(POLICY_TOPIC, key.encode(), value)
        send_all(self.settings, [record], client_id="foreign", deadline=time.monotonic() + 20)


@contextmanager
def applying_rules(bootstrap_servers: str) -> Iterator[Rules]:
    """All tests share one `_mesh.policy`: rules should be for services of the test's own."""
    made = Rules(bootstrap_servers)
    yield made
    for name in sorted(made.applied):
        with suppress(NotFound):
            made.delete(name)
