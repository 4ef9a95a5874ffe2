"""Rules that change while a process runs: `_mesh.policy`, read to its end and followed from there.

On the way of a message: beside it. Opened before anything is sent or served; what it follows counts for the next
message. While Kafka is away, and where a record can't be understood, what was known last goes on to hold. After a
failure all of it is read anew: the topic may be another one than before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from broker_mesh.adoption import Adoption
from broker_mesh.control.conflicts import without_effect
from broker_mesh.control.policy import Policy
from broker_mesh.control.resources import ResourceMap
from broker_mesh.control.store import POLICY_TOPIC, NotUnderstood
from broker_mesh.errors import DataLoss, FailedPrecondition, InvalidArgument, MeshError
from broker_mesh.kafka.reader import TailReader
from broker_mesh.kafka.table import CompactedTable
from broker_mesh.layers.authorize import Rules
from broker_mesh.settings import Settings

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0

# A fetch is answered as soon as there is a record; this is how often one is asked for in vain.
_IDLE_FETCH_MS = 500


class _Keyed(Protocol):
    """A record, as the table or the reader gives it."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def offset(self) -> int: ...


class LivePolicy:
    """The policy of a connected process, on one event loop.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        files: the resources of this process's own files, by their keys.
    """

    def __init__(self, settings: Settings, *, client_id: str, files: ResourceMap) -> None:
        self._settings = settings
        self._client_id = client_id
        self._policy = Policy(files, settings.topics)
        self._left_out: set[bytes] = set()  # keys of what was warned of
        self._position = 0  # offset of the next record that counts
        self._reader: TailReader | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def rules(self) -> Rules:
        """The access rules that hold now."""
        return self._policy.rules

    @property
    def adopted(self) -> Mapping[str, Adoption]:
        """What holds for adopted topics now, by topic: a mapping that is replaced, never changed."""
        return self._policy.adopted

    async def open(self) -> None:
        """Read what holds, and begin to follow it.

        Raises:
            FailedPrecondition: a record can't be understood: a rule that can't be enforced is not left out. (What says
                that it may be left out is, with a warning.)
            MeshError: Kafka can't be asked.
        """
        table = self._table(create=True)
        await asyncio.to_thread(table.read_to_end)
        try:
            for key, value in table.items.items():
                self._take_one(key, value)
        except InvalidArgument as error:
            raise FailedPrecondition(
                f"{error.message}; what can't be enforced is not left out: update this program, or remove the "
                "record with 'mesh delete'"
            ) from error
        self._position = table.position
        self._compile("hold")
        await self._follow()

    async def close(self) -> None:
        """Stop following."""
        self._closed = True
        if self._resuming is not None:
            self._resuming.cancel()
        if self._reader is not None:
            await self._reader.close()

    def _table(self, *, create: bool) -> CompactedTable:
        return CompactedTable(self._settings, POLICY_TOPIC, client_id=self._client_id, create=create)

    async def _follow(self) -> None:
        self._reader = TailReader(
            self._settings,
            client_id=self._client_id,
            received=self._received,
            failed=self._failed,
            name="access rules",
            more={"fetch.wait.max.ms": _IDLE_FETCH_MS},
        )
        await self._reader.follow(POLICY_TOPIC, 0, self._position)

    def _received(self, records: Sequence[_Keyed]) -> None:
        self._position = records[-1].offset + 1
        self._take((record.key or b"", record.value) for record in records)

    def _take(self, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        for key, value in entries:
            try:
                self._take_one(key, value)
            except InvalidArgument as error:
                logger.error("%s; what was known under this name goes on to hold", error.message)
        self._compile("have changed")

    def _take_one(self, key: bytes, value: bytes | None) -> None:
        """Take a record, or warn once that one is left out which says that it may be.

        Raises:
            InvalidArgument: it can't be understood, and is not one to be left out.
        """
        try:
            self._policy.take(key, value)
        except NotUnderstood as error:
            if key not in self._left_out:
                logger.warning(
                    "%s; it is not about access, so this process goes on without it: update the program",
                    error.message,
                )
            self._left_out.add(key)
        else:
            self._left_out.discard(key)

    def _compile(self, what: str) -> None:
        if self._policy.compile():
            self._say(what)
        for topic in self._policy.compile_topics():
            adoption = self._policy.adopted.get(topic)
            logger.info(
                "topic %s: validation is %s",
                topic,
                "as the registry has it: the topic is not adopted any more"
                if adoption is None
                else adoption.validation,
            )

    def _failed(self, error: MeshError) -> None:
        self._reader = None
        if not self._closed:
            self._resuming = asyncio.get_running_loop().create_task(self._resume(error))

    async def _resume(self, error: MeshError) -> None:
        """Go on where the reading ended, as soon as that is possible again."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            logger.error(
                "access rules can't be followed: %s; the last known hold, next try in %.1f s",
                error.message,
                pause,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            try:
                await self._read_anew()
                await self._follow()
            except MeshError as again:
                error = again
            else:
                return

    async def _read_anew(self) -> None:
        """Take what stands now in place of what stood before.

        Raises:
            DataLoss: the topic is shorter than it was: rules that nobody deleted would be gone.
            MeshError: Kafka can't be asked, or the topic is gone; one without rules is not made in its place.
        """
        table = self._table(create=False)
        await asyncio.to_thread(table.read_to_end)
        if table.position < self._position:
            raise DataLoss(
                f"topic {POLICY_TOPIC!r} ends at offset {table.position} and was read to {self._position} before: it "
                "was deleted or cut; once it holds what it should, restart what follows it"
            )
        self._position = table.position
        gone = self._policy.live.keys() - {key.decode("utf-8", "backslashreplace") for key in table.items}
        self._take([*((name.encode(), None) for name in gone), *table.items.items()])

    def _say(self, what: str) -> None:
        rules = self._policy.rules
        logger.info("access rules %s: %d, and the default is %s", what, len(rules.rules), rules.default)
        for sentence in without_effect(rules.rules):
            logger.warning("%s", sentence)
