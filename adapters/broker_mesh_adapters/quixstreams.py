"""Quix Streams behind the mesh: its application makes wrapped clients, and an exception is a failure of the message.

On the way of a message: around Quix's processing of it, from `poll()` until the next one. What an application is given
is the whole change::

    app = Application(broker_address=servers, consumer_group="enrichment", **behind(Mesh("enrichment")))

Without it an exception stops the application, which meets the same message again when it is started. Here the message
is tried again, and kept as a dead letter at last, while the application goes on.

Quix commits by checkpoint: every few seconds, the offsets of all that it has processed since. Within one checkpoint the
offsets of a partition have to rise, so that a message which comes again has to wait for the next checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from quixstreams.kafka import consumer as consumer_module
from quixstreams.kafka import producer as producer_module
from quixstreams.kafka.exceptions import KafkaProducerDeliveryError

from broker_mesh import Mesh
from broker_mesh.adapter import State
from broker_mesh.errors import FailedPrecondition
from broker_mesh_adapters.checkpoints import Checkpoint, Partition
from broker_mesh_adapters.confluent_kafka import Consumer, Message, Producer, instrument

_OF_THE_MESH = ("mesh-", "ce_", "traceparent", "tracestate", "baggage")


class _InHand:
    """The message that an application works on, which its callbacks are not told."""

    message: Message | None = None


_in_hands: WeakKeyDictionary[Mesh, _InHand] = WeakKeyDictionary()


def behind(mesh: Mesh, **options: Any) -> dict[str, Any]:
    """Put the Quix Streams applications of this process behind a mesh.

    Args:
        mesh: of all clients.
        options: of the wrapped clients: `ordering`, `retry`, …

    Returns:
        Arguments for `Application`: what it does about messages that can't be processed or read.

    Raises:
        SettingsError: there is no such option.
        FailedPrecondition: this process has Quix behind another mesh already, or with other options.
    """
    in_hand = _in_hands.setdefault(mesh, _InHand())
    instrument(consumer_module, mesh=mesh, classes=[_CheckpointedConsumer], in_hand=in_hand, **options)
    instrument(producer_module, mesh=mesh, classes=[_Producer], in_hand=in_hand)

    def fail(error: Exception, _row_or_message: object, _logger: logging.Logger) -> bool:
        """Have the mesh deal with a message that can't be processed; Quix itself with what is not its fault."""
        message = in_hand.message
        if message is None or isinstance(error, KafkaProducerDeliveryError):  # that is of an earlier message
            return False
        if _is_held(message):
            message.delivery.fail(error)
        return True

    return {"on_processing_error": fail, "on_consumer_error": fail}


class _Beyond(NamedTuple):
    """How far a checkpoint had come that could not commit all of it: a message below was kept for a later one."""

    offset: int
    ownership: int  # which assignment of the partition that was


class _CheckpointedConsumer(Consumer):
    """Gives messages in the order that checkpoints take, and holds each until the application asks for the next."""

    def __init__(self, conf: Mapping[str, Any], *, in_hand: _InHand, **options: Any) -> None:
        super().__init__(conf, **options)
        self._in_hand = in_hand
        self._work = ExitStack()
        self._checkpoint = Checkpoint[Message](_place, _is_held)
        self._own: dict[Partition, int] = {}  # how far this checkpoint has come in the topics themselves
        self._beyond: dict[Partition, _Beyond] = {}
        self._retried: dict[
            Partition, Message
        ] = {}  # the last in each partition of retries, until it is committed

    def poll(self, timeout: float | None = None) -> Any:
        """Give the next message that this checkpoint takes."""
        self._end_work()
        message = self._checkpoint.due()
        if message is None:
            polled = super().poll(timeout)
            if not isinstance(polled, Message):
                return polled
            if not self._checkpoint.take(polled):
                polled.hold()
                return None
            message = polled
        self._note(message)
        self._work.enter_context(message.settling())
        self._in_hand.message = message
        return message

    def consume(self, *_: Any, **__: Any) -> Any:
        """Refuse: Quix sorts what it reads ahead by offset and time, and takes nothing that comes again."""
        raise FailedPrecondition(
            "an application that joins or concatenates topics can't have the mesh retry its messages: leave out "
            "behind(mesh), and use instrument() on quixstreams.kafka.consumer and quixstreams.kafka.producer instead"
        )

    def commit(
        self,
        message: Any = None,
        offsets: list[TopicPartition] | None = None,
        asynchronous: bool = True,
    ) -> Any:
        """Commit a checkpoint: what was given since the last one is processed."""
        self._end_work()
        self._checkpoint.begin()
        own, self._own = self._own, {}
        if offsets is None:
            return super().commit(message, asynchronous=asynchronous)
        self._commit_retried(asynchronous)
        # Not what Quix says: where a partition's last message was a retried one, that is an offset of another topic.
        reached = {place: self._clipped(place, own[place]) for place in map(_key, offsets) if place in own}
        for place, offset in reached.items():
            if offset < own[place]:
                self._beyond[place] = _Beyond(own[place], self._commits.ownership(place))
            else:
                self._beyond.pop(place, None)
        return self._commits.commit_own(reached, asynchronous=asynchronous) if reached else []

    def seek(self, partition: TopicPartition) -> None:
        """Begin a partition anew, after a checkpoint that was given up."""
        super().seek(partition)
        self._checkpoint.rewind(_key(partition))
        self._own.pop(_key(partition), None)
        self._beyond.pop(_key(partition), None)

    def close(self) -> None:
        """Close; a message that is still in work is not settled by that, and comes again."""
        self._work.__exit__(GeneratorExit, GeneratorExit(), None)
        super().close()

    def _end_work(self) -> None:
        self._in_hand.message = None
        self._work.close()

    def _note(self, message: Message) -> None:
        record = message.delivery.record
        place = record.topic, record.partition
        if record.topic == message.topic():
            beyond = self._beyond.get(place)
            done = beyond.offset if beyond is not None and beyond.ownership == message.ownership else 0
            self._own[place] = max(record.offset + 1, done)
        elif place not in self._retried or self._retried[place].delivery.record.offset < record.offset:
            self._retried[place] = message

    def _commit_retried(self, asynchronous: bool) -> None:
        """Commit retried messages, where they really are; beside one that is kept they wait for a later checkpoint."""
        records = [each.delivery.record for each in self._checkpoint.kept]
        behind = {(each.topic, each.partition) for each in records}
        for place in self._retried.keys() - behind:
            try:
                super().commit(self._retried.pop(place), asynchronous=asynchronous)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.ILLEGAL_GENERATION:
                    raise  # else its partition has gone to another member, where it comes again

    def _clipped(self, place: Partition, offset: int) -> int:
        records = [each.delivery.record for each in self._checkpoint.kept]
        return min([offset, *(each.offset for each in records if (each.topic, each.partition) == place)])


class _Producer(Producer):
    """Keeps the mesh's headers of a message from the messages that are made of it: they get their own."""

    def __init__(self, conf: Mapping[str, Any], *, in_hand: _InHand, **options: Any) -> None:
        super().__init__(conf, **options)
        self._in_hand = in_hand

    def produce(  # type: ignore[override]
        self, topic: str, value: Any = None, key: Any = None, *, headers: Any = None, **named: Any
    ) -> None:
        """Produce a message; Quix passes on all headers of what it was made of."""
        if headers and self._in_hand.message is not None:
            inherited = self._in_hand.message.headers() or []
            pairs = headers.items() if isinstance(headers, dict) else headers
            headers = [pair for pair in pairs if not (pair[0].startswith(_OF_THE_MESH) and pair in inherited)]
        super().produce(topic, value, key, headers=headers, **named)


def _place(message: Message) -> tuple[Partition, int]:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return (topic, partition), offset


def _key(place: TopicPartition) -> Partition:
    return place.topic, place.partition


def _is_held(message: Message) -> bool:
    return message.delivery.state is State.HELD
