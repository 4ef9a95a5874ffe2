"""A group's way past the barrier of a growth: how far it is, asked of Kafka.

On the way of a message: before it, where a service holds a new partition (`newcomers.py`), and where `mesh topics grow`
waits. What is committed counts, so that it makes no difference which process has handled what came before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from broker_mesh.barrier import Growth, Partition, remaining
from broker_mesh.kafka.admin import Admin
from broker_mesh.kafka.backward import end_of_records
from broker_mesh.kafka.groups import Groups
from broker_mesh.kafka.growth import Growths
from broker_mesh.settings import Settings


class Ways:
    """What is asked of Kafka about growths; on one event loop.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        admin: describes topics.
        groups: asks about partitions and groups.
    """

    def __init__(self, settings: Settings, client_id: str, admin: Admin, groups: Groups) -> None:
        self._settings = settings
        self._client_id = client_id
        self._admin = admin
        self._groups = groups
        self._growths = Growths(settings, client_id=client_id)

    async def growths(self, topics: Collection[str]) -> list[Growth]:
        """Read the growths of topics as they are now.

        Raises:
            MeshError: Kafka can't be asked, or a record can't be read.
        """
        recorded = await asyncio.to_thread(self._growths.read, topics)
        ids = {name: info.id for name, info in (await self._admin.describe(sorted(topics))).items()}
        return [growth for growth in recorded if ids.get(growth.topic) == growth.topic_id]

    async def record(self, growth: Growth) -> None:
        """Write a growth down; it is durable afterwards.

        Raises:
            MeshError: as of `Growths.write`.
        """
        await asyncio.to_thread(self._growths.write, growth)

    async def reached(self, group: str, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Tell below which offset of each partition a group has nothing left to handle.

        Raises:
            MeshError: Kafka can't be asked.
        """
        bounds = await self._groups.bounds(partitions)
        committed = await self._groups.committed(group, partitions)
        return {key: max(held.first, committed.get(key, 0)) for key, held in bounds.items()}

    async def ends(self, topic: str, below: int) -> dict[Partition, int] | None:
        """Tell behind which offset of each partition its last record stands, now (`end_of_records`).

        Args:
            topic: one that does not exist has no ends.
            below: only partitions of lower numbers.

        Returns:
            None while a transaction is open: what it holds may count or not.

        Raises:
            MeshError: Kafka can't be asked.
        """
        found = (await self._admin.describe([topic])).get(topic)
        partitions = [(topic, number) for number in range(min(below, found.partitions if found else 0))]
        ends = {}
        for partition, bounds in (await self._groups.bounds(partitions)).items():
            end = await asyncio.to_thread(
                end_of_records, self._settings, client_id=self._client_id, partition=partition, end=bounds.end
            )
            if end is None:
                return None
            ends[partition] = end
        return ends


class Crossing:
    """One group on its way past one growth.

    Args:
        growth: with its ends.
        group: the consumer group.
        retry_topic: where the group's records of the topic wait for another attempt.
        ways: asks Kafka.
    """

    def __init__(self, growth: Growth, group: str, retry_topic: str, ways: Ways) -> None:
        self.growth = growth
        self._group = group
        self._retry_topic = retry_topic
        self._ways = ways
        self._retries: Mapping[Partition, int] | None = None

    async def left(self) -> int | None:
        """Count the offsets that the group still has before the barrier; 0: it is past it.

        The old partitions come first. A record of them may have been put into the retry topic until it was committed,
        so that only then it is known where the retries of old partitions end; the group has to pass those too.

        Returns:
            None where that is not known yet: the growth was broken off, or a transaction is open.

        Raises:
            MeshError: Kafka can't be asked.
        """
        if self.growth.ends is None:
            return None
        barrier = self.growth.barrier()
        left = remaining(barrier, await self._ways.reached(self._group, barrier))
        if left:
            return left
        if self._retries is None:
            self._retries = await self._ways.ends(self._retry_topic, self.growth.before)
        if self._retries is None:
            return None
        return remaining(self._retries, await self._ways.reached(self._group, self._retries))
