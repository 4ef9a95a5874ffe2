"""Settlement: carries an outcome out, durably, before the record's offset may move.

On the way of a message: after the handler. Whatever is produced here is acknowledged by Kafka before
`carry_out` returns, and the service marks the offset done only then. A crash in between repeats the work; it
never loses it. Nothing is produced for a record whose partition has gone to another member.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from broker_mesh import headers
from broker_mesh.errors import (
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    NotFound,
    PermissionDenied,
)
from broker_mesh.headers import Envelope, Place, RawHeaders
from broker_mesh.kafka.producer import Producer
from broker_mesh.layer import Step
from broker_mesh.message import Message, Receipt, Record, new_id, now_ms
from broker_mesh.outcome import DeadLetter, Done, Drop, Outcome, Parked, Repeated, RetryLater
from broker_mesh.parking import origin_of
from broker_mesh.status import StatusCode

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0

# What no further try at writing a record to its retry topic mends.
_NO_RETRY_TOPIC = (NotFound, InvalidArgument, PermissionDenied, MessageTooLarge)
_ASK_AGAIN_MS = 1000


CarryOut: TypeAlias = Callable[[Message, Outcome], Awaitable[Outcome]]
"""Settles a message with its outcome; returns when that is durable, with what has become of the message."""


async def always_certain() -> None:
    """Wait for nothing: whether a message's partition is still assigned is known at any time."""


class FencedError(Exception):
    """The record belongs to another member now: stop working on it, settle nothing."""


class Settler:
    """Carries out outcomes for one service.

    Args:
        service: what replies name as their source.
        send_reply: sends a finished reply, with a span of its own.
        producer: writes dead letters, whose headers stay those of the record.
        dead_topic_of: tells where dead letters of a message go.
        retry_topic_of: tells where a message waits for its next attempt, where it does not in its place.
        is_current: whether a message's partition is still assigned as it was when the message was taken.
        dead_lettered: told of each dead letter that Kafka has.
        group: the consumer group that retries and dead letters are for, where it is not the service's own.
        keeps_order: whether a message has an order among others: it waits in the retry partition of its own number, or
            in its place, and nowhere else.
        certain: waits until `is_current` can be trusted: a process that stood still may have lost its partitions.
    """

    def __init__(
        self,
        service: str,
        send_reply: Step[Receipt],
        producer: Producer,
        dead_topic_of: Callable[[Message], str],
        retry_topic_of: Callable[[Message], str],
        is_current: Callable[[Message], bool],
        dead_lettered: Callable[[Message, MeshError], None],
        group: str | None = None,
        keeps_order: Callable[[Message], bool] = lambda _: False,
        certain: Callable[[], Awaitable[None]] = always_certain,
    ) -> None:
        self._service = service
        self._send_reply = send_reply
        self._producer = producer
        self._dead_topic_of = dead_topic_of
        self._retry_topic_of = retry_topic_of
        self._is_current = is_current
        self._dead_lettered = dead_lettered
        self._group = group
        self._keeps_order = keeps_order
        self._certain = certain

    async def carry_out(self, message: Message, outcome: Outcome) -> Outcome:
        """Make an outcome durable.

        Returns:
            What has become of the message: a dead letter where its answer can't be delivered, an attempt in its place
            where it can't be parked, else the outcome, with the place where it is parked.

        Raises:
            FencedError: the partition is gone; nothing more was produced.
        """
        match outcome:
            case Done(reply, None):
                if message.expects_reply:
                    return await self._answer(message, reply) or outcome
            case Done(_, error) if error is not None:
                if message.expects_reply:
                    return await self._answer_error(message, error) or outcome
            case Drop(error):
                logger.info("%s %s is dropped: %s", message.operation, message.envelope.id, error)
                if message.expects_reply:
                    return await self._answer_error(message, error) or outcome
            case Repeated():
                pass  # the first of them was settled, and answered where somebody waited
            case DeadLetter(error):
                # Kept first, answered second: a crash in between repeats both, the other order could lose it.
                place = await self._keep(message, error)
                if message.expects_reply:
                    await self._answer_error(message, error, place)
            case RetryLater(parked=True):
                return await self._park(message, outcome)
            case Parked():
                return await self._stand_in_line(message)
            case RetryLater():
                pass  # `lanes.py` holds the record, and its key with it, until the next attempt
        return outcome

    async def _answer(self, message: Message, reply: bytes | None) -> DeadLetter | None:
        """Answer with the work's result; gives the dead letter where that can't be."""
        answer = self._reply(message, value=reply, status=StatusCode.OK)
        try:
            await self._send(message, answer)
        except MessageTooLarge as error:
            # The work was done, but its result can't travel: both sides must hear of it.
            too_large = MessageTooLarge(f"the reply is too large: {error.message}", details=error.details)
            place = await self._keep(message, too_large)
            await self._answer_error(message, too_large, place)
            return DeadLetter(too_large)
        except (NotFound, InvalidArgument, PermissionDenied) as error:
            return await self._keep_undeliverable(message, "the work was done, but its reply", error)
        return None

    async def _answer_error(
        self, message: Message, error: MeshError, place: Place | None = None
    ) -> DeadLetter | None:
        """Answer with an error; gives the dead letter where that can't be, and there is none yet.

        Args:
            message: to be answered.
            error: the answer.
            place: where the request is kept already, for a caller that waits for its replay.
        """
        answer = self._reply(message, value=None, status=error.status).with_envelope(
            status_message=error.message, status_details=error.details, dead_letter=place
        )
        try:
            await self._send(message, answer)
        except (NotFound, InvalidArgument, PermissionDenied, MessageTooLarge) as undeliverable:
            if place is None:
                said = f"its answer ({error.status.name}: {error.message})"
                return await self._keep_undeliverable(message, said, undeliverable)
            # Kept already: a second dead letter would be replayed as a second request.
            logger.warning(
                "%s %s: the caller can't be told: %s",
                message.operation,
                message.envelope.id,
                undeliverable,
            )
        return None

    async def _keep_undeliverable(self, message: Message, what: str, error: MeshError) -> DeadLetter:
        undeliverable = FailedPrecondition(
            f"{what} can't be delivered to {message.envelope.reply_to}: {error.message}"
        )
        await self._keep(message, undeliverable)
        return DeadLetter(undeliverable)

    async def _keep(self, message: Message, error: MeshError) -> Place:
        """Write the dead letter: the record as it came, with why. Gives where it stands."""
        topic = self._dead_topic_of(message)
        logger.warning(
            "%s %s goes to %s: %.2000s",
            message.operation,
            message.envelope.id,
            topic,
            error,
            extra={"status": error.status.name},
        )
        place = await self._copy(message, topic, self._facts(message, error), "dead letter")
        self._dead_lettered(message, error)
        return place

    async def _park(self, message: Message, outcome: RetryLater) -> RetryLater:
        """Write the record to its retry topic, where it waits for its next attempt and nothing else waits for it."""
        facts = self._facts(message, outcome.error)
        facts = facts._replace(
            attempt=facts.attempt + outcome.counts, retry_at=outcome.at, origin=origin_of(message)
        )
        try:
            place = await self._write_retry(message, facts)
        except _NO_RETRY_TOPIC as error:
            logger.warning(
                "%s %s waits in its place: it can't be parked: %s",
                *(message.operation, message.envelope.id, error),
            )
            return outcome._replace(parked=False)
        return outcome._replace(place=place)

    async def _stand_in_line(self, message: Message) -> Parked | RetryLater:
        """Write the record to its retry topic as it is, behind an earlier one of its key."""
        envelope = message.envelope
        facts = Envelope(
            id=envelope.id,
            attempt=envelope.attempt,
            first_failure=envelope.first_failure,
            origin=origin_of(message),
            group=self._group,
        )
        try:
            place = await self._write_retry(message, facts)
        except _NO_RETRY_TOPIC as error:
            # It stays where it is, and with it all that comes behind it, until the earlier one is settled.
            return RetryLater(now_ms() + _ASK_AGAIN_MS, error, counts=False)
        return Parked(place)

    async def _write_retry(self, message: Message, facts: Envelope) -> Place:
        """Write the record to its retry topic; raises what no further try mends where it has an order."""
        gives_up = _NO_RETRY_TOPIC if self._keeps_order(message) else ()
        return await self._copy(message, self._retry_topic_of(message), facts, "retry", gives_up)

    def _facts(self, message: Message, error: MeshError) -> Envelope:
        return _failure_facts(message, error)._replace(group=self._group)

    async def put_back(self, message: Message) -> None:
        """Write a record that waits in its retry topic to the end of it, as it is; returns once Kafka has it.

        Raises:
            FencedError: the partition is gone; nothing was produced.
            MeshError: it can't be written now; the record can go on waiting where it is.
        """
        record = message.record
        assert record is not None  # only received messages wait
        await self._certain()
        if not self._is_current(message):
            raise FencedError
        await self._producer.send(
            record.topic,
            key=record.key,
            value=record.value,
            headers=record.headers,
            partition=record.partition,
        )

    async def _copy(
        self,
        message: Message,
        topic: str,
        facts: Envelope,
        what: str,
        gives_up: tuple[type[MeshError], ...] = (),
    ) -> Place:
        """Write the record as it came, with the facts of its failure, to the partition of its own number.

        Where there is none of that number it goes where its key sends it, unless that is an error that is to be raised.
        """
        record = message.record
        assert record is not None  # only received messages are settled
        copied_headers = failure_headers(record, facts)
        if not any(name == headers.CE_ID for name, _ in copied_headers):
            # It is named by its place (a plain Kafka client made it): the copy keeps that name at another place.
            copied_headers.append((headers.CE_ID, facts.id.encode()))

        async def write(partition: int) -> Receipt:
            return await self._producer.send(
                topic, key=record.key, value=record.value, headers=copied_headers, partition=partition
            )

        named = f"its {what} to {topic}"
        try:
            receipt = await self.persist(
                message, lambda: write(record.partition), named, (NotFound, *gives_up)
            )
        except NotFound:
            if NotFound in gives_up:
                raise
            # The source has more partitions than this topic: by key is better than not at all.
            receipt = await self.persist(message, lambda: write(-1), named, ())
        return Place(*receipt)

    async def _send(self, message: Message, answer: Message) -> None:
        """Send a reply; raises what only another answer can mend."""
        gives_up = (NotFound, InvalidArgument, PermissionDenied, MessageTooLarge)
        await self.persist(
            message, lambda: self._send_reply(answer), f"its reply to {answer.topic}", gives_up
        )

    async def persist(
        self,
        message: Message,
        produce: Callable[[], Awaitable[Receipt]],
        what: str,
        gives_up: tuple[type[MeshError], ...],
    ) -> Receipt:
        """Produce until Kafka has it, or an error says that it never will.

        What can't be written holds its record, and with it the offset; nothing is ever skipped.

        Args:
            message: on whose behalf.
            produce: sends once.
            what: is written, for the log, as in "its reply to dispatch.replies".
            gives_up: errors that no further try mends; they are raised.

        Raises:
            FencedError: the message's partition is gone; nothing more is produced.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            await self._certain()
            if not self._is_current(message):
                raise FencedError
            if self._producer.fatal is not None:
                raise self._producer.fatal  # this process can send nothing more: it ends, and a new one goes on
            try:
                return await produce()
            except gives_up:
                raise
            except MeshError as error:
                logger.error(
                    "%s %s is held: %s can't be written: %s; next try in %.1f s",
                    message.operation,
                    message.envelope.id,
                    what,
                    error,
                    pause,
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _reply(self, message: Message, *, value: bytes | None, status: StatusCode) -> Message:
        request = message.envelope
        assert request.reply_to is not None  # asked before
        return Message(
            topic=request.reply_to.topic,
            operation=message.operation,
            envelope=Envelope(
                id=new_id(),
                source=self._service,
                type=f"{message.operation}.reply",
                time=now_ms(),
                correlation_id=request.correlation_id or request.id,
                attempt=request.attempt,
                status=status,
                replay_id=request.replay_id,
            ),
            value=value,
            partition=request.reply_to.partition,
        )


def _failure_facts(message: Message, error: MeshError) -> Envelope:
    record, envelope = message.record, message.envelope
    assert record is not None  # only received messages are settled
    failed_at = now_ms()
    return Envelope(
        id=envelope.id,
        attempt=envelope.attempt,
        status=error.status,
        status_message=error.message,
        status_details=error.details,
        origin=envelope.origin or Place(record.topic, record.partition, record.offset),
        exception=type(error.__cause__ or error).__qualname__,
        first_failure=envelope.first_failure or failed_at,
        last_failure=failed_at,
    )


def failure_headers(record: Record, facts: Envelope) -> RawHeaders:
    """Give the headers of a retry or dead letter: the record's own, with the facts of its failure for older ones."""
    written = [(name, value) for name, value in headers.write(facts) if name.startswith("mesh-")]
    # All facts of earlier failures go, so that none stands beside another failure's.
    replaced = headers.FAILURE_FACTS | {name for name, _ in written}
    return [(name, value) for name, value in record.headers if name not in replaced] + written
