"""A topic that was just made is used only when its leaders serve it: records sent before that can get lost."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.kafka import topics
from broker_mesh.kafka.admin import Admin, TopicInfo
from broker_mesh.kafka.topics import Replication
from broker_mesh.settings import Settings

TOPICS = 20


async def serve_at_once(client: AdminClient, name: str, partitions: int) -> None:
    """Ask each partition's leader, once; an error of any is raised."""
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(name, number): latest for number in range(partitions)}
    for answer in client.list_offsets(asked, request_timeout=10).values():
        await asyncio.wrap_future(answer)


async def test_made_topics_are_served(kafka: EmbeddedKafka) -> None:
    settings = Settings(bootstrap_servers=kafka.bootstrap_servers)
    admin = Admin(settings, "test")
    for number in range(TOPICS):
        spec = topics.event_topic(f"made.v1.events.e{number}-{uuid4().hex}", settings, Replication(1, 1))
        await admin.create([spec])
        await serve_at_once(admin._client, spec.name, spec.partitions)


async def test_topics_that_others_make_are_waited_for(kafka: EmbeddedKafka) -> None:
    """A caller may see an operation's topic before the service that makes it sees it served."""
    settings = Settings(bootstrap_servers=kafka.bootstrap_servers)
    admin, other = Admin(settings, "test"), Admin(settings, "other")
    for number in range(TOPICS):
        spec = topics.event_topic(f"other.v1.events.e{number}-{uuid4().hex}", settings, Replication(1, 1))
        making = asyncio.create_task(other.create([spec]))
        found: dict[str, TopicInfo] = {}
        while not found:
            found = await admin.describe([spec.name])
        await admin.wait_until_served(found.values())
        await serve_at_once(admin._client, spec.name, spec.partitions)
        await making
