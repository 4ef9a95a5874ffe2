"""Consumer groups as an operator sees them: members, committed offsets, lag, and setting offsets anew.

On the way of a message: beside it. `mesh topics` and `mesh check` look at groups here; services
ask only at their start, and where partitions end that rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeAlias, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from broker_mesh.errors import FailedPrecondition, MeshError
from broker_mesh.kafka import config
from broker_mesh.kafka.errors import translate
from broker_mesh.settings import Settings

T = TypeVar("T")
Partition: TypeAlias = tuple[str, int]

# Of the states that Kafka tells, those in which a group has no member.
_WITHOUT_MEMBERS = frozenset({"EMPTY", "DEAD"})


# What a partition's broker says that has not taken it up yet.
_NOT_SERVED_YET = frozenset(
    {"NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "UNKNOWN_LEADER_EPOCH", "FENCED_LEADER_EPOCH"}
    | {"OFFSET_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART"}
    | {"_NOENT"}  # the client itself has not heard of a leader; also of a partition that does not exist
)
_ASK_AGAIN_SECONDS = 0.02


class Member(NamedTuple):
    """A member of a group.

    Args:
        client_id: how it calls itself.
        host: where it connects from.
        partitions: what it has.
    """

    client_id: str
    host: str
    partitions: tuple[Partition, ...]


class Group(NamedTuple):
    """A consumer group as Kafka describes it.

    Args:
        name: of the group.
        state: for instance STABLE, EMPTY; DEAD where there is no such group.
        protocol: CONSUMER (KIP-848) or CLASSIC.
        members: those that are in it now.
    """

    name: str
    state: str
    protocol: str
    members: tuple[Member, ...]

    @property
    def exists(self) -> bool:
        """Whether Kafka knows it."""
        return self.state != "DEAD"


class Bounds(NamedTuple):
    """What a partition holds: the first offset that is kept, and the one that the next record gets."""

    first: int
    end: int


class Groups:
    """Looks after consumer groups; on one event loop.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.

    Raises:
        SettingsError: librdkafka refuses a property.
    """

    def __init__(self, settings: Settings, client_id: str) -> None:
        self._timeout = settings.connect_timeout_seconds
        properties = config.without(
            config.common(settings, client_id=client_id, on_error=lambda _: None),
            config.CONSUMER_ONLY + config.PRODUCER_ONLY,
        )
        try:
            # Kept as long as its futures run: those of a client that is gone never end.
            self._client = AdminClient(properties)
        except KafkaException as error:
            raise translate(error, "setting up the connection to Kafka") from error

    async def names(self) -> list[str]:
        """List the names of all groups, sorted.

        Raises:
            MeshError: Kafka can't be asked.
        """
        listed = await _answer(
            self._client.list_consumer_groups(request_timeout=self._timeout), "listing consumer groups"
        )
        return sorted(group.group_id for group in listed.valid)

    async def describe(self, names: Sequence[str]) -> dict[str, Group]:
        """Describe groups by name; one that Kafka does not know is DEAD.

        Raises:
            MeshError: Kafka can't be asked.
        """
        if not names:
            return {}
        futures = self._client.describe_consumer_groups(list(names), request_timeout=self._timeout)
        return {
            name: _group(await _answer(future, f"describing group {name!r}"))
            for name, future in futures.items()
        }

    async def committed(self, group: str) -> dict[Partition, int]:
        """Tell a group's committed offsets: of the first record of each partition that is not done.

        Raises:
            MeshError: Kafka can't be asked.
        """
        doing = f"reading the offsets of group {group!r}"
        request = [ConsumerGroupTopicPartitions(group)]
        (future,) = self._client.list_consumer_group_offsets(request, request_timeout=self._timeout).values()
        answer = await _answer(future, doing)
        for place in answer.topic_partitions:
            if place.error is not None:
                raise translate(place.error, doing)
        return {
            (place.topic, place.partition): place.offset
            for place in answer.topic_partitions
            if place.offset >= 0
        }

    async def bounds(self, partitions: Iterable[Partition]) -> dict[Partition, Bounds]:
        """Tell what partitions hold.

        Raises:
            MeshError: a partition does not exist, or Kafka can't be asked.
        """
        wanted = list(partitions)
        if not wanted:
            return {}
        earliest, latest = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
        first, end = await asyncio.gather(self._offsets(wanted, earliest), self._offsets(wanted, latest))
        return {key: Bounds(first[key], end[key]) for key in wanted}

    async def require_no_members(self, group: str) -> None:
        """Refuse a group that works: its offsets are its own then.

        Raises:
            FailedPrecondition: it has members.
            MeshError: Kafka can't be asked.
        """
        found = (await self.describe([group]))[group]
        if found.members or found.state not in _WITHOUT_MEMBERS:
            raise FailedPrecondition(
                f"group {group!r} has {len(found.members)} members ({found.state}): stop its service first"
            )

    async def reset(self, group: str, offsets: Mapping[Partition, int]) -> None:
        """Set the committed offsets of a group that has no members.

        Raises:
            FailedPrecondition: it has members; nothing is changed.
            MeshError: Kafka refuses.
        """
        await self.require_no_members(group)
        places = [TopicPartition(*key, offset) for key, offset in offsets.items()]
        (future,) = self._client.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, places)], request_timeout=self._timeout
        ).values()
        doing = f"setting the offsets of group {group!r}"
        answer = await _answer(future, doing)
        for place in answer.topic_partitions:
            if place.error is not None:
                raise translate(place.error, doing)

    async def session_timeout(self, group: str) -> float | None:
        """Tell after how many seconds without a sign of life a member of a group counts as gone (KIP-848).

        Returns:
            None where the broker has no such setting.

        Raises:
            MeshError: Kafka can't be asked.
        """
        resource = ConfigResource(ResourceType.GROUP, group)
        future = self._client.describe_configs([resource], request_timeout=self._timeout)[resource]
        entries = await _answer(future, f"reading the configuration of group {group!r}")
        entry = entries.get("consumer.session.timeout.ms")
        return int(entry.value) / 1000 if entry is not None and entry.value else None

    async def _offsets(self, partitions: Sequence[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        """Ask for offsets, and again for those whose leader has just been made and does not know it yet."""
        patience = time.monotonic() + self._timeout
        found: dict[Partition, int] = {}
        left: Sequence[Partition] = partitions
        while True:
            request = {TopicPartition(*key): spec for key in left}
            futures = self._client.list_offsets(request, request_timeout=self._timeout)
            left = []
            for place, future in futures.items():
                key = (place.topic, place.partition)
                doing = f"asking for the offsets of {place.topic}/{place.partition}"
                try:
                    found[key] = (await _answer(future, doing)).offset
                except MeshError as error:
                    if error.details.get("kafka") not in _NOT_SERVED_YET or time.monotonic() >= patience:
                        raise
                    left.append(key)
            if not left:
                return found
            await asyncio.to_thread(self._hear_of_leaders)
            await asyncio.sleep(_ASK_AGAIN_SECONDS)

    def _hear_of_leaders(self) -> None:
        """Read the cluster's metadata: asked for offsets, librdkafka goes on by what it has once heard of a topic."""
        try:
            self._client.list_topics(timeout=self._timeout)
        except KafkaException as error:
            raise translate(error, "asking for the leaders of partitions") from error


def lag(partitions: Mapping[Partition, Bounds], committed: Mapping[Partition, int]) -> int:
    """Count the records that a group has before it; where nothing is committed, all that is kept."""
    return sum(
        max(0, bounds.end - max(committed.get(key, bounds.first), bounds.first))
        for key, bounds in partitions.items()
    )


def _group(description: Any) -> Group:
    members = (
        Member(
            member.client_id,
            member.host,
            tuple(
                sorted(
                    (place.topic, place.partition)
                    for place in (member.assignment.topic_partitions if member.assignment else ())
                )
            ),
        )
        for member in description.members
    )
    return Group(description.group_id, description.state.name, description.type.name, tuple(sorted(members)))


async def _answer(future: Future[T], doing: str) -> T:
    waiting: Awaitable[T] = asyncio.wrap_future(future)
    try:
        return await waiting
    except KafkaException as error:
        failed: MeshError = translate(error, doing)
        raise failed from error
