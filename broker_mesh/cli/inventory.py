"""What topics there are and who reads them, put together for `mesh topics` and `mesh check`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from broker_mesh import naming
from broker_mesh.adoption import Adoption
from broker_mesh.cli.connection import Connection
from broker_mesh.cli.queues import Committed, read_groups, read_queues
from broker_mesh.cli.records import kind_of
from broker_mesh.errors import NotFound
from broker_mesh.kafka.groups import Bounds, Partition, lag
from broker_mesh.message import now_ms
from broker_mesh.settings import nearest

_KINDS = {"request": "operation", "event": "event", "reply": "replies", "record": "topic"}
_ORDER = ("operation", "event", "replies", "topic")


class Row(NamedTuple):
    """A line of `mesh topics list`.

    Args:
        name: the operation, event or reply topic; or the topic of other programs.
        kind: "operation", "event", "replies" or "topic".
        service: its owner; of other programs' topics, as mesh.toml says; None where it says nothing.
        partitions, replication_factor: of its topic.
        waiting: records that the owner's group has before it; None where no group of the owner reads it.
        dead_letters: kept for it, those of an event's subscribers included; None where there can be none.
    """

    name: str
    kind: str
    service: str | None
    partitions: int
    replication_factor: int
    waiting: int | None
    dead_letters: int | None


async def inventory(connection: Connection) -> list[Row]:
    """List the topics of the mesh with what waits in them, and those of other programs that it reads or has adopted.

    Raises:
        MeshError: Kafka can't be asked.
    """
    names = [name for name in await connection.admin.topic_names() if not name.startswith("_")]
    adopted = connection.settings.topics
    others = {naming.source_of_failures(name) for name in names} | adopted.keys()
    shown = [name for name in names if kind_of(name) in ("request", "event", "reply") or name in others]
    dead = {name: _dead_topics(name, names) for name in shown}
    infos = await connection.admin.describe(
        [*shown, *(topic for topics in dead.values() for topic in topics)]
    )
    bounds = await connection.groups.bounds(
        (info.name, number) for info in infos.values() for number in range(info.partitions)
    )
    groups = await read_groups(connection)

    def kept(topic: str) -> dict[Partition, Bounds]:
        return {key: held for key, held in bounds.items() if key[0] == topic}

    rows = [
        Row(
            name,
            _KINDS[kind_of(name)],
            _owner(name, adopted),
            infos[name].partitions,
            infos[name].replication_factor,
            _waiting(name, kept(name), groups),
            sum(held.end - held.first for topic in dead[name] for held in kept(topic).values())
            if dead[name]
            else None,
        )
        for name in shown
        if name in infos
    ]
    return sorted(rows, key=lambda row: (_ORDER.index(row.kind), row.name))


async def details(connection: Connection, name: str) -> dict[str, Any]:
    """Describe one topic with the groups that read it.

    Raises:
        NotFound: there is no such topic.
        MeshError: Kafka can't be asked.
    """
    info = (await connection.admin.describe([name])).get(name)
    if info is None:
        hint = nearest(name, await connection.admin.topic_names()) or "; mesh topics list shows what there is"
        raise NotFound(f"there is no topic {name!r}{hint}")
    bounds = await connection.groups.bounds((name, number) for number in range(info.partitions))
    groups = [found for found in await read_groups(connection) if found.offsets.keys() & bounds.keys()]
    of = naming.source_of_failures(name) or name
    queues = {queue.group: queue for queue in await read_queues(connection, groups) if queue.name == of}
    now = now_ms()
    kind = kind_of(name)
    return {
        "name": name,
        "kind": _KINDS.get(kind, kind),
        "replication_factor": info.replication_factor,
        "partitions": [
            {"partition": number, "first": held.first, "end": held.end, "records": held.end - held.first}
            for (_, number), held in sorted(bounds.items())
        ],
        "groups": [
            {
                "group": found.group.name,
                "state": found.group.state,
                "members": len(found.group.members),
                "waiting": lag(bounds, found.offsets),
                "queue": queues[found.group.name].figures(now),
            }
            for found in groups
        ],
        "config": dict(sorted((await connection.admin.topic_config(name)).items())),
    }


def _owner(name: str, adopted: Mapping[str, Adoption]) -> str | None:
    if kind_of(name) != "record":
        return naming.owner(name)
    return adopted[name].owner if name in adopted else None


def _dead_topics(name: str, names: list[str]) -> list[str]:
    return [
        topic
        for topic in names
        if topic.endswith(naming.dead_topic("")) and naming.source_of_failures(topic) == name
    ]


def _waiting(name: str, bounds: dict[Partition, Bounds], groups: list[Committed]) -> int | None:
    """Count what waits for an operation's own service."""
    if naming.is_event(name) or not naming.is_target(name):
        return None
    owner = naming.owner(name)
    lags = [
        lag(bounds, found.offsets)
        for found in groups
        if naming.owner(found.group.name) == owner and found.offsets.keys() & bounds.keys()
    ]
    # Nobody has ever committed: all of it waits.
    return max(lags) if lags else lag(bounds, {})
