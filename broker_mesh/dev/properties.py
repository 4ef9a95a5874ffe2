"""The settings of each broker: server.properties for all of them, and here what differs from node to node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from broker_mesh.dev.state import BrokerState

# What a user of the embedded Kafka sets for one broker, which is told by its ports.
MoreProperties = Callable[[BrokerState], Mapping[str, str | int]]


def no_more(_: BrokerState) -> Mapping[str, str | int]:
    """Leave a broker's properties as they are."""
    return {}


def render(
    node: BrokerState,
    nodes: Sequence[BrokerState],
    data: Path,
    more: Mapping[str, str | int] = MappingProxyType({}),
) -> str:
    """The text of a node's properties file.

    The quorum is a static one (`controller.quorum.voters`): its addresses live here and not in the metadata log,
    so that ports can change between starts. With `controller.quorum.bootstrap.servers` the voters' addresses are
    part of the data, and a quorum whose ports were all taken in between could not find itself again (KIP-853).

    Args:
        node: the node itself.
        nodes: all nodes of the cluster, the node included.
        data: its data directory.
        more: properties that come to these, or take their place.
    """
    replicas = len(nodes)
    in_sync = 2 if replicas > 1 else 1
    voters = ",".join(f"{each.id}@127.0.0.1:{each.controller_port}" for each in nodes)
    clients = f"PLAINTEXT://127.0.0.1:{node.port}"
    settings: dict[str, str | int] = {
        "node.id": node.id,
        "controller.quorum.voters": voters,
        "listeners": f"{clients},CONTROLLER://127.0.0.1:{node.controller_port}",
        "advertised.listeners": clients,
        "log.dirs": _escape(str(data)),
        "num.partitions": replicas,
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
    }
    for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        settings[f"{topic}.replication.factor"] = replicas
        settings[f"{topic}.num.partitions"] = replicas
    for topic in ("transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr"):
        settings[topic] = in_sync
    settings.update(more)
    common = resources.files("broker_mesh.dev").joinpath("server.properties").read_text().splitlines()
    kept = [line for line in common if line.partition("=")[0] not in settings]
    return "\n".join(kept) + "\n\n" + "".join(f"{key}={value}\n" for key, value in settings.items())


def _escape(text: str) -> str:
    """Escape a value for Java's Properties.load, which reads `\\` as an escape and strips leading blanks."""
    return text.replace("\\", "\\\\")
