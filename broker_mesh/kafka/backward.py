"""Reading the newest records of a partition, as far back as is asked for.

On the way of a message: beside it, after a partition was assigned: what was settled before is read so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from broker_mesh.errors import Unavailable
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.reader import open_consumer, watermarks
from broker_mesh.kafka.records import to_record
from broker_mesh.message import Record
from broker_mesh.settings import Settings

Partition: TypeAlias = tuple[str, int]

T = TypeVar("T")

# Offsets. The first piece is small and each next one larger: a limit in bytes is looked at between two of them.
_FIRST_PIECE = 16
_PIECE_GROWTH = 4
_LARGEST_PIECE = 1000
_BATCH = 500
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 10.0


class Stretch(NamedTuple, Generic[T]):
    """What was read.

    Args:
        picked: of each record, oldest first.
        end: the offset behind the last that was looked at.
    """

    picked: list[T]
    end: int


def newest(
    settings: Settings,
    *,
    client_id: str,
    partition: Partition,
    start: int = 0,
    end: int | None = None,
    since: int,
    at_most: int,
    max_bytes: int | None = None,
    pick: Callable[[Record], T],
) -> Stretch[T]:
    """Read the newest records of a partition (blocking).

    It goes backwards in pieces, so that where a limit ends it the newest have been read.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        partition: whose.
        start: the lowest offset.
        end: the offset behind the last; None for the partition's end as it is now.
        since: nothing older is given, epoch ms by the records' timestamps.
        at_most: how many offsets to look at.
        max_bytes: reading ends with the piece in which so many bytes of keys, values and headers are reached.
        pick: what is kept in memory of each record.

    Raises:
        NotFound: there is no such topic or partition.
        Unavailable: nothing came for 10 s.
        MeshError: what else Kafka reports.
    """
    consumer = open_consumer(
        settings,
        client_id,
        OutageLog(f"reader of {partition[0]}"),
        # At a piece's end only this event tells that markers or compacted records stand there.
        {"enable.partition.eof": True, "fetch.wait.max.ms": 10, "queued.min.messages": _LARGEST_PIECE},
    )
    pieces: list[list[T]] = []
    try:
        low, high = watermarks(consumer, *partition)
        upper = position = high if end is None else min(end, high)
        lower, size, length = max(low, start, upper - at_most), 0, _FIRST_PIECE
        while position > lower:
            begin = max(lower, position - length)
            length = min(length * _PIECE_GROWTH, _LARGEST_PIECE)
            piece: list[T] = []
            oldest = since
            for record in _read(consumer, partition, begin, position):
                oldest = min(oldest, record.timestamp)
                size += len(record.key or b"") + len(record.value or b"")
                size += sum(len(name) + len(content or b"") for name, content in record.headers)
                if record.timestamp >= since:
                    piece.append(pick(record))
            pieces.append(piece)
            position = begin
            if oldest < since or (max_bytes is not None and size >= max_bytes):
                break
            if max_bytes is not None and size:  # as many as are left, should they be as large as those so far
                length = min(length, max(1, (max_bytes - size) * (upper - position) // size))
    except KafkaException as error:
        raise translate(error, f"reading {partition[0]}/{partition[1]}") from error
    finally:
        consumer.close()
    return Stretch([picked for piece in reversed(pieces) for picked in piece], upper)


def end_of_records(settings: Settings, *, client_id: str, partition: Partition, end: int) -> int | None:
    """Tell behind which offset of a partition its last record stands (blocking).

    Not the partition's own end: where the marker of a transaction stands there no group ever commits it.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        partition: whose.
        end: the partition's own end.

    Returns:
        0 where it holds no record; None while a transaction is open, since what that holds may count or not.

    Raises:
        MeshError: as of `newest`.
    """
    found = newest(
        settings,
        client_id=client_id,
        partition=partition,
        end=end,
        since=-1,
        at_most=max(1, end),
        max_bytes=1,  # as soon as there is any
        pick=lambda record: record.offset + 1,
    )
    if found.end < end:  # read as committed, the partition ends before an open transaction
        return None
    return max(found.picked, default=0)


def _read(consumer: Consumer, partition: Partition, begin: int, end: int) -> Iterator[Record]:
    consumer.assign([TopicPartition(*partition, begin)])
    patience = time.monotonic() + _PATIENCE_SECONDS
    position = begin
    while position < end:
        if time.monotonic() >= patience:
            raise Unavailable(
                f"reading {partition[0]}/{partition[1]}: nothing came for {_PATIENCE_SECONDS:g} s"
            )
        first = consumer.poll(_POLL_SECONDS)
        for message in [] if first is None else [first, *consumer.consume(_BATCH - 1, 0)]:
            error, offset = message.error(), message.offset()
            if error is None:
                patience = time.monotonic() + _PATIENCE_SECONDS
                record = to_record(message)
                position = record.offset + 1
                if record.offset < end:
                    yield record
            elif error.code() == KafkaError._PARTITION_EOF:
                position = max(position, offset or 0)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                return  # retention has just taken what stood there
            elif error.fatal() or not translate(error, "").retriable:
                raise KafkaException(error)
