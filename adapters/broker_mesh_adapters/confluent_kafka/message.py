"""A message that has passed the mesh's checks, in the hands of a program.

On the way of a message: what a wrapped consumer's `poll()` and `consume()` give. It is a message of confluent_kafka's,
with its own methods, and beside them what the mesh knows of it and what the program can have done with it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import confluent_kafka

from broker_mesh.adapter import Delivery

if TYPE_CHECKING:
    from broker_mesh import Context


class Message(confluent_kafka.Message):
    """One message, for one attempt.

    `topic()` is the topic that the program subscribed to, also of a message that waited for this attempt in a topic of
    the mesh's; `partition()` and `offset()` are its place there then, which `commit(message=…)`, `store_offsets` and
    `seek` of the consumer that gave it understand. Unless something is said of it, a message is done once the program
    polls on.

    Args:
        delivery: what the mesh hands over.
        ownership: which assignment of its partition it belongs to.
    """

    __slots__ = ("delivery", "ownership")

    def __init__(self, delivery: Delivery, ownership: int) -> None:
        source: confluent_kafka.Message = delivery.source
        record = delivery.record
        facts: dict[str, Any] = {}
        if (epoch := source.leader_epoch()) is not None:
            facts["leader_epoch"] = epoch
        if record.headers:
            facts["headers"] = record.headers
        super().__init__(
            topic=delivery.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            timestamp=source.timestamp(),
            **facts,
        )
        self.delivery = delivery
        self.ownership = ownership

    @property
    def data(self) -> Any:
        """The decoded value: a model where one is declared, else a dict; the value itself where nothing decodes it."""
        return self.delivery.data

    @property
    def context(self) -> Context:
        """What is known of the message, and what to call others with on its behalf."""
        return self.delivery.context

    @property
    def attempt(self) -> int:
        """Which attempt this is; 1 is the first."""
        return self.delivery.attempt

    def hold(self) -> None:
        """Keep the message from being done by polling on: it is settled later, by one of the methods below.

        Raises:
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        self.delivery.hold()

    def settling(self) -> AbstractContextManager[None]:
        """Settle by how a block ends: done, or what it raises is tried again, or kept as a dead letter.

        The exception goes no further; `KeyboardInterrupt` and `SystemExit` do, and settle nothing. Within the block the
        message is held, its span is current, and log lines name it.
        """
        return self.delivery.settling()

    def reply(self, body: Any) -> None:
        """Answer the request that this message is.

        Args:
            body: a model or a mapping, which the mesh encodes; bytes that the program has encoded.

        Raises:
            SchemaError: it does not fit the operation's reply schema; the message is not settled by that.
            FailedPrecondition: nobody waits for a reply, or it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        self.delivery.reply(body)

    def retry(self, after: float | None = None) -> None:
        """Have the message come again, as far as the retry policy allows; then it is kept as a dead letter.

        Args:
            after: how long to wait at least, seconds; None for the policy's back-off.

        Raises:
            InvalidArgument: `after` is negative or no number.
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        self.delivery.retry(after)

    def dead_letter(self, reason: str) -> None:
        """Keep the message as a dead letter, with its original bytes.

        Args:
            reason: why, for people.

        Raises:
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        self.delivery.dead_letter(reason)
