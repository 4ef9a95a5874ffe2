"""What a wrapped consumer tells of Kafka just as aiokafka's own does.

On the way of a message: beside it. Nothing here depends on what the mesh does with messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiokafka.structs import OffsetAndTimestamp, TopicPartition


class Telling:
    """The part of a wrapped consumer that passes questions on.

    Attributes:
        _inner: aiokafka's consumer; set by the class that inherits this.
    """

    _inner: Any

    async def topics(self) -> set[str]:
        """Tell all topics that the program may see, as aiokafka's."""
        topics: set[str] = await self._inner.topics()
        return topics

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Tell the partitions of a topic; None where they are not known, as aiokafka's."""
        partitions: set[int] | None = self._inner.partitions_for_topic(topic)
        return partitions

    async def committed(self, partition: TopicPartition) -> int | None:
        """Tell the offset that the group has committed; None for none, as aiokafka's."""
        offset: int | None = await self._inner.committed(partition)
        return offset

    def highwater(self, partition: TopicPartition) -> int | None:
        """Tell the last known end of a partition, as aiokafka's."""
        offset: int | None = self._inner.highwater(partition)
        return offset

    def last_stable_offset(self, partition: TopicPartition) -> int | None:
        """Tell up to where all transactions are complete, as aiokafka's."""
        offset: int | None = self._inner.last_stable_offset(partition)
        return offset

    def last_poll_timestamp(self, partition: TopicPartition) -> int | None:
        """Tell when the partition was fetched from last, epoch ms, as aiokafka's."""
        timestamp: int | None = self._inner.last_poll_timestamp(partition)
        return timestamp

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Tell where partitions begin, as aiokafka's."""
        offsets: dict[TopicPartition, int] = await self._inner.beginning_offsets(partitions)
        return offsets

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Tell where partitions end, as aiokafka's."""
        offsets: dict[TopicPartition, int] = await self._inner.end_offsets(partitions)
        return offsets

    async def offsets_for_times(
        self, timestamps: dict[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """Find the first messages from some times (epoch ms) on, as aiokafka's."""
        offsets: dict[TopicPartition, OffsetAndTimestamp | None] = await self._inner.offsets_for_times(
            timestamps
        )
        return offsets
