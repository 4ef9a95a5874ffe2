"""What waits for the services of the mesh, read from Kafka alone, for `mesh check` and `mesh topics show`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from broker_mesh import naming
from broker_mesh.cli.connection import Connection
from broker_mesh.control.queues import PartitionFacts, Queue, queues_of
from broker_mesh.kafka.firsts import first_timestamps
from broker_mesh.kafka.groups import Commit, Group, Partition, lag
from broker_mesh.progress import Progress

# So many partitions are looked into, those with the most before them first: each costs one small read.
_LOOKED_INTO = 200
_PATIENCE_SECONDS = 5.0


class Committed(NamedTuple):
    """A group with what it has committed."""

    group: Group
    commits: dict[Partition, Commit]

    @property
    def offsets(self) -> dict[Partition, int]:
        """The offsets of it."""
        return {key: commit.offset for key, commit in self.commits.items()}


class _Place(NamedTuple):
    group: str
    partition: Partition


async def read_groups(connection: Connection) -> list[Committed]:
    """Give all groups with what they have committed.

    Raises:
        MeshError: Kafka can't be asked.
    """
    names = await connection.groups.names()
    described = await connection.groups.describe(names)
    return [Committed(described[name], await connection.groups.commits(name)) for name in names]


async def read_queues(connection: Connection, groups: Sequence[Committed]) -> list[Queue]:
    """Tell what waits for groups, operation by operation.

    Args:
        connection: to Kafka.
        groups: with what they have committed.

    Raises:
        MeshError: Kafka can't be asked.
    """
    topics = await connection.admin.topic_names()
    consumed = {found.group.name: _consumed(found, topics) for found in groups}
    infos = await connection.admin.describe(sorted({name for names in consumed.values() for name in names}))
    bounds = await connection.groups.bounds(
        (info.name, number) for info in infos.values() for number in range(info.partitions)
    )
    waiting, starts = {}, {}
    for found in groups:
        for partition, held in bounds.items():
            if partition[0] in consumed[found.group.name]:
                place = _Place(found.group.name, partition)
                waiting[place] = lag({partition: held}, found.offsets)
                starts[place] = max(held.first, found.offsets.get(partition, 0))
    chosen = sorted((place for place, number in waiting.items() if number), key=lambda place: -waiting[place])
    oldest = await _oldest(connection, {place: starts[place] for place in chosen[:_LOOKED_INTO]})
    return [
        queue
        for found in groups
        for queue in queues_of(
            found.group.name,
            len(found.group.members),
            [
                PartitionFacts(
                    place.partition[0],
                    number,
                    oldest.get(place),
                    _progress(found.commits.get(place.partition)),
                )
                for place, number in waiting.items()
                if place.group == found.group.name
            ],
        )
    ]


def _consumed(found: Committed, topics: Sequence[str]) -> set[str]:
    """Tell which topics a group works on: its service's operations, and wherever it has committed."""
    own = {name for name in topics if naming.is_target(name) and not naming.is_event(name)}
    own = {name for name in own if naming.owner(name) == found.group.name}
    own |= {naming.retry_topic(name) for name in own}
    return (own | {topic for topic, _ in found.commits}).intersection(topics)


def _progress(commit: Commit | None) -> Progress:
    return Progress() if commit is None else Progress.read(commit.metadata, commit.offset)


async def _oldest(connection: Connection, starts: Mapping[_Place, int]) -> dict[_Place, int]:
    """Tell when the first record was written that a group has not done, epoch ms; of several groups in turn."""
    found: dict[_Place, int] = {}
    left = dict(starts)
    stop = threading.Event()
    try:
        while left:
            # At most one start for each partition; an event has as many as it has subscribers.
            places = {place.partition: place for place in left}
            timestamps = await asyncio.to_thread(
                first_timestamps,
                connection.settings,
                client_id=connection.client_id,
                starts={partition: left.pop(place) for partition, place in places.items()},
                patience=_PATIENCE_SECONDS,
                stop=stop,
            )
            found |= {places[partition]: timestamp for partition, timestamp in timestamps.items()}
    finally:
        stop.set()
    return found
