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
from tests.support.processes import Processes, last_words

TOPICS = 20
PROCESSES = 6


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


async def test_what_is_asked_at_once_of_topics_just_made_ends_no_process(
    kafka: EmbeddedKafka, processes: Processes
) -> None:
    """An admin client's `list_offsets` did in one start of a hundred: here its answers are asked of a consumer."""
    settings = Settings(bootstrap_servers=kafka.bootstrap_servers)
    names = [f"asked.v1.events.e{uuid4().hex}" for _ in range(2)]
    await Admin(settings, "test").create(
        [topics.event_topic(name, settings, Replication(1, 1)) for name in names]
    )
    asking = [
        processes.start("tests.support.asking", kafka.bootstrap_servers, *names) for _ in range(PROCESSES)
    ]
    for process in asking:
        assert await asyncio.to_thread(process.wait, 60) == 0, last_words(process)
