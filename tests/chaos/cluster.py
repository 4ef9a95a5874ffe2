"""Three real brokers whose clients reach them only through proxies; what the brokers say to each other goes direct.

Each broker has a listener of its own for the clients under test, and advertises its proxy's port for it. Whoever judges
the run (the nemesis, the reader of what is stored) uses the brokers' own ports and sees no weather.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from broker_mesh.dev import ports
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.dev.state import BrokerState
from tests.chaos.proxy import HOST, Network, bound

BROKERS = (1, 2, 3)
# A member that is stopped for longer loses its partitions; on two busy cores a live one is heard of in time.
SESSION_SECONDS = 8.0
# librdkafka gives up a heartbeat that is not answered within this time, and all that is on its way beside it.
_HEARTBEAT_SECONDS = 2.5
_ADMIN_SECONDS = 5.0
_POLL_SECONDS = 0.2


class Cluster:
    """Brokers 1 to 3 and the network before them; as a context manager started and stopped around the block.

    Args:
        directory: holds the brokers' data and logs; kept.
    """

    def __init__(self, directory: Path) -> None:
        self._behind: dict[int, int] = {}  # the port behind each proxy
        self._kafka = EmbeddedKafka(directory, 3, attached=True, properties=self._properties)
        self.network = Network({broker: partial(self._behind.__getitem__, broker) for broker in BROKERS})
        self._held: dict[int, socket.socket] = {}
        # One broker at a time is down or starting: with two of three copies in sync, writing goes on.
        self._one_down = threading.Lock()

    @property
    def bootstrap_servers(self) -> str:
        """What clients under test connect to: the proxies."""
        return ",".join(f"{HOST}:{self.network.port(broker)}" for broker in BROKERS)

    @property
    def direct_servers(self) -> str:
        """The brokers themselves, for whoever judges."""
        return self._kafka.bootstrap_servers

    def start(self) -> None:
        """Start all, and return once a record is accepted."""
        self._held = {broker: bound(port) for broker, port in zip(BROKERS, ports.pick(3), strict=True)}
        self.network.open(self._held)
        self._kafka.start()
        self._admin = AdminClient({"bootstrap.servers": self.direct_servers, "log_level": 0})

    def stop(self) -> None:
        """End all; nothing is to be read from it any more, so that nobody waits for a clean stop."""
        self.network.close()
        self._kafka.kill()
        self._kafka.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @contextmanager
    def one_down(self) -> Iterator[None]:
        """Wait for one's turn to take a broker away, and do so inside the block."""
        with self._one_down:
            yield

    def kill(self, broker: int) -> None:
        """End a broker as a crash would (SIGKILL)."""
        self._kafka.kill(broker)

    def restart(self) -> None:
        """Start the broker that was killed over its data, and return once the cluster takes records with all three."""
        self._kafka.start()

    def pause(self, broker: int) -> None:
        """Stop a broker's process where it stands (SIGSTOP): the others take it for dead."""
        os.kill(self._pid(broker), signal.SIGSTOP)

    def resume(self, broker: int) -> None:
        """Let a paused broker go on, as if no time had passed for it (SIGCONT)."""
        os.kill(self._pid(broker), signal.SIGCONT)

    def pids(self) -> dict[int, int]:
        """The processes of the brokers that run."""
        return {state.id: state.pid for state in self._kafka.state.running if state.pid is not None}

    def leader(self, topics: Mapping[str, Any] | set[str]) -> int:
        """Tell which broker leads most partitions of the topics."""
        led = Counter(
            partition.leader
            for name, topic in self._described().items()
            if name in topics
            for partition in topic.partitions.values()
            if partition.leader in BROKERS
        )
        return led.most_common(1)[0][0] if led else BROKERS[0]

    def coordinator(self) -> int:
        """Tell which broker leads most of the partitions that keep the groups' offsets."""
        return self.leader({"__consumer_offsets"})

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""
        return len(self._described()[topic].partitions)

    def is_shared(self, group: str, members: int) -> bool:
        """Whether a group has so many members, and each has what it is to have."""
        found = self._group(group).members
        return len(found) == members and all(
            member.assignment.topic_partitions
            and member.target_assignment is not None
            and _places(member.assignment) == _places(member.target_assignment)
            for member in found
        )

    def members(self, group: str) -> str:
        """Tell a group's state, and who has which partitions and is to have which, for the reader of a failure."""
        found = self._group(group)
        told = [f"{group} is {found.state.name}"]
        for member in found.members:
            target = member.target_assignment
            told.append(
                f"{member.client_id} ({member.member_id}) has {_places(member.assignment)}, "
                f"is to have {'?' if target is None else _places(target)}"
            )
        return "; ".join(told)

    def _group(self, name: str) -> Any:
        return self._admin.describe_consumer_groups([name])[name].result(_ADMIN_SECONDS)

    def wait_in_sync(self, timeout: float) -> bool:
        """Wait until each partition has all three copies in sync; whether they are."""
        until = time.monotonic() + timeout
        while not self._in_sync():
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def admin(self) -> AdminClient:
        """A client that sees no weather."""
        return self._admin

    def _in_sync(self) -> bool:
        try:
            topics = self._described()
        except KafkaException:
            return False
        partitions = [each for topic in topics.values() for each in topic.partitions.values()]
        return bool(partitions) and all(len(each.isrs) == len(each.replicas) for each in partitions)

    def _described(self) -> dict[str, Any]:
        found: dict[str, Any] = self._admin.list_topics(timeout=_ADMIN_SECONDS).topics
        return found

    def _pid(self, broker: int) -> int:
        return self.pids()[broker]

    def _properties(self, state: BrokerState) -> dict[str, str | int]:
        behind = self._behind.get(state.id)
        if behind is None or not ports.is_free(behind):
            taken = {port for each in self._kafka.state.brokers for port in (each.port, each.controller_port)}
            behind = self._behind[state.id] = ports.pick(1, avoid=taken | set(self._behind.values()))[0]
        own, controller = f"PLAINTEXT://{HOST}:{state.port}", f"CONTROLLER://{HOST}:{state.controller_port}"
        return {
            "listeners": f"{own},PROXIED://{HOST}:{behind},{controller}",
            "advertised.listeners": f"{own},PROXIED://{HOST}:{self.network.port(state.id)}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "group.consumer.session.timeout.ms": int(SESSION_SECONDS * 1000),
            "group.consumer.heartbeat.interval.ms": int(_HEARTBEAT_SECONDS * 1000),
            "group.min.session.timeout.ms": 1000,
        }


def _places(assignment: Any) -> str:
    return (
        " ".join(sorted(f"{place.topic}/{place.partition}" for place in assignment.topic_partitions))
        or "nothing"
    )
