"""Reading the records of dead-letter topics, as little of them as will do.

On the way of a message: behind its end. Records are streamed, at most 500 of them or 4 MB at a time, headers
included: a topic holds dead letters without limit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from broker_mesh.contracts.registry import Registry
from broker_mesh.dead_letters.bodies import Bodies
from broker_mesh.dead_letters.letter import DeadLetter, Source, letter_of, source_of
from broker_mesh.dead_letters.selection import Selection
from broker_mesh.kafka.admin import Admin
from broker_mesh.kafka.groups import Groups
from broker_mesh.kafka.reader import scan
from broker_mesh.message import Record
from broker_mesh.settings import Settings

OnProgress: TypeAlias = Callable[[int, int], None]
"""Told how many records were looked at, and how many there are; on the event loop."""

_CHUNK = 500
_CHUNK_BYTES = 4 * 1024 * 1024

# A dead letter is written after its failure, by another clock than this one's or the broker's.
_CLOCK_SLACK_MS = 60_000


class DeadPartition(NamedTuple):
    """A partition that holds dead letters.

    Args:
        source: where they failed.
        number: of the partition.
        topic_id: of its topic; one that was deleted and made anew has another.
        first: offset of the first record that is kept.
        end: offset that the next record gets.
    """

    source: Source
    number: int
    topic_id: str
    first: int
    end: int

    @property
    def key(self) -> tuple[str, int]:
        """Topic and number."""
        return self.source.topic, self.number


class Reading:
    """How the records of dead-letter topics are read, for a selection. Blocking; in one thread.

    Args:
        settings: with `bootstrap_servers` set.
        selection: which are meant.
        client_id: how brokers name this client.
    """

    def __init__(self, settings: Settings, selection: Selection, *, client_id: str) -> None:
        self._settings = settings
        self._selection = selection
        self._client_id = client_id
        self.registry = Registry(settings, client_id=client_id)
        self._bodies = Bodies(self.registry)

    def chunks(
        self, starts: Mapping[DeadPartition, int], stop: threading.Event, progress: Progress
    ) -> Generator[list[DeadLetter], None, None]:
        """Read partitions from an offset to their captured ends; what headers already exclude is left out.

        Args:
            starts: the offset to begin with, for each partition.
            stop: ends the reading early.
            progress: told of each record.

        Raises:
            MeshError: Kafka can't be asked.
        """
        sources = {partition.source.topic: partition.source for partition in starts}
        from_first = all(start == partition.first for partition, start in starts.items())
        since = self._selection.earliest if from_first else None
        records = scan(
            self._settings,
            client_id=self._client_id,
            partitions={partition.key: partition.end for partition in starts},
            since=None if since is None else max(0, since - _CLOCK_SLACK_MS),
            start=None
            if since is not None
            else {partition.key: start for partition, start in starts.items()},
            stop=stop,
        )
        for chunk in in_chunks(records):
            letters = (letter_of(record, sources[record.topic]) for record in chunk)
            yield [letter for letter in letters if self._selection.admits(letter)]
            progress.add(len(chunk))

    def meant(self, letters: Iterable[DeadLetter], *, decode: bool) -> Iterator[DeadLetter]:
        """Give those that meet the condition on the value too; decoded, where that is asked or needed.

        Raises:
            Unavailable: the registry can't be read now.
        """
        decode = decode or self._selection.needs_bodies
        for letter in letters:
            decoded = self._bodies.decoded(letter) if decode else letter
            if self._selection.holds(decoded):
                yield decoded

    def value_of(self, letter: DeadLetter) -> Any:
        """Decode a dead letter's value.

        Raises:
            SchemaError: it can't be decoded.
            Unavailable: the registry can't be read now.
        """
        return self._bodies.value_of(letter)


class Progress:
    """Counts records on a thread, and tells of it on the event loop.

    Args:
        told: what is told; None for nobody.
        partitions: whose records are counted.
    """

    def __init__(self, told: OnProgress | None, partitions: Iterable[DeadPartition]) -> None:
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._total = sum(partition.end - partition.first for partition in partitions)
        self._done = 0

    def add(self, count: int) -> None:
        """Count records that were looked at."""
        # Where a partition is read again from some offset on, it is counted again, but never beyond the total.
        self._done = min(self._total, self._done + count)
        self._tell()

    def finish(self) -> None:
        """Tell that everything was looked at, also what never was a record: markers, and what `since` leaves out."""
        self._done = self._total
        self._tell()

    def _tell(self) -> None:
        if self._told is not None:
            self._loop.call_soon_threadsafe(self._told, self._done, self._total)


async def find_partitions(settings: Settings, selection: Selection, *, client_id: str) -> list[DeadPartition]:
    """Find the partitions that can hold what is meant; those that hold nothing are left out.

    Raises:
        NotFound: there is no such service or operation; with the nearest right name.
        MeshError: Kafka can't be asked.
    """
    admin, groups = Admin(settings, client_id), Groups(settings, client_id)
    existing = [source for name in await admin.topic_names() if (source := source_of(name)) is not None]
    sources = {source.topic: source for source in selection.sources(existing)}
    described = await admin.describe(sorted(sources))
    keys = [(info.name, number) for info in described.values() for number in range(info.partitions)]
    bounds = await groups.bounds(selection.partitions(keys))
    return [
        DeadPartition(sources[topic], number, described[topic].id, held.first, held.end)
        for (topic, number), held in sorted(bounds.items())
        if held.end > held.first
    ]


def topic_ids(partitions: Iterable[DeadPartition]) -> dict[str, str]:
    """Give the ids of the partitions' topics, by name."""
    return {partition.source.topic: partition.topic_id for partition in partitions}


def size_of(record: Record) -> int:
    """Tell how many bytes of memory a record takes, roughly: headers count, since anybody can make them large."""
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def in_chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Gather records, as many at a time as memory is meant for."""
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += size_of(record)
        if len(chunk) >= _CHUNK or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
