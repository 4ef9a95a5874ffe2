"""Consumer groups as an operator sees them: members, committed offsets, lag, and setting offsets anew.

On the way of a message: beside it. `mesh topics` and `mesh check` look at groups here; services
ask only at their start, and where partitions end that rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from broker_mesh.errors import FailedPrecondition, MeshError, Unavailable
from broker_mesh.kafka import config
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.lookup import Lookup
from broker_mesh.settings import Settings

T = TypeVar("T")
Partition: TypeAlias = tuple[str, int]

# Of the states that Kafka tells, those in which a group has no member.
_WITHOUT_MEMBERS = frozenset({"EMPTY", "DEAD"})


_FOR_EVER_SECONDS = 3600.0  # the longest that librdkafka takes


class Member(NamedTuple):
    """A member of a group.

    Args:
        client_id: how it calls itself.
        host: where it connects from.
        partitions: what it has.
        target: what it is to have once all have given up what they are to; None by the classic protocol.
    """

    client_id: str
    host: str
    partitions: tuple[Partition, ...]
    target: tuple[Partition, ...] | None = None


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


class Commit(NamedTuple):
    """What a group has committed of a partition.

    Args:
        offset: of the first record that is not done.
        metadata: the text beside it, `""` for none; of a native service `Progress.read` understands it.
    """

    offset: int
    metadata: str


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
        # Kept as long as its futures run: those of a client that is gone never end.
        try:
            self._client = AdminClient(properties)
        except KafkaException as error:
            raise translate(error, "setting up the connection to Kafka") from error
        self._given_up: list[Future[Any]] = []
        self._lookup = cache(partial(Lookup, settings, client_id))

    async def _ask(self, question: Callable[[AdminClient], Mapping[Any, Future[T]]], doing: str) -> T:
        """Ask a group's coordinator one question, and wait for the answer as long as for any other.

        librdkafka itself is told to wait for ever: where brokers were away, the answer to a question that it has given
        up ends the whole process (https://github.com/confluentinc/librdkafka/issues/4605).
        """
        if any(not future.done() for future in self._given_up):
            raise Unavailable(f"{doing}: earlier questions are not answered yet")
        self._given_up.clear()
        (future,) = question(self._client).values()
        answer = asyncio.ensure_future(_answer(future, doing))
        done, _ = await asyncio.wait({answer}, timeout=self._timeout)
        if not done:
            answer.cancel()
            self._given_up.append(future)
            raise Unavailable(f"{doing}: no answer within {self._timeout:g} s")
        return await answer

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
        return dict(zip(names, await asyncio.gather(*map(self._described, names)), strict=True))

    async def _described(self, name: str) -> Group:
        description = await self._ask(
            lambda client: client.describe_consumer_groups([name], request_timeout=_FOR_EVER_SECONDS),
            f"describing group {name!r}",
        )
        return _group(description)

    async def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Tell a group's committed offsets: of the first record of each partition that is not done, where there is one.

        Raises:
            MeshError: Kafka can't be asked.
        """
        return await self._lookup(group).committed(partitions)

    async def commits(self, group: str) -> dict[Partition, Commit]:
        """Tell all that a group has committed, with what stands beside it; for commands, not for what runs on.

        librdkafka ends the process where the group's coordinator is just moving (`lookup.py`), which a client finds
        that has known it for long.

        Raises:
            MeshError: Kafka can't be asked.
        """
        doing = f"reading the offsets of group {group!r}"
        request = [ConsumerGroupTopicPartitions(group)]
        answer = await self._ask(
            lambda client: client.list_consumer_group_offsets(request, request_timeout=_FOR_EVER_SECONDS),
            doing,
        )
        for place in answer.topic_partitions:
            if place.error is not None:
                raise translate(place.error, doing)
        return {
            (place.topic, place.partition): Commit(place.offset, place.metadata or "")
            for place in answer.topic_partitions
            if place.offset >= 0
        }

    async def bounds(self, partitions: Iterable[Partition]) -> dict[Partition, Bounds]:
        """Tell what partitions hold.

        Raises:
            MeshError: a partition does not exist, or Kafka can't be asked.
        """
        wanted = list(partitions)
        lookup = self._lookup(None)
        first, end = await lookup.firsts(wanted), await lookup.ends(wanted)
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
        request = [ConsumerGroupTopicPartitions(group, places)]
        doing = f"setting the offsets of group {group!r}"
        answer = await self._ask(
            lambda client: client.alter_consumer_group_offsets(request, request_timeout=_FOR_EVER_SECONDS),
            doing,
        )
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
            _places(member.assignment) if member.assignment else (),
            _places(member.target_assignment) if member.target_assignment else None,
        )
        for member in description.members
    )
    return Group(description.group_id, description.state.name, description.type.name, tuple(sorted(members)))


def _places(assignment: Any) -> tuple[Partition, ...]:
    return tuple(sorted((place.topic, place.partition) for place in assignment.topic_partitions))


async def _answer(future: Future[T], doing: str) -> T:
    waiting: Awaitable[T] = asyncio.wrap_future(future)
    try:
        return await waiting
    except KafkaException as error:
        failed: MeshError = translate(error, doing)
        raise failed from error
