"""Where partitions begin and end, and what a group has committed: asked through a consumer that joins no group.

Beside the way of a message: a service asks before it takes partitions over, the commands before they show or change
something. An admin client answers the same questions, and can end the whole process with a segmentation fault (seen
with librdkafka 2.16): asked for offsets while it hears of the topics' leaders in another thread, or for what a group
has committed just as its coordinator moves (docs/decisions/0036-a-consumer-asks-about-offsets.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition

from broker_mesh.errors import MeshError, Unavailable
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.reader import open_consumer
from broker_mesh.settings import Settings

T = TypeVar("T")
Partition: TypeAlias = tuple[str, int]

# What is said of a partition that its broker has not taken up yet, or that this client has not heard of.
_NOT_SERVED_YET = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._NOENT,
    }
)
_ASK_AGAIN_SECONDS = 0.02
# A call can't be broken off, and the process ends no sooner than the last one: so long is one at most.
_CALL_SECONDS = 3.0


class Lookup:
    """Asks about partitions and one group's offsets; on one event loop, its consumer on a thread of its own.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        group: whose offsets `committed` tells; None where nobody asks for them.

    Raises:
        SettingsError: librdkafka refuses a property.
    """

    def __init__(self, settings: Settings, client_id: str, group: str | None = None) -> None:
        self._timeout = settings.connect_timeout_seconds
        more = {"isolation.level": "read_uncommitted", **({} if group is None else {"group.id": group})}
        self._consumer = open_consumer(settings, client_id, OutageLog("look at partitions"), more)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mesh-lookup")

    async def firsts(
        self, partitions: Iterable[Partition], patience: float | None = None
    ) -> dict[Partition, int]:
        """Tell the first offset that partitions keep; see `ends`."""
        return await self._offsets(partitions, OFFSET_BEGINNING, patience)

    async def ends(
        self, partitions: Iterable[Partition], patience: float | None = None
    ) -> dict[Partition, int]:
        """Tell the offset that the next record of partitions gets, whatever transactions are open on them.

        Args:
            partitions: which; those whose leader does not serve them yet are asked for again.
            patience: for how long, seconds; None for the setting `connect_timeout_seconds`.

        Raises:
            MeshError: a partition does not exist, or Kafka can't be asked.
        """
        return await self._offsets(partitions, OFFSET_END, patience)

    async def committed(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Tell the group's committed offsets, without those partitions of which it has committed none.

        Raises:
            MeshError: Kafka can't be asked.
        """
        doing = "reading the offsets of a group"
        until = time.monotonic() + self._timeout
        places = [TopicPartition(*key) for key in partitions]
        while places:
            seconds = _rest(until)
            try:
                answer = await self._call(lambda: self._consumer.committed(places, timeout=seconds))  # noqa: B023
                for place in answer:
                    if place.error is not None:
                        raise KafkaException(place.error)
            except KafkaException as error:
                failed = translate(error, doing)
                if not failed.retriable or time.monotonic() >= until:
                    raise failed from error
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
            else:
                return {(place.topic, place.partition): place.offset for place in answer if place.offset >= 0}
        return {}

    async def _offsets(
        self, partitions: Iterable[Partition], which: int, patience: float | None
    ) -> dict[Partition, int]:
        """Ask for offsets, and again for those that can't be told now."""
        until = time.monotonic() + (self._timeout if patience is None else patience)
        left: Sequence[Partition] = list(dict.fromkeys(partitions))
        found: dict[Partition, int] = {}
        while left:
            failed: MeshError | None = None
            for key, answer in (await self._ask(left, which, _rest(until))).items():
                if isinstance(answer, int):
                    found[key] = answer
                elif not _may_pass(answer):
                    raise answer
                else:
                    failed = answer
            left = [key for key in left if key not in found]
            if failed is not None:
                if time.monotonic() >= until:
                    raise failed
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
        return found

    async def _ask(
        self, partitions: Sequence[Partition], which: int, seconds: float
    ) -> dict[Partition, int | MeshError]:
        """Ask once; each partition gets its answer, or what went wrong."""
        places = [TopicPartition(*key, which) for key in partitions]
        try:
            answers = await self._call(lambda: self._consumer.offsets_for_times(places, timeout=seconds))
        except KafkaException as error:
            topics = ", ".join(sorted({topic for topic, _ in partitions}))
            failed = translate(error, f"asking for the offsets of {topics}")
            failed.__cause__ = error
            return dict.fromkeys(partitions, failed)
        return {(place.topic, place.partition): _answer(place) for place in answers}

    async def _call(self, call: Callable[[], T]) -> T:
        def serve_and_call() -> T:
            self._consumer.poll(0)  # what librdkafka has told of outages meanwhile would pile up unheard
            return call()

        return await asyncio.get_running_loop().run_in_executor(self._thread, serve_and_call)


def _answer(place: TopicPartition) -> int | MeshError:
    doing = f"asking for the offsets of {place.topic}/{place.partition}"
    if place.error is not None:
        failed = translate(place.error, doing)
        failed.__cause__ = KafkaException(place.error)
        return failed
    if place.offset < 0:  # seen just after a broker had gone
        return Unavailable(f"{doing}: nobody knows now", details={"kafka": "OFFSET_NOT_AVAILABLE"})
    return place.offset


def _may_pass(error: MeshError) -> bool:
    cause = error.__cause__
    code = cause.args[0].code() if isinstance(cause, KafkaException) else None
    return error.retriable or code in _NOT_SERVED_YET


def _rest(until: float) -> float:
    return min(_CALL_SECONDS, max(0.1, until - time.monotonic()))
