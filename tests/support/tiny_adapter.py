"""A tiny adapter: confluent-kafka's producer and consumer behind the mesh, by `broker_mesh.adapter` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from broker_mesh import Mesh
from broker_mesh.adapter import Declaration, Delivery, Reception, connect, to_record, translate


class Sender:
    """A producer whose messages pass the mesh's layers: `send(topic, value)`."""

    def __init__(self, conf: Mapping[str, Any], mesh: Mesh, declare: Sequence[Declaration] = ()) -> None:
        self._connection = connect(mesh, self)
        self._connection.declare(declare)
        self._outbound = self._connection.outbound()
        self._producer = Producer(dict(conf))

    def send(self, topic: str, value: Any, key: bytes | None = None) -> None:
        """Check a message, and have the producer send it."""
        if not self._outbound.is_ready(topic):
            self._connection.wait(self._outbound.ready(topic))
        prepared = self._outbound.prepare(topic, value, key=key)
        outgoing = prepared.result() if isinstance(prepared, Future) else prepared

        def delivered(error: Any, message: Any) -> None:
            if error is None:
                outgoing.acknowledged(message.partition(), message.offset())
            else:
                outgoing.failed(translate(error, f"sending to {topic}"))

        try:
            self._producer.produce(
                topic, outgoing.value, outgoing.key, headers=outgoing.headers, on_delivery=delivered
            )
        except (BufferError, KafkaException) as error:
            outgoing.failed(error)
            raise
        self._producer.poll(0)

    def close(self) -> None:
        """Send what is queued, and let the mesh go."""
        self._producer.flush()
        self._connection.release(self)


class Receiver:
    """A consumer whose messages have passed the mesh's layers: `poll()` gives a `Delivery`, and settles the last."""

    def __init__(
        self,
        conf: Mapping[str, Any],
        mesh: Mesh,
        topics: Sequence[str],
        declare: Sequence[Declaration] = (),
        **options: Any,
    ) -> None:
        self._connection = connect(mesh, self)
        self._connection.declare(declare)
        self._reception = Reception(self._connection, group=conf["group.id"], **options)
        self._intake = self._reception.intake
        self._connection.wait(self._reception.prepare(topics))
        self._paused: set[tuple[str, int]] = set()
        self._consumer = Consumer({**conf, "enable.auto.commit": False, "auto.offset.reset": "earliest"})
        self._consumer.subscribe(
            [*topics, *map(self._reception.retry_topic, topics)],
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )

    def poll(self, timeout: float) -> Delivery | None:
        """Settle what was given before, and give the next message; wait for it up to `timeout` seconds."""
        self._intake.conclude()
        self._commit(asynchronous=True)
        delivery = self._intake.next()
        if delivery is None:
            soonest = self._intake.next_in()
            message = self._consumer.poll(timeout if soonest is None else min(timeout, soonest))
            if message is not None and message.error() is None:
                self._intake.take(to_record(message), message)
            elif message is not None and message.error().fatal():
                raise translate(message.error(), "reading")
            delivery = self._intake.next()
        self._hold_back()
        return delivery

    def close(self) -> None:
        """Settle what was given, commit, leave the group, and let the mesh go."""
        self._intake.conclude()
        self._consumer.close()  # revokes everything
        self._connection.release(self)

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._intake.assigned((place.topic, place.partition) for place in places)
        consumer.assign(places)

    def _revoked(self, _: Consumer, places: list[TopicPartition]) -> None:
        partitions = {(place.topic, place.partition) for place in places}
        self._intake.wait_settled(partitions, timeout=5.0)
        self._commit(asynchronous=False)
        self._lost(_, places)

    def _lost(self, _: Consumer, places: list[TopicPartition]) -> None:
        partitions = {(place.topic, place.partition) for place in places}
        self._intake.ended(partitions)
        self._paused -= partitions

    def _commit(self, *, asynchronous: bool) -> None:
        ends = [TopicPartition(*place, end) for place, end in self._intake.committable().items()]
        if ends:
            self._consumer.commit(offsets=ends, asynchronous=asynchronous)

    def _hold_back(self) -> None:
        full = self._intake.full
        if full != self._paused:
            self._consumer.pause([TopicPartition(*place) for place in full - self._paused])
            self._consumer.resume([TopicPartition(*place) for place in self._paused - full])
            self._paused = full
