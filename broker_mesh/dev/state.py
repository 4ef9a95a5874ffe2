"""The state file of an embedded Kafka: ports and processes, kept between commands and read by whoever looks for it.

Only the standard library, cheap to import and to read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from broker_mesh.dev import processes

STATE_FILE = "cluster.json"
# Of the Kafkas in the directory of `mesh dev`, the one that was started as last: a symbolic link.
CURRENT = "current"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class BrokerState:
    """One broker: where it listens, and the process it ran as last, if it was not stopped.

    Args:
        id: its number, from 1.
        port: where clients and other brokers reach it, on 127.0.0.1.
        controller_port: where the controllers' quorum reaches it, on 127.0.0.1.
        pid: its process id; None when it was stopped.
        identity: what `processes.identity` said of that process when it started.
    """

    id: int
    port: int
    controller_port: int
    pid: int | None = None
    identity: str | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return (
            self.pid is not None
            and self.identity is not None
            and processes.is_running(self.pid, self.identity)
        )


@dataclass(frozen=True, slots=True)
class ClusterState:
    """An embedded Kafka as its state file tells it.

    Args:
        brokers: all of them, in the order of their numbers.
        ephemeral: whether its data is deleted when it stops.
        started_at: epoch seconds of the last start.
    """

    brokers: tuple[BrokerState, ...]
    ephemeral: bool
    started_at: float

    @property
    def bootstrap_servers(self) -> str:
        """What clients connect to."""
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers)

    @property
    def running(self) -> list[BrokerState]:
        """The brokers whose processes live."""
        return [broker for broker in self.brokers if broker.running]


def load(directory: Path) -> ClusterState | None:
    """Read the state of the Kafka in a directory; None when there is none or it can't be understood."""
    try:
        found: Any = json.loads((directory / STATE_FILE).read_bytes())
        if not isinstance(found, Mapping) or found.get("format") != _FORMAT:
            return None
        brokers = tuple(_broker(broker) for broker in found["brokers"])
        if not brokers:
            return None
        return ClusterState(brokers, bool(found["ephemeral"]), float(found["started_at"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def save(directory: Path, state: ClusterState) -> None:
    """Write the state in one step: a reader sees the old one or the new one, never half of it."""
    text = json.dumps(
        {"format": _FORMAT, "bootstrap_servers": state.bootstrap_servers, **asdict(state)}, indent=2
    )
    temporary = directory / f"{STATE_FILE}.{os.getpid()}"
    temporary.write_text(text + "\n")
    temporary.replace(directory / STATE_FILE)


def _broker(found: Mapping[str, Any]) -> BrokerState:
    pid, identity = found["pid"], found["identity"]
    if pid is not None and not 0 < int(pid) < 2**31:
        raise ValueError(f"{pid} is not a process id")
    return BrokerState(
        id=int(found["id"]),
        port=int(found["port"]),
        controller_port=int(found["controller_port"]),
        pid=None if pid is None else int(pid),
        identity=None if identity is None else str(identity),
    )
