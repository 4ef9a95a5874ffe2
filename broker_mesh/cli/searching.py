"""Finds the records of one message for `mesh trace`, reading as little of Kafka as will do.

A UUIDv7 tells when a message was made, so that nothing older is read. Its first record is looked for first: it says
what is called and where replies go, and with that only the topics beside it are read.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from broker_mesh import headers, naming
from broker_mesh.cli.connection import Connection
from broker_mesh.cli.progress import Count
from broker_mesh.cli.records import kind_of
from broker_mesh.cli.sought import CLOCK_SLACK_MS, PLACE, Sought, beginnings, home_of, replay_id_of, since_of
from broker_mesh.errors import NotFound
from broker_mesh.headers import Place, ReplyTo
from broker_mesh.kafka.claims import Action, Claims
from broker_mesh.kafka.reader import Partition, scan
from broker_mesh.message import Record, received
from broker_mesh.story import Dropped, id_of, operation_of, stem_of

_COUNT_EVERY = 1000
_RESTARTS = 2  # records that name each other would have it go on for ever

_NAMING = (headers.CE_ID, headers.CORRELATION_ID, headers.ORIGIN)


class Found(NamedTuple):
    """What was found.

    Args:
        id: of the message.
        records: its own, its retries, dead letters, replays and replies.
        dropped: those of its dead letters that were dropped.
        put_back: those that were put back, each with the id of the replay.
        subscriptions: where it is an event, the stems of its subscribers' topics.
    """

    id: str
    records: list[Record]
    dropped: list[Dropped]
    put_back: dict[Place, str]
    subscriptions: list[str]


async def gather(connection: Connection, sought: Sought, count: Count) -> Found:
    """Find the records of a message.

    Args:
        connection: to Kafka.
        sought: as `understand` gives it.
        count: told how many records have been read.

    Raises:
        NotFound: there is none.
        MeshError: Kafka can't be asked.
    """
    found: Found | Sought = sought
    restarts = _RESTARTS
    while isinstance(found, Sought):
        found = await _gather(connection, found, count, may_restart=restarts > 0)
        restarts -= 1
    return found


async def _gather(
    connection: Connection, sought: Sought, count: Count, *, may_restart: bool
) -> Found | Sought:
    """Find the records of a message, or learn that it is to be looked for by another id or in another place."""
    names = await connection.admin.topic_names()
    search = _Search(connection, sought.id, count)
    begun_on = beginnings(names)
    targets = [sought.operation] if sought.operation else begun_on
    records = await search.read(targets, since=sought.since, first_only=True)
    if records and may_restart and (home := home_of(records)) not in (None, sought.operation):
        return sought._replace(operation=home)
    sought = _narrowed(sought, records, begun_on)
    beside = _beside(sought, names, replied=not records or sought.reply_to is not None)
    records += await search.read(beside, since=sought.since, only=sought.reply_to)
    sought = _narrowed(sought, records, begun_on)
    if not records:
        where = sought.operation or "any topic of the mesh"
        raise NotFound(
            f"no record of {sought.id[:300]!r} is kept in {where}; an older one may be gone by retention"
        )
    dropped, put_back = await _follow_replays(connection, search, records, names)
    found_id = id_of(records[0])
    if may_restart and PLACE.fullmatch(sought.id) and not PLACE.fullmatch(found_id):
        # It was named by the place where it first stood, where nothing stands any more; its replies know only its id.
        return sought._replace(id=found_id, since=since_of(found_id))
    return Found(sought.id, records, dropped, put_back, _subscriptions(sought.operation or "", names))


async def _follow_replays(
    connection: Connection, search: _Search, records: list[Record], names: Sequence[str]
) -> tuple[list[Dropped], dict[Place, str]]:
    """Add what became of dead letters that were put back, wherever that was; gives those dropped and those put back."""
    dropped: list[Dropped] = []
    put_back: dict[Place, str] = {}
    known = {(record.topic, record.partition, record.offset) for record in records}
    letters = [record for record in records if kind_of(record.topic) == "dead"]
    while letters:
        described = await connection.admin.describe(sorted({letter.topic for letter in letters}))
        ids = {name: info.id for name, info in described.items()}
        claims = Claims(connection.settings, ids, client_id=connection.client_id)
        await asyncio.to_thread(claims.read)
        replayed: dict[str, int] = {}
        for letter in letters:
            claim = claims.of((letter.topic, letter.partition), letter.offset)
            if claim is None:
                continue
            place = Place(letter.topic, letter.partition, letter.offset)
            if claim.action is Action.DROPPED:
                dropped.append(Dropped(place, claim.at))
            else:
                put_back[place] = claim.replay_id
                replayed[claim.target] = min(claim.at, replayed.get(claim.target, claim.at))
        letters = []
        for target, at in replayed.items():
            source = naming.source_of_failures(target) or target
            topics = dict.fromkeys(
                [target, *_failures(source, names)]
            )  # a subscription's target is one of these
            for record in await search.read(topics, since=at - CLOCK_SLACK_MS):
                if (found := (record.topic, record.partition, record.offset)) not in known:
                    known.add(found)
                    records.append(record)
                    letters += [record] if kind_of(record.topic) == "dead" else []
    return dropped, put_back


class _Search:
    """Reads topics for the records of one message."""

    def __init__(self, connection: Connection, message_id: str, count: Count) -> None:
        self._connection = connection
        self._id = message_id.encode()
        self._place = PLACE.fullmatch(message_id)
        self._count = count

    async def read(
        self,
        topics: Iterable[str],
        *,
        since: int | None,
        first_only: bool = False,
        only: ReplyTo | None = None,
    ) -> list[Record]:
        """Give the message's records in these topics; of the topic of `only`, only that partition is read.

        With `first_only`, up to the one that it began with; replays may be met before it.
        """
        described = await self._connection.admin.describe(list(topics))
        bounds = await self._connection.groups.bounds(
            (info.name, number)
            for info in described.values()
            for number in range(info.partitions)
            if only is None or info.name != only.topic or number == only.partition
        )
        ends = {partition: held.end for partition, held in bounds.items()}
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._read, ends, since, first_only, stop)
        finally:
            stop.set()

    def _read(
        self, ends: Mapping[Partition, int], since: int | None, first_only: bool, stop: threading.Event
    ) -> list[Record]:
        if not ends:
            return []
        total = 0

        def begin(starts: Mapping[Partition, int]) -> None:
            nonlocal total
            total = sum(ends[partition] - start for partition, start in starts.items())
            self._count(0, total)

        found = []
        connection = self._connection
        records = scan(
            connection.settings,
            client_id=connection.client_id,
            partitions=ends,
            since=None if since is None else max(0, since),
            stop=stop,
            begun=begin,
        )
        for number, record in enumerate(records, 1):
            if number % _COUNT_EVERY == 0:
                self._count(number, total)
            if self._is_meant(record):
                found.append(record)
                if first_only and replay_id_of(record) is None:
                    break
        return found

    def _is_meant(self, record: Record) -> bool:
        for name, value in record.headers:
            if value == self._id and name in _NAMING:
                return True
        place = self._place
        return place is not None and (record.topic, record.partition, record.offset) == (
            place[1],
            int(place[2]),
            int(place[3]),
        )


def _narrowed(sought: Sought, records: Sequence[Record], begun_on: Sequence[str]) -> Sought:
    """Add what the records found so far tell of where others are."""
    for record in records:
        operation = operation_of(stem_of(record))
        if sought.operation is None and operation in begun_on:
            sought = sought._replace(operation=operation)
        if sought.reply_to is None:
            sought = sought._replace(reply_to=received(record, record.topic).envelope.reply_to)
    return sought


def _beside(sought: Sought, names: Sequence[str], *, replied: bool) -> list[str]:
    """Choose the topics of retries, dead letters and (where it can have been replied to) replies that it can be in."""
    operation = sought.operation
    if operation is None:
        return [name for name in names if kind_of(name) in ("retry", "dead", "reply")]
    chosen = _failures(operation, names)
    if not replied or naming.is_event(operation) or not naming.is_target(operation):
        return chosen
    replies = [name for name in names if kind_of(name) == "reply"]
    return [*chosen, *(replies if sought.reply_to is None else [sought.reply_to.topic])]


def _failures(operation: str, names: Sequence[str]) -> list[str]:
    """Choose the topics of an operation's, or of all a topic's subscribers', retries and dead letters."""
    return [name for name in names if naming.source_of_failures(name) == operation]


def _subscriptions(source: str, names: Sequence[str]) -> list[str]:
    dead = naming.dead_topic("")
    return [
        name.removesuffix(dead)
        for name in names
        if name.endswith(dead) and naming.source_of_failures(name) == source and name != f"{source}{dead}"
    ]
