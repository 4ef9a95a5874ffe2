"""Reading what is parked: the retry partition beside one that is taken over, from its position to its end.

On the way of a message: before the first record of the partition is handled. Of what stands there only the keys are
kept, and what it is a copy of: enough to know what must not be passed, and what need not be written again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from broker_mesh.errors import Unavailable
from broker_mesh.kafka.admin import Admin
from broker_mesh.kafka.backward import end_of_records
from broker_mesh.kafka.groups import Bounds, Groups
from broker_mesh.kafka.positions import Partition
from broker_mesh.kafka.reader import scan
from broker_mesh.message import is_for, received
from broker_mesh.parking import Copied, Settled, identity, name_of
from broker_mesh.settings import Settings

_MOST_REPLAYS: Final = 10_000
"""How many replays are recognised: by where they come from nobody can tell whether they are still to come."""


class Wanted(NamedTuple):
    """A retry partition that is to be read.

    Args:
        partition: which.
        operation: the operation or event whose retries it holds.
        settled: what of it is settled.
        beside: the partition whose records it holds copies of, and the first offset there that is not settled.
    """

    partition: Partition
    operation: str
    settled: Settled
    beside: tuple[Partition, int]


class Found(NamedTuple):
    """What stands in a retry partition.

    Args:
        last: the highest offset of each key, by its name.
        copies: what stands there a second time in the partition beside, and is not settled in that.
        end: the offset behind the last that was looked at.
    """

    last: dict[bytes, int]
    copies: set[Copied]
    end: int


class Survey(NamedTuple):
    """How a service learns what its retry topics hold.

    Args:
        counts: tells how many partitions topics have; without those that do not exist.
        bounds: tells what partitions hold.
        end: tells behind which offset of a partition its last record stands, which a group can commit.
        committed: tells the committed offsets of the service's group.
        read: reads retry partitions (blocking); see `read_parked`.
    """

    counts: Callable[[Collection[str]], Awaitable[Mapping[str, int]]]
    bounds: Callable[[Collection[Partition]], Awaitable[Mapping[Partition, Bounds]]]
    end: Callable[[Partition], Awaitable[int]]
    committed: Callable[[Collection[Partition]], Awaitable[Mapping[Partition, int]]]
    read: Callable[[Sequence[Wanted], Mapping[Partition, Bounds], threading.Event], dict[Partition, Found]]


def survey(settings: Settings, *, client_id: str, group: str, admin: Admin, groups: Groups) -> Survey:
    """Make what asks Kafka on behalf of a service.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        group: the service's.
        admin: describes topics.
        groups: asks about partitions and groups.
    """

    async def counts(names: Collection[str]) -> Mapping[str, int]:
        return {name: info.partitions for name, info in (await admin.describe(sorted(names))).items()}

    async def bounds(partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
        return await groups.bounds(partitions)

    async def end(partition: Partition) -> int:
        held = (await groups.bounds([partition]))[partition]
        found = await asyncio.to_thread(
            end_of_records, settings, client_id=client_id, partition=partition, end=held.end
        )
        if found is None:
            raise Unavailable(
                f"{partition[0]}/{partition[1]} can't be read to its end: a transaction is open on it"
            )
        return found

    async def committed(partitions: Collection[Partition]) -> Mapping[Partition, int]:
        return await groups.committed(group, partitions)

    def read(
        wanted: Sequence[Wanted], within: Mapping[Partition, Bounds], stop: threading.Event
    ) -> dict[Partition, Found]:
        return read_parked(settings, client_id=client_id, wanted=wanted, bounds=within, stop=stop)

    return Survey(counts, bounds, end, committed, read)


def read_parked(
    settings: Settings,
    *,
    client_id: str,
    wanted: Sequence[Wanted],
    bounds: Mapping[Partition, Bounds],
    stop: threading.Event,
) -> dict[Partition, Found]:
    """Read retry partitions (blocking); without a look at Kafka where nothing stands there.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        wanted: what to read.
        bounds: what each of these partitions holds.
        stop: ends the reading early.

    Raises:
        MeshError: Kafka can't be asked; or one can't be read to its end now, and who knows what stands behind that.
    """
    by_partition = {each.partition: each for each in wanted}
    found = {key: Found({}, set(), bounds[key].end) for key in by_partition}
    starts = {key: max(each.settled.position, bounds[key].first) for key, each in by_partition.items()}
    unread = {key: bounds[key].end for key, start in starts.items() if start < bounds[key].end}
    if not unread:
        return found
    replays = 0
    for record in scan(
        settings,
        client_id=client_id,
        partitions=unread,
        since=None,
        stop=stop,
        start={key: starts[key] for key in unread},
        whole=True,
    ):
        key = record.topic, record.partition
        asked, stands = by_partition[key], found[key]
        if asked.settled.includes(record.offset):
            continue
        message = received(record, asked.operation)
        if not is_for(message, None):
            continue
        if record.key is not None:
            stands.last[name_of(record.key)] = record.offset
        copy = identity(message)
        origin, replay, _ = copy
        (topic, number), first = asked.beside
        if replay is not None:
            replays += 1
            if replays <= _MOST_REPLAYS:
                stands.copies.add(copy)
        elif (origin.topic, origin.partition) == (topic, number) and origin.offset >= first:
            stands.copies.add(copy)
    return found
