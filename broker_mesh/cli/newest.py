"""Reads the newest records of a topic, over all its partitions, for commands that look at what there is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence

from broker_mesh.cli.connection import Connection
from broker_mesh.cli.progress import Count
from broker_mesh.errors import NotFound
from broker_mesh.kafka.admin import TopicInfo
from broker_mesh.kafka.groups import Bounds
from broker_mesh.kafka.reader import Partition, scan
from broker_mesh.message import Record
from broker_mesh.settings import nearest

_COUNT_EVERY = 1000


async def read_newest(
    connection: Connection,
    topic: str,
    take: Callable[[Record], None],
    count: Count,
    *,
    most: int | None = None,
    since: int | None = None,
) -> None:
    """Read a topic up to its present end.

    Args:
        connection: to Kafka.
        topic: its name.
        take: is given each record, on another thread; within a partition in order.
        count: told how many of how many offsets have been read.
        most: how many offsets to read, the newest of all partitions in equal parts; None for all.
        since: epoch ms of the first by the records' timestamps; None for no such limit. Not with `most`.

    Raises:
        NotFound: there is no such topic.
        MeshError: Kafka can't be asked.
    """
    info = (await require_topics(connection, [topic]))[topic]
    bounds = await connection.groups.bounds((topic, number) for number in range(info.partitions))
    stop = threading.Event()
    try:
        await asyncio.to_thread(_read, connection, bounds, most, since, take, count, stop)
    finally:
        stop.set()


async def require_topics(connection: Connection, topics: Sequence[str]) -> dict[str, TopicInfo]:
    """Describe topics, by name.

    Raises:
        NotFound: there is no such topic.
        MeshError: Kafka can't be asked.
    """
    found = await connection.admin.describe(list(topics))
    for topic in topics:
        if topic not in found:
            hint = nearest(topic, await connection.admin.topic_names())
            raise NotFound(f"there is no topic {topic!r}{hint}")
    return found


def _read(
    connection: Connection,
    bounds: Mapping[Partition, Bounds],
    most: int | None,
    since: int | None,
    take: Callable[[Record], None],
    count: Count,
    stop: threading.Event,
) -> None:
    ends = {partition: held.end for partition, held in bounds.items()}
    total = 0

    def begin(starts: Mapping[Partition, int]) -> None:
        nonlocal total
        total = sum(ends[partition] - start for partition, start in starts.items())
        count(0, total)

    records = scan(
        connection.settings,
        client_id=connection.client_id,
        partitions=ends,
        since=since,
        stop=stop,
        begun=begin,
        start=None if since is not None else starts_of(bounds, most),
    )
    for number, record in enumerate(records, 1):
        take(record)
        if number % _COUNT_EVERY == 0:
            count(number, total)


def starts_of(bounds: Mapping[Partition, Bounds], most: int | None) -> dict[Partition, int]:
    """Choose where to begin in each partition, so that at most so many offsets are read.

    Each partition has an equal part; what short ones leave of theirs is the others'.
    """
    if most is None:
        return {partition: held.first for partition, held in bounds.items()}
    starts = {}
    left = most
    by_length = sorted(bounds.items(), key=lambda item: item[1].end - item[1].first)
    for index, (partition, held) in enumerate(by_length):
        part = min(held.end - held.first, left // (len(by_length) - index))
        starts[partition] = held.end - part
        left -= part
    return starts
