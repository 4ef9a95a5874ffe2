"""From aiokafka's fetches to the program's messages: what `getone`, `getmany` and `async for` have in common.

On the way of a message: where it leaves aiokafka. A record goes into the mesh's `Intake` in the same step of the event
loop in which aiokafka gives it out; from there it waits for nobody in particular, so that a program which stops waiting
(`asyncio.wait_for`) loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Collection, Hashable
from typing import Any

from aiokafka.errors import ConsumerStoppedError
from aiokafka.structs import TopicPartition

from broker_mesh.adapter import Connection, Delivery, Intake, Record
from broker_mesh.errors import MeshError, SchemaError
from broker_mesh_adapters.aiokafka.commits import Commits
from broker_mesh_adapters.aiokafka.hands import Caller, Hands
from broker_mesh_adapters.aiokafka.membership import Membership
from broker_mesh_adapters.aiokafka.messages import Deserializer, MeshRecord, made

logger = logging.getLogger(__name__)

_AT_ONCE = 100
_TOUCH_SECONDS = 1.0
_YIELD_SECONDS = 0.02
_LOOK_AGAIN_SECONDS = 0.01

Partitions = tuple[TopicPartition, ...]


class Waking:
    """Lets the mesh's threads wake those of the program's tasks that wait for messages.

    Args:
        loop: the program's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()
        self._waiting = 0

    def __enter__(self) -> None:
        """Say that a task asks for messages: before it looks, so that nothing comes unnoticed in between."""
        self._waiting += 1

    def __exit__(self, *_: object) -> None:
        self._waiting -= 1

    def wake(self) -> None:
        """Wake all that wait; from any thread."""
        if self._waiting:
            with contextlib.suppress(RuntimeError):  # the program's loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float | None) -> None:
        """Wait to be woken, for some seconds at most."""
        self._event.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class Receiving:
    """What one wrapped consumer receives.

    Args:
        inner: aiokafka's consumer.
        connection: the mesh's.
        intake, commits, hands, membership: of the consumer.
        waking: woken by the intake.
        key_deserializer, value_deserializer: the program's.
    """

    def __init__(
        self,
        inner: Any,
        connection: Connection,
        *,
        intake: Intake,
        commits: Commits,
        hands: Hands,
        membership: Membership,
        waking: Waking,
        failures: deque[Exception],
        key_deserializer: Deserializer | None,
        value_deserializer: Deserializer | None,
    ) -> None:
        self._inner = inner
        self._connection = connection
        self._intake = intake
        self._commits = commits
        self._hands = hands
        self._membership = membership
        self._waking = waking
        self._failures = failures
        self._deserializers = key_deserializer, value_deserializer
        self._fetching: dict[Partitions, asyncio.Task[None]] = {}
        self._touched = self._yielded = time.monotonic()
        self._is_stopped = False

    async def one(self, partitions: Partitions, caller: Caller) -> MeshRecord:
        """Give the next message, once there is one.

        Raises:
            ConsumerStoppedError: the consumer is stopped.
            KafkaError: as aiokafka's.
            MeshError: the mesh can't go on.
        """
        self._hands.asks_for_more(caller)
        with self._waking:
            await self._touch(partitions)
            while True:
                self._hands.settle_ended()
                if (message := self._next(partitions, caller, self._hands.lanes())) is not None:
                    return message
                if not await self._refill(partitions, _AT_ONCE):
                    await self._wait(partitions, None)

    async def many(
        self, partitions: Partitions, seconds: float, limit: int, caller: Caller
    ) -> dict[TopicPartition, list[MeshRecord]]:
        """Give what is there, of each key (or lane) one message at most; wait for the first for some seconds at most.

        Raises:
            As `one`.
        """
        until = time.monotonic() + seconds
        self._hands.asks_for_more(caller)
        with self._waking:
            await self._touch(partitions)
            while True:
                self._hands.settle_ended()
                batch = self._batch(partitions, limit, caller)
                if batch:
                    return batch
                if await self._refill(partitions, limit):
                    continue
                rest = until - time.monotonic()
                if rest <= 0:
                    return {}
                await self._wait(partitions, rest)
                await self._refill(partitions, limit)  # what has come with the first

    def _batch(
        self, partitions: Partitions, limit: int, caller: Caller
    ) -> dict[TopicPartition, list[MeshRecord]]:
        batch: dict[TopicPartition, list[MeshRecord]] = {}
        lanes = self._hands.lanes()
        for _ in range(limit):
            try:
                message = self._next(partitions, caller, lanes)
            except MeshError:
                if not batch:
                    raise
                break  # the program gets what it was given already; the next call raises it again
            if message is None:
                break
            batch.setdefault(TopicPartition(message.topic, message.partition), []).append(message)
            lanes.add(message.delivery.lane)
        return batch

    def _next(
        self, partitions: Partitions, caller: Caller, exclude: Collection[Hashable]
    ) -> MeshRecord | None:
        if self._is_stopped:
            raise ConsumerStoppedError
        if self._failures:
            raise self._failures.popleft()
        if self._membership.rebalancing:
            return None
        with self._membership.limited_to(partitions):
            while (delivery := self._intake.next(exclude)) is not None:
                try:
                    message = made(delivery, *self._deserializers, self._connection)
                except SchemaError as error:
                    self._refuse(delivery, error)
                    continue
                self._hands.give(delivery, caller)
                self._commits.gave(delivery)
                return message
        return None

    def _refuse(self, delivery: Delivery, error: SchemaError) -> None:
        """Have what the program's deserializer does not take end as a failure of the message, not of the program."""
        logger.warning("%s", error.message)
        delivery.fail(error)
        self._intake.conclude([delivery])

    # ── from aiokafka ─────────────────────────────────────────────────────────────────────────────────────

    def _take(self, source: Any) -> None:
        self._membership.look()
        self._commits.began((source.topic, source.partition), source.offset)
        record = Record(
            source.topic,
            source.partition,
            source.offset,
            source.timestamp,
            source.key,
            source.value,
            list(source.headers),
        )
        self._intake.take(record, source)

    async def _refill(self, partitions: Partitions, limit: int) -> bool:
        """Take what aiokafka has fetched, without waiting for more; tells whether there was anything."""
        if self._membership.rebalancing or not self._inner.assignment():
            return False
        self._touched = time.monotonic()
        self._membership.regulate()
        fetched = await self._inner.getmany(
            *self._membership.with_retries(partitions), timeout_ms=0, max_records=limit
        )
        for records in fetched.values():
            for source in records:
                self._take(source)
        return bool(fetched)

    async def _touch(self, partitions: Partitions) -> None:
        """Let others have the event loop, and aiokafka see that the program polls, also while the intake has enough.

        A program that works without waiting would else starve the heartbeats of its own membership; and one that
        works long on each message would be taken for one that polls no more (`max_poll_interval_ms`).
        """
        now = time.monotonic()
        if now - self._yielded > _YIELD_SECONDS:
            await asyncio.sleep(0)
            self._yielded = time.monotonic()
        if now - self._touched > _TOUCH_SECONDS:
            await self._refill(partitions, 1)

    async def _wait(self, partitions: Partitions, seconds: float | None) -> None:
        """Wait for aiokafka's fetch, for the mesh, or for a retry to be due."""
        if self._is_stopped or self._failures:
            return  # it came while `_refill` looked
        chosen = self._membership.with_retries(partitions)
        if chosen not in self._fetching:
            self._fetching[chosen] = asyncio.ensure_future(self._fetch(chosen))
        due = None if self._membership.rebalancing else self._intake.next_in()
        if due is not None:
            due = max(
                due, _LOOK_AGAIN_SECONDS
            )  # 0 may stand for what is not to be given now, as it is paused
        await self._waking.wait(min((each for each in (seconds, due) if each is not None), default=None))
        self._yielded = time.monotonic()

    async def _fetch(self, partitions: Partitions) -> None:
        """Take one record as soon as aiokafka has one; goes on where the program stops waiting for it."""
        try:
            self._take(await self._inner.getone(*partitions))
        except ConsumerStoppedError:
            self._is_stopped = True
        except Exception as error:  # noqa: BLE001 - the program hears of it with its next call
            self._failures.append(error)
        finally:
            del self._fetching[partitions]
            self._waking.wake()

    def fail(self, error: Exception) -> None:
        """Have a program hear of something with its next call, or with the one that waits."""
        self._failures.append(error)
        self._waking.wake()

    async def stop(self) -> None:
        """End what waits."""
        self._is_stopped = True
        self._waking.wake()
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
