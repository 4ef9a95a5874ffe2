"""What `mesh trace` is asked for: a handle, a place in the log, or an id, and what that tells of where to look."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import NamedTuple

from broker_mesh import naming
from broker_mesh.cli.connection import Connection
from broker_mesh.cli.records import kind_of
from broker_mesh.errors import InvalidArgument, MeshError, NotFound
from broker_mesh.headers import Place, ReplyTo
from broker_mesh.kafka.reader import record_at
from broker_mesh.message import Record, id_time, received
from broker_mesh.replies import HandleToken
from broker_mesh.settings import nearest
from broker_mesh.story import id_of, operation_of, stem_of

# Clocks of senders and brokers differ: records are looked for from so much before the message was made.
CLOCK_SLACK_MS = 60_000

PLACE = re.compile(r"([a-zA-Z0-9._-]{1,249})/(\d{1,9})/(\d{1,18})")


class Sought(NamedTuple):
    """What is looked for.

    Args:
        id: of the message.
        since: epoch ms before which nothing of it can be; None where its id does not tell.
        operation: the operation or event, where it is known.
        reply_to: where its replies are, where that is known.
    """

    id: str
    since: int | None
    operation: str | None = None
    reply_to: ReplyTo | None = None


async def understand(connection: Connection, text: str, operation: str | None) -> Sought:
    """Make out what a text names: a handle, a place in the log, or a message's id.

    Args:
        connection: to Kafka.
        text: the user's.
        operation: the operation or event that it is of, where the user says so.

    Raises:
        InvalidArgument: it is of another operation, or of none.
        NotFound: there is no such operation, or no such topic.
        MeshError: Kafka can't be asked.
    """
    names = await connection.admin.topic_names()
    if operation is not None and (operation not in names or operation.startswith("_")):
        hint = nearest(operation, filter(naming.is_target, names)) or "; mesh topics list shows what there is"
        raise NotFound(f"there is no operation or event {operation!r}{hint}")
    sought = await _meant(connection, text, names)
    if operation is not None and sought.operation not in (None, operation):
        raise InvalidArgument(f"{text[:60]!r} is of {sought.operation}, not of {operation}")
    return sought._replace(operation=operation or sought.operation)


def beginnings(names: Sequence[str]) -> list[str]:
    """Choose the topics that messages begin on: operations, events, and those of other programs with a subscriber."""
    read = {naming.source_of_failures(name) for name in names}
    return [name for name in names if naming.is_target(name) or name in read]


def since_of(message_id: str) -> int | None:
    """Tell the time before which nothing of a message can be, epoch ms; None where its id does not tell."""
    try:
        return id_time(message_id) - CLOCK_SLACK_MS
    except MeshError:
        return None


def replay_id_of(record: Record) -> str | None:
    """Tell which replay a record comes from; None for none."""
    return received(record, record.topic).envelope.replay_id


def home_of(records: Sequence[Record]) -> str | None:
    """Tell what a message was sent to first, where only replays of it were found; None where that is not known."""
    if any(replay_id_of(record) is None for record in records):
        return None
    origin = received(records[0], records[0].topic).envelope.origin
    return None if origin is None else operation_of(stem_of(_nothing_at(origin)))


async def _meant(connection: Connection, text: str, names: Sequence[str]) -> Sought:
    if text.startswith("mesh1."):
        token = HandleToken.decode(text)
        return Sought(token.id, since_of(token.id), token.operation, token.reply_to)
    match = PLACE.fullmatch(text)
    if match is None:
        return Sought(text, since_of(text))
    place = Place(match[1], int(match[2]), int(match[3]))
    if place.topic not in names:
        hint = nearest(place.topic, names) or "; mesh topics list shows what there is"
        raise NotFound(f"there is no topic {place.topic!r}{hint}")
    begun_on = beginnings(names)
    if kind_of(place.topic) == "record" and place.topic not in begun_on:
        raise InvalidArgument(
            f"{place.topic} is no topic of the mesh; 'mesh tap {place.topic}' shows its records"
        )
    record = await asyncio.to_thread(
        record_at, connection.settings, client_id=connection.client_id, place=place
    )
    if record is None:
        return Sought(text, None, operation_of(stem_of(_nothing_at(place))) or None)
    message_id = id_of(record)
    since = since_of(message_id)
    if since is None and record.topic in begun_on:
        since = record.timestamp - CLOCK_SLACK_MS
    operation = home_of([record]) or operation_of(stem_of(record))
    reply_to = received(record, record.topic).envelope.reply_to
    return Sought(message_id, since, operation if operation in begun_on else None, reply_to)


def _nothing_at(place: Place) -> Record:
    return Record(*place, timestamp=-1, key=None, value=None, headers=[])
