"""Results by idempotency key: kept in a compacted topic beside the operation's, and found again after every rebalance.

On the way of a message: around its handler (`layers/idempotency.py` asks here what to do) and before its settlement. A
result is acknowledged by Kafka before it is answered, and both before the offset moves: after a crash in between, the
request comes again and is answered from here.

A result stands in the partition of the same number as its request's, so that whoever handles the requests of a key
also writes and reads its results. In memory there is, for each partition, which keys have a result at which offset. It
is read from the topic when a key is first met in an assignment, and read on in each later one: what an earlier owner
wrote is seen.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from broker_mesh import headers, naming, turn
from broker_mesh.errors import DeadlineExceeded, FailedPrecondition, MeshError, MessageTooLarge, NotFound
from broker_mesh.exclusion import Exclusion
from broker_mesh.headers import Envelope, Place, RawHeaders
from broker_mesh.kafka.backward import Stretch, newest
from broker_mesh.kafka.producer import Producer
from broker_mesh.kafka.reader import record_at
from broker_mesh.layers.dedupe import Window
from broker_mesh.layers.idempotency import Earlier, decide, digest, has_key, is_result, scope
from broker_mesh.message import Message, Receipt, Record, new_id, now_ms
from broker_mesh.outcome import Done, Outcome, RetryLater
from broker_mesh.settings import Settings
from broker_mesh.settle import CarryOut, Settler
from broker_mesh.status import StatusCode

logger = logging.getLogger(__name__)

_HOUR_MS = 3_600_000
_RECENT = 100
_RECENT_BYTES = 8 * 1024


class _Result(NamedTuple):
    key: bytes
    at: int
    offset: int


class _Partition:
    """What is known of one partition's results."""

    def __init__(self, window: Window[bytes, int]) -> None:
        self.offsets = window
        self.recent: OrderedDict[bytes, Earlier] = (
            OrderedDict()
        )  # a repeat often comes soon: no need to read it
        self.exclusion = Exclusion()
        self.position = 0  # everything before it is in `offsets`, as far as that goes back
        # Of each topic: a message of its newest assignment, which tells whether that still holds, and the epoch of the
        # assignment in which the results were read on.
        self.taken: dict[str, Message] = {}
        self.read_in: dict[str, int] = {}
        self.reading = asyncio.Lock()
        self.has_overflowed = False

    def is_read_for(self, message: Message) -> bool:
        return self.read_in.get(message.topic, -1) >= message.epoch

    def remember(self, key: bytes, earlier: Earlier) -> None:
        self.recent.pop(key, None)
        if len(earlier.outcome.reply or b"") <= _RECENT_BYTES:
            self.recent[key] = earlier
        if len(self.recent) > _RECENT:
            self.recent.popitem(last=False)


class Results:
    """The results of one service's operations.

    Args:
        service: this one.
        settings: with how long and how many results are kept.
        client_id: how brokers name this client.
        producer: writes them.
        ensure_topic: makes an operation's topic of results where it is missing.
        settler: holds a record while Kafka does not take its result.
        is_current: whether a message's partition is still assigned as it was when the message was taken.
        group: the consumer group whose results they are, where it is not the service's own: each group does the work.
    """

    def __init__(
        self,
        service: str,
        settings: Settings,
        *,
        client_id: str,
        producer: Producer,
        ensure_topic: Callable[[str], Awaitable[None]],
        settler: Settler,
        is_current: Callable[[Message], bool],
        group: str | None = None,
    ) -> None:
        self._service = service
        self._group = group
        self._settings = settings
        self._client_id = client_id
        self._producer = producer
        self._ensure_topic = ensure_topic
        self._settler = settler
        self._is_current = is_current
        self._kept_ms = max(1, round(settings.idempotency_hours * _HOUR_MS))
        self._partitions: dict[tuple[str, int], _Partition] = {}

    async def begin(self, message: Message) -> Done | None:
        """Wait until nobody else works on a message's key, and claim it where there is no result yet.

        Returns:
            The earlier result; None where the message is to be run.

        Raises:
            InvalidArgument: the earlier request had another body.
            DeadlineExceeded: the message's deadline passed while it waited.
            MeshError: the results can't be read.
        """
        partition = await self._up_to_date(message)
        key, owner = _key(scope(message, self._group)), _place(message)
        while not partition.exclusion.take(key, owner):
            await _until_over(partition.exclusion, key, message)
        answer = None
        try:
            earlier = await self._find(partition, key, message)
            answer = decide(message, earlier, now=now_ms(), kept_ms=self._kept_ms)
        except BaseException:
            partition.exclusion.release(key, owner)
            raise
        if answer is not None:
            partition.exclusion.release(key, owner)
            logger.info(
                "%s %s has the idempotency key of an earlier request: it gets that one's result",
                *(message.operation, message.envelope.id),
            )
        return answer

    def settling(self, carry_out: CarryOut) -> CarryOut:
        """Write down the result of a message that has claimed its key, before it is answered; then let the key go.

        An attempt that is followed by another in place keeps it. One that fails for good, or waits for its next
        attempt in the retry topic, lets it go without a result: whoever asks next runs.
        """

        async def settle(message: Message, outcome: Outcome) -> Outcome:
            partition = self._partitions.get((message.operation, message.partition))
            if partition is None or not has_key(message):
                return await carry_out(message, outcome)
            key, owner = _key(scope(message, self._group)), _place(message)
            if not partition.exclusion.holds(key, owner):
                return await carry_out(message, outcome)
            try:
                if is_result(outcome):
                    await self._keep(partition, key, message, outcome)
                return await carry_out(message, outcome)
            finally:
                if not isinstance(outcome, RetryLater) or outcome.parked:
                    # A plain function that was given up can't be stopped: no repeat may run beside it.
                    attempt = turn.current()
                    partition.exclusion.release(key, owner, after=attempt.left_behind if attempt else ())

        return settle

    async def _up_to_date(self, message: Message) -> _Partition:
        """Give the message's partition, with everything that was written before its assignment."""
        place = message.operation, message.partition
        partition = self._partitions.get(place)
        if partition is None:
            for gone in [place for place, other in self._partitions.items() if self._is_gone(other)]:
                del self._partitions[gone]
            partition = _Partition(self._window())
            self._partitions[place] = partition
        if not partition.is_read_for(message):
            partition.taken[message.topic] = message
            async with turn.waiting(), partition.reading:
                if not partition.is_read_for(message):
                    await self._read_on(partition, message)
                    partition.read_in[message.topic] = message.epoch
        return partition

    def _is_gone(self, partition: _Partition) -> bool:
        return not any(map(self._is_current, partition.taken.values()))

    async def _read_on(self, partition: _Partition, message: Message) -> None:
        await self._ensure_topic(message.operation)
        stretch = await self._newest(message, partition.position)
        if stretch.end < partition.position:  # the topic was deleted and made anew
            partition.offsets = self._window()
            stretch = await self._newest(message, 0)
        for key, at, offset in stretch.picked:
            partition.offsets.add(key, at, offset)
        partition.position = stretch.end
        partition.recent.clear()  # another owner may have written since

    async def _newest(self, message: Message, start: int) -> Stretch[_Result]:
        topic = naming.idempotency_topic(message.operation)
        try:
            return await asyncio.to_thread(
                newest,
                self._settings,
                client_id=self._client_id,
                partition=(topic, message.partition),
                start=start,
                since=now_ms() - self._kept_ms,
                at_most=self._settings.idempotency_keys,
                pick=_result,
            )
        except NotFound as error:
            raise FailedPrecondition(
                f"{topic} has no partition {message.partition}: it must have as many partitions as {message.operation}"
            ) from error

    def _window(self) -> Window[bytes, int]:
        return Window(self._kept_ms, self._settings.idempotency_keys)

    async def _find(self, partition: _Partition, key: bytes, message: Message) -> Earlier | None:
        earlier = partition.recent.get(key)
        if earlier is not None:
            return earlier
        if partition.offsets.get(key, now_ms()) is None:
            return None
        async with turn.waiting():
            record = await self._record_of(partition, key, message)
            if record is None:
                # Retention was faster than the clock; or the topic was compacted, and what stands for the key now is
                # what an earlier owner wrote late, behind the end as it was when this one took over.
                async with partition.reading:
                    await self._read_on(partition, message)
                record = await self._record_of(partition, key, message)
        if record is None:
            return None
        earlier = _read(record.headers, record.value)
        if earlier is None:
            place = Place(record.topic, record.partition, record.offset)
            logger.warning("the result at %s can't be read: %s is run", place, message.envelope.id)
        else:
            partition.remember(key, earlier)
        return earlier

    async def _record_of(self, partition: _Partition, key: bytes, message: Message) -> Record | None:
        offset = partition.offsets.get(key, now_ms())
        if offset is None:
            return None
        place = Place(naming.idempotency_topic(message.operation), message.partition, offset)
        record = await asyncio.to_thread(record_at, self._settings, client_id=self._client_id, place=place)
        return record if record is not None and record.key == scope(message, self._group) else None

    async def _keep(self, partition: _Partition, key: bytes, message: Message, outcome: Done) -> None:
        topic = naming.idempotency_topic(message.operation)
        at, error = now_ms(), outcome.error
        envelope = Envelope(
            id=new_id(),
            source=self._service,
            type=f"{message.operation}.reply",
            time=at,
            attempt=message.envelope.attempt,
            correlation_id=message.envelope.id,
            idempotency_key=message.envelope.idempotency_key,
            status=StatusCode.OK if error is None else error.status,
            status_message=None if error is None else error.message,
            status_details={} if error is None else error.details,
            request_digest=digest(message),
        )
        written = headers.write(envelope)

        async def write() -> Receipt:
            try:
                return await self._producer.send(
                    topic,
                    key=scope(message, self._group),
                    value=outcome.reply or b"",  # null would delete the key
                    headers=written,
                    partition=message.partition,
                )
            except NotFound:  # somebody has deleted it: else the request would be held for ever
                await self._ensure_topic(message.operation)
                raise

        try:
            receipt = await self._settler.persist(
                message, write, f"its result to {topic}", (MessageTooLarge,)
            )
        except MessageTooLarge as too_large:
            logger.warning(
                "%s %s: its result can't be kept for repeats: %s",
                *(message.operation, message.envelope.id, too_large.message),
            )
            return
        overflowed = partition.offsets.add(key, at, receipt.offset)
        earlier = _read(written, outcome.reply)
        if earlier is not None:  # what repeats get now is what they get from another process
            partition.remember(key, earlier)
        if overflowed and not partition.has_overflowed:
            partition.has_overflowed = True
            logger.warning(
                "%s/%d keeps %d results, as many as idempotency_keys allows: the oldest go before their time",
                *(topic, message.partition, self._settings.idempotency_keys),
            )


def _read(written: RawHeaders, value: bytes | None) -> Earlier | None:
    """Read a result; None where it was not written by a mesh."""
    envelope, fault = headers.read(written)
    if fault is not None or envelope.request_digest is None or envelope.status is None:
        return None
    error: MeshError | None = None
    if envelope.status is not StatusCode.OK:
        error = MeshError.of(
            envelope.status, envelope.status_message or "no message", details=envelope.status_details
        )
    outcome = Done(reply=value or None, error=error)
    return Earlier(envelope.correlation_id or "", envelope.request_digest, outcome, envelope.time)


def _result(record: Record) -> _Result:
    return _Result(_key(record.key or b""), record.timestamp, record.offset)


def _key(scoped: bytes) -> bytes:
    return hashlib.blake2b(scoped, digest_size=16).digest()


def _place(message: Message) -> Place:
    assert message.record is not None  # only received messages are handled
    return Place(message.topic, message.partition, message.record.offset)


async def _until_over(exclusion: Exclusion, key: bytes, message: Message) -> None:
    deadline = message.envelope.deadline
    limit = None if deadline is None else max(0.0, (deadline - now_ms()) / 1000)
    try:
        async with asyncio.timeout(limit):
            await exclusion.over(key)
    except TimeoutError as error:
        raise DeadlineExceeded(
            "the work expired while an earlier request with the same idempotency key was in work",
            details={"deadline": deadline},
        ) from error
