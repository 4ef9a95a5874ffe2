"""The dead letters that are neither replayed nor dropped: by cause, one by one, or those of one message.

On the way of a message: behind its end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TypeVar

from broker_mesh.dead_letters.causes import Cause, Causes
from broker_mesh.dead_letters.letter import DeadLetter
from broker_mesh.dead_letters.reading import OnProgress, Progress, Reading, find_partitions, topic_ids
from broker_mesh.dead_letters.selection import Selection
from broker_mesh.errors import NotFound
from broker_mesh.kafka.claims import Claim, Claims
from broker_mesh.settings import Settings

T = TypeVar("T")


class DeadLetters:
    """The dead letters of a Kafka cluster; connects with its first use.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
    """

    def __init__(self, settings: Settings, *, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id

    async def causes(self, selection: Selection, *, on_progress: OnProgress | None = None) -> list[Cause]:
        """Count dead letters that are neither replayed nor dropped, by cause; in bounded memory.

        Args:
            selection: which are meant.
            on_progress: told how far it is.

        Returns:
            The causes, the most frequent first.

        Raises:
            NotFound: there is no such service or operation; with the nearest right name.
            MeshError: Kafka can't be asked.
        """
        causes = Causes()
        async with aclosing(self._read(selection, on_progress, decode=False)) as batches:
            async for batch in batches:
                for letter, claim in batch:
                    if claim is None:
                        causes.add(letter)
        return causes.all()

    async def letters(
        self, selection: Selection, *, on_progress: OnProgress | None = None
    ) -> AsyncGenerator[list[DeadLetter], None]:
        """Give dead letters that are neither replayed nor dropped, decoded; those of a partition in their order.

        Args:
            selection: which are meant.
            on_progress: told how far it is.

        Yields:
            Batches.

        Raises:
            NotFound: there is no such service or operation; with the nearest right name.
            MeshError: Kafka can't be asked.
        """
        async with aclosing(self._read(selection, on_progress, decode=True)) as batches:
            async for batch in batches:
                if unsettled := [letter for letter, claim in batch if claim is None]:
                    yield unsettled

    async def find(
        self, name: str, *, on_progress: OnProgress | None = None
    ) -> list[tuple[DeadLetter, Claim | None]]:
        """Find all dead letters of one message, decoded, each with what was done with it, if anything was.

        Args:
            name: a message's id, or a place ``topic/partition/offset``: of the dead letter, or where the message
                first stood.
            on_progress: told how far it is.

        Returns:
            At least one; a message that failed again after a replay has several. The earliest first.

        Raises:
            NotFound: there is none.
            MeshError: Kafka can't be asked.
        """
        selection = Selection(ids=frozenset({name}))
        found = []
        async with aclosing(self._read(selection, on_progress, decode=True)) as batches:
            async for batch in batches:
                found += batch
        if not found:
            raise NotFound(f"no dead letter has the id or place {name[:300]!r}")
        return sorted(found, key=lambda pair: pair[0].last_failure)

    async def _read(
        self, selection: Selection, on_progress: OnProgress | None, *, decode: bool
    ) -> AsyncGenerator[list[tuple[DeadLetter, Claim | None]], None]:
        partitions = await find_partitions(self._settings, selection, client_id=self._client_id)
        reading = Reading(self._settings, selection, client_id=self._client_id)
        progress = Progress(on_progress, partitions)

        def batches(
            stop: threading.Event,
        ) -> Generator[list[tuple[DeadLetter, Claim | None]], None, None]:
            claims = Claims(self._settings, topic_ids(partitions), client_id=self._client_id)
            claims.read()
            starts = {partition: partition.first for partition in partitions}
            for chunk in reading.chunks(starts, stop, progress):
                # Not decoded where it is settled and nobody is going to look at it.
                pairs = [(letter, claims.of(letter.partition, letter.place.offset)) for letter in chunk]
                if not selection.ids:
                    pairs = [(letter, claim) for letter, claim in pairs if claim is None]
                claim_of = {letter.place: claim for letter, claim in pairs}
                meant = reading.meant((letter for letter, _ in pairs), decode=decode)
                yield [(letter, claim_of[letter.place]) for letter in meant]

        async with aclosing(_in_its_thread(batches)) as found:
            async for batch in found:
                yield batch
        progress.finish()


async def _in_its_thread(
    make: Callable[[threading.Event], Generator[T, None, None]],
) -> AsyncGenerator[T, None]:
    """Give what a blocking generator gives, which runs and is closed in one thread of its own."""
    stop = threading.Event()
    thread = ThreadPoolExecutor(1, thread_name_prefix="mesh-dead-letters")
    items = make(stop)
    loop = asyncio.get_running_loop()
    end = object()
    try:
        while (item := await loop.run_in_executor(thread, next, items, end)) is not end:
            yield item  # type: ignore[misc]
    finally:
        stop.set()  # what still runs there ends soon, and closes its consumer
        thread.submit(items.close)
        thread.shutdown(wait=False)
