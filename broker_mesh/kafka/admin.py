"""Administration: what topics there are, making ours, and whether Kafka can be reached at all.

On the way of a message: at the start of a service, and before the first message to a topic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from broker_mesh.errors import MeshError, NotFound, Unauthenticated, Unavailable
from broker_mesh.kafka import config
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.lookup import Lookup
from broker_mesh.kafka.outages import LastErrors
from broker_mesh.kafka.topics import TopicSpec
from broker_mesh.settings import Settings

_TOPIC_USABLE_SECONDS = 10.0
_ASK_AGAIN_SECONDS = 0.02


class TopicInfo(NamedTuple):
    """A topic as Kafka describes it; its id tells it from a deleted one of the same name (KIP-516)."""

    name: str
    partitions: int
    replication_factor: int
    id: str


def known_brokers(metadata: ClusterMetadata) -> Collection[int]:
    """Give the ids of the brokers that a broker knows of.

    Raises:
        Unavailable: of none: it has just come back, and its controller does not count on it yet.
    """
    if not metadata.brokers:
        raise Unavailable("Kafka answers, but none of its brokers is ready yet; try again in a moment")
    return metadata.brokers.keys()


class Admin:
    """Kafka's admin client for one event loop.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.

    Raises:
        SettingsError: librdkafka refuses a property.
    """

    def __init__(self, settings: Settings, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._timeout = settings.connect_timeout_seconds
        self._errors = LastErrors()
        self._has_connected = False
        properties = config.without(
            config.common(settings, client_id=client_id, on_error=self._errors),
            config.CONSUMER_ONLY + config.PRODUCER_ONLY,
        )
        try:
            self._client = AdminClient(properties)
        except KafkaException as error:
            raise translate(error, "setting up the connection to Kafka") from error

    async def count_brokers(self) -> int:
        """Connect, and tell how many brokers there are.

        Raises:
            Unavailable: none answered within `connect_timeout_seconds`.
            Unauthenticated: TLS or SASL settings do not fit the broker's.
        """
        brokers = await self._brokers()
        self._has_connected = True
        return len(brokers)

    async def describe(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        """Describe those of the named topics that exist, without making any.

        Raises:
            MeshError: Kafka can't be asked.
        """
        if not names:
            return {}
        futures = self._client.describe_topics(TopicCollection(list(names)), request_timeout=self._timeout)
        found: dict[str, TopicInfo] = {}
        for name, future in futures.items():
            try:
                topic = await asyncio.wrap_future(future)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue
                raise self._failed(error, f"describing topic {name!r}") from error
            replicas = min((len(partition.replicas) for partition in topic.partitions), default=0)
            found[name] = TopicInfo(name, len(topic.partitions), replicas, str(topic.topic_id))
        return found

    async def topic_names(self) -> list[str]:
        """List the names of all topics, sorted."""
        try:
            metadata = await self._metadata()
        except KafkaException as error:
            raise self._failed(error, "listing topics") from error
        return sorted(metadata.topics)

    async def create(self, specs: Iterable[TopicSpec]) -> list[str]:
        """Make topics that are missing, and wait until they can be used.

        Returns:
            The names of those that were made by this call; others made by a rival count as existing.

        Raises:
            MeshError: a topic can't be made, with the reason.
        """
        wanted = {spec.name: spec for spec in specs}
        missing = wanted.keys() - (await self.describe(list(wanted))).keys()
        if not missing:
            return []
        futures = self._client.create_topics(
            [
                NewTopic(spec.name, spec.partitions, spec.replication_factor, config=dict(spec.config))
                for name, spec in wanted.items()
                if name in missing
            ],
            request_timeout=self._timeout,
        )
        made = []
        for name, future in futures.items():
            try:
                await asyncio.wrap_future(future)
                made.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise self._failed(error, f"creating topic {name!r}") from error
        await self._wait_until_usable(missing)
        return sorted(made)

    async def grow(self, partitions: Mapping[str, int]) -> None:
        """Give topics more partitions, and wait until they can be used.

        All in one request, which the brokers' controller carries out as one: for no moment do topics that belong
        together have different numbers. Kafka is asked first whether it would.

        Args:
            partitions: how many each topic is to have; more than it has.

        Raises:
            MeshError: Kafka refuses one of them; or it can't be asked, and they have grown or not.
        """
        for only_asked in (True, False) if partitions else ():
            futures = self._client.create_partitions(
                [NewPartitions(name, count) for name, count in partitions.items()],
                validate_only=only_asked,
                request_timeout=self._timeout,
            )
            for name, future in futures.items():
                try:
                    await asyncio.wrap_future(future)
                except KafkaException as error:
                    raise self._failed(
                        error, f"giving topic {name!r} {partitions[name]} partitions"
                    ) from error
        try:
            async with asyncio.timeout(_TOPIC_USABLE_SECONDS):
                found = await self.describe(list(partitions))
                while any(info.partitions < partitions[name] for name, info in found.items()):
                    await asyncio.sleep(_ASK_AGAIN_SECONDS)
                    found = await self.describe(list(partitions))
        except TimeoutError as error:
            raise Unavailable(
                f"topics {', '.join(sorted(partitions))} have more partitions, but Kafka doesn't show them yet"
            ) from error
        await self.wait_until_served(found.values())

    async def topic_config(self, name: str) -> dict[str, str]:
        """Read a topic's properties.

        Raises:
            NotFound: the topic does not exist.
            MeshError: Kafka can't be asked.
        """
        return (await self.topic_configs([name]))[name]

    async def topic_configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Read the properties of several topics.

        Raises:
            NotFound: one does not exist.
            MeshError: Kafka can't be asked.
        """
        return {
            name: await self._config(ResourceType.TOPIC, name, f"reading the configuration of topic {name!r}")
            for name in names
        }

    async def broker_config(self) -> dict[str, str]:
        """Read the properties of one of the brokers.

        Raises:
            MeshError: Kafka can't be asked.
        """
        any_broker = min(await self._brokers())
        return await self._config(
            ResourceType.BROKER, str(any_broker), "reading the configuration of a broker"
        )

    async def _brokers(self) -> Collection[int]:
        until = time.monotonic() + self._timeout
        while True:
            try:
                metadata = await self._metadata()
            except KafkaException as error:
                raise self._unreachable(error) from error
            if metadata.brokers or time.monotonic() > until:
                return known_brokers(metadata)
            await asyncio.sleep(_ASK_AGAIN_SECONDS)

    async def _metadata(self) -> ClusterMetadata:
        # Not `describe_cluster`: where a broker that comes back knows of no broker yet, not even itself, librdkafka
        # takes its answer for a failure without an error, and ends the process with an assertion. This one asks again.
        return await asyncio.to_thread(self._client.list_topics, timeout=self._timeout)

    async def _config(self, kind: ResourceType, name: str, doing: str) -> dict[str, str]:
        resource = ConfigResource(kind, name)
        future = self._client.describe_configs([resource], request_timeout=self._timeout)[resource]
        try:
            entries = await asyncio.wrap_future(future)
        except KafkaException as error:
            raise self._failed(error, doing) from error
        return {key: entry.value for key, entry in entries.items() if entry.value is not None}

    async def wait_until_served(self, topics: Iterable[TopicInfo]) -> None:
        """Wait until every partition's leader serves it, which is a moment after Kafka first shows a new topic.

        Records sent in that moment can be lost though they are acknowledged: the leader refuses a producer's first
        batch, then takes the next one in flight as its first (a partition without producer state takes any
        sequence number), and librdkafka counts the refused one, which is older than what was taken, as done.

        Raises:
            Unavailable: a partition has no leader that serves it.
            MeshError: Kafka can't be asked.
        """
        partitions = [(topic.name, number) for topic in topics for number in range(topic.partitions)]
        try:
            await Lookup(self._settings, self._client_id).ends(partitions, _TOPIC_USABLE_SECONDS)
        except (Unavailable, NotFound) as error:
            names = ", ".join(sorted({name for name, _ in partitions}))
            raise Unavailable(f"not all partitions of {names} have a leader that serves them yet") from error

    async def _wait_until_usable(self, names: Iterable[str]) -> None:
        wanted = list(names)
        try:
            async with asyncio.timeout(_TOPIC_USABLE_SECONDS):
                while len(found := await self.describe(wanted)) < len(wanted):  # noqa: ASYNC110 - there is no event
                    await asyncio.sleep(_ASK_AGAIN_SECONDS)
        except TimeoutError as error:
            raise Unavailable(
                f"topics {', '.join(sorted(wanted))} were made, but Kafka doesn't show them yet"
            ) from error
        await self.wait_until_served(found.values())

    def _failed(self, error: KafkaException, doing: str) -> MeshError:
        translated = translate(error, doing)
        if isinstance(translated, NotFound):
            return NotFound(f"{doing}: it does not exist")
        return self._unreachable(error) if isinstance(translated, Unavailable) else translated

    def _unreachable(self, error: KafkaException) -> MeshError:
        servers = self._settings.bootstrap_servers
        # Each failure reaches the caller as a time-out. Why, librdkafka tells whoever polls, which an admin client
        # needs for nothing else.
        while self._client.poll(0):
            pass
        cause = self._errors.last_error or translate(error, "connecting").message
        # Once a login was accepted, a handshake that fails is part of an outage, to be waited out.
        if self._errors.security_error and not self._has_connected:
            return Unauthenticated(
                f"Kafka at {servers} refuses the connection: {self._errors.security_error}; "
                "check the [kafka] table of mesh.toml (security.protocol, ssl.*, sasl.*)"
            )
        return Unavailable(
            f"no Kafka broker answers at {servers} ({cause}); start it, start one with 'mesh dev up', "
            "or set MESH_BOOTSTRAP_SERVERS"
        )
