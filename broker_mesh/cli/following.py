"""Follows topics for `mesh tap`: what is kept already, then what comes, topics that appear later included.

It joins no group and commits nothing, so that it can be run beside a service at any time.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from broker_mesh import naming
from broker_mesh.cli.connection import Connection
from broker_mesh.errors import MeshError, NotFound, Unavailable
from broker_mesh.kafka.reader import Partition, TailReader, scan
from broker_mesh.message import Record, received
from broker_mesh.settings import nearest

_LOOK_AGAIN_SECONDS = 1.0
_BATCH = 500

Choose: TypeAlias = Callable[[Iterable[str]], list[str]]


def choose_topics(name: str, topics: Iterable[str]) -> list[str]:
    """Choose the topics to follow.

    Args:
        name: an operation (with its retries, dead letters, and the topics where callers get replies), an event or
            any other topic (with its subscribers' retries and dead letters), or a service (all it owns).
        topics: those that exist.
    """
    existing = list(topics)
    if "." not in name:
        return [
            topic
            for topic in existing
            if naming.owner(topic) == name or naming.source_of_failures(topic) == name
        ]
    if name not in existing:
        return []
    is_operation = naming.is_target(name) and not naming.is_event(name)
    return [
        topic
        for topic in existing
        if topic == name
        or naming.source_of_failures(topic) == name
        or (is_operation and topic.endswith(naming.reply_topic("")))
    ]


def belongs(name: str, record: Record) -> bool:
    """Tell whether a record is of what is followed: of all replies, an operation's own."""
    if naming.is_target(name) and not naming.is_event(name) and record.topic.endswith(".replies"):
        return received(record, record.topic).envelope.type == f"{name}.reply"
    return True


async def follow(
    connection: Connection, name: str, *, since: int | None
) -> AsyncGenerator[list[Record], None]:
    """Follow what a name stands for.

    Args:
        connection: to Kafka.
        name: as for `choose_topics`.
        since: epoch ms from which kept records are given too; None for what comes from now on.

    Yields:
        Batches in the order of their timestamps.

    Raises:
        NotFound: there is nothing of that name.
        MeshError: Kafka can't be asked.
    """
    batches: asyncio.Queue[Sequence[Record] | MeshError] = asyncio.Queue()
    reader = TailReader(
        connection.settings,
        client_id=connection.client_id,
        received=batches.put_nowait,
        failed=batches.put_nowait,
    )
    followed: set[Partition] = set()
    stop = threading.Event()
    search = None
    try:
        new: dict[Partition, int] = {}
        await _follow_new(connection, name, reader, followed, new)
        if not new:
            raise await _not_found(connection, name)
        if since is not None:
            async for kept in _kept(connection, new, since, stop):
                yield _sorted(name, kept)
        search = asyncio.create_task(_search(connection, name, reader, followed, batches, stop))
        while True:
            batch = await batches.get()
            if isinstance(batch, MeshError):
                raise batch
            yield _sorted(name, batch)
    finally:
        stop.set()
        if search is not None:
            search.cancel()
        await reader.close()


def _sorted(name: str, batch: Iterable[Record]) -> list[Record]:
    return sorted((record for record in batch if belongs(name, record)), key=lambda record: record.timestamp)


async def _search(
    connection: Connection,
    name: str,
    reader: TailReader,
    followed: set[Partition],
    batches: asyncio.Queue[Sequence[Record] | MeshError],
    stop: threading.Event,
) -> None:
    """Look again and again for topics and partitions that appear, and give all their records from the first on.

    While Kafka is away nothing appears; the reader goes on by itself, and so does this.
    """
    new: dict[Partition, int] = {}
    try:
        while True:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            with suppress(Unavailable):
                await _follow_new(connection, name, reader, followed, new)
                async for kept in _kept(connection, new, None, stop):
                    batches.put_nowait(kept)
                new.clear()
    except MeshError as error:
        batches.put_nowait(error)


async def _follow_new(
    connection: Connection,
    name: str,
    reader: TailReader,
    followed: set[Partition],
    new: dict[Partition, int],
) -> None:
    """Follow the partitions that are not followed yet; notes each in `new`, with the offset from which it is."""
    topics = choose_topics(name, await connection.admin.topic_names())
    described = await connection.admin.describe(topics)
    partitions = {(info.name, number) for info in described.values() for number in range(info.partitions)}
    for partition in sorted(partitions - followed):
        new[partition] = await reader.follow(*partition)
        followed.add(partition)


async def _kept(
    connection: Connection, partitions: Mapping[Partition, int], since: int | None, stop: threading.Event
) -> AsyncIterator[list[Record]]:
    """Give the records before the offsets from which partitions are followed."""
    if not partitions:
        return
    records = scan(
        connection.settings,
        client_id=connection.client_id,
        partitions=partitions,
        since=since,
        stop=stop,
    )
    while batch := await asyncio.to_thread(lambda: list(itertools.islice(records, _BATCH))):
        yield batch


async def _not_found(connection: Connection, name: str) -> MeshError:
    names = await connection.admin.topic_names()
    services = sorted({naming.owner(topic) for topic in names if not topic.startswith("_")})
    hint = nearest(name, [*names, *services]) or "; mesh topics list shows what there is"
    return NotFound(f"there is no topic or service {name!r}{hint}")
