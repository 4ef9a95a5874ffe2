"""confluent_kafka's Consumer behind the mesh: the same methods with the same meaning.

On the way of a message: between a program that polls and its own client of Kafka. This class is the map from
confluent_kafka's methods to the parts that know what they mean behind a mesh: `receiving.py`, `committing.py`,
`rebalancing.py`, `pausing.py`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import confluent_kafka
from confluent_kafka import TopicPartition

from broker_mesh import Mesh, Retry
from broker_mesh.adapter import Declaration, Reception, connect
from broker_mesh.errors import SettingsError
from broker_mesh_adapters.confluent_kafka import conf as client_conf
from broker_mesh_adapters.confluent_kafka import consumer_conf
from broker_mesh_adapters.confluent_kafka.committing import Commits
from broker_mesh_adapters.confluent_kafka.message import Message
from broker_mesh_adapters.confluent_kafka.pausing import Pausing
from broker_mesh_adapters.confluent_kafka.places import key, keys
from broker_mesh_adapters.confluent_kafka.rebalancing import Callback, Rebalancing
from broker_mesh_adapters.confluent_kafka.receiving import Receiving
from broker_mesh_adapters.confluent_kafka.shown import Shown
from broker_mesh_adapters.confluent_kafka.subscription import Subscription
from broker_mesh_adapters.confluent_kafka.unseen import Unseen

_MOST_MESSAGES = 1_000_000
_SETTLE_SECONDS = 5.0


class Consumer(confluent_kafka.Consumer):
    """A consumer whose messages have passed the mesh's checks: access, schema, deadline; with retries and dead letters.

    The methods are those of `confluent_kafka.Consumer`, with the same meaning. What differs: `poll` and `consume` give
    `Message` objects; a message that can't pass a check does not come, and is kept as a dead letter where its topic's
    contract says so; a message is committed once it is settled, which polling on does; what failed comes again.

    Args:
        conf: librdkafka properties, as for `confluent_kafka.Consumer`, by name as well; without `bootstrap.servers`
            the mesh's.
        mesh: the service that consumes.
        ordering: "key" has later messages of a key wait for a failed one, "partition" all of its partition; with "none"
            a failed one is put aside and comes again beside others.
        retry: what follows a failed attempt; None for the mesh's default.
        declared: operations and events whose values are given as models; those of this service are registered.

    Raises:
        SettingsError: an option or property can't be had behind a mesh.
        Unavailable: Kafka can't be reached, or the access rules can't be read.
        KafkaException: confluent_kafka refuses the configuration.
    """

    def __init__(
        self,
        *args: Any,
        mesh: Mesh,
        ordering: Literal["key", "partition", "none"] = "key",
        retry: Retry | None = None,
        declared: Iterable[Declaration] = (),
        **named: Any,
    ) -> None:
        self._open(client_conf.given(args, named), mesh)
        self._join(mesh, ordering, retry, declared)

    def _open(self, given: dict[str, Any], mesh: Mesh) -> None:
        """Make the client; nothing is asked of Kafka yet."""
        conf = client_conf.completed(given, mesh)
        self._conf = consumer_conf.read(conf)
        self._is_closed = False
        super().__init__({**conf, "enable.auto.offset.store": False, **self._callbacks(conf)})
        self._raw = cast("confluent_kafka.Consumer", super())  # the client's own methods

    def _join(self, mesh: Mesh, ordering: Any, retry: Retry | None, declared: Iterable[Declaration]) -> None:
        """Connect to the mesh, and put its parts around the client; without success the client is closed."""
        try:
            self._connection = connect(mesh, self)
        except BaseException:
            self._raw.close()
            raise
        try:
            self._connection.declare(declared)
            self._build(ordering, retry)
        except BaseException:
            self._raw.close()
            self._connection.release(self)
            raise

    def _build(self, ordering: Any, retry: Retry | None) -> None:
        conf, raw = self._conf, self._raw
        reception = Reception(
            self._connection, group=conf.group, ordering=ordering, retry=retry, client_id=conf.client_id
        )
        self._intake = reception.intake
        self._shown = Shown()
        self._unseen = Unseen()
        self._subscription = Subscription(
            self._connection.service, reception.retry_topic, reception.operation_of
        )
        self._commits = Commits(raw, self._intake, self._subscription, self._shown, self._unseen, conf)
        self._pausing = Pausing(raw, self._intake, self._subscription)
        self._rebalancing = Rebalancing(
            self,
            raw,
            self._connection,
            reception,
            self._subscription,
            self._commits,
            self._pausing,
            incremental=conf.incremental,
        )
        self._receiving = Receiving(
            raw, self._intake, self._subscription, self._commits, self._unseen, self._keep_up
        )

    def _callbacks(self, conf: dict[str, Any]) -> dict[str, Any]:
        on_commit = conf.get("on_commit")
        if not callable(on_commit):
            return {}

        def told(error: Any, partitions: list[TopicPartition]) -> None:
            mine = self._subscription.shown(partitions)
            if mine or not partitions:
                on_commit(error, mine)

        return {"on_commit": told}

    def _keep_up(self) -> None:
        self._commits.keep_up()
        self._pausing.balance()
        self._rebalancing.keep_up()

    # ── receiving ─────────────────────────────────────────────────────────────────────────────────────────

    def poll(self, timeout: float | None = None) -> Message | None:
        """Give the next message or error event; None after `timeout` seconds without one (None or -1: wait for ever).

        What was given before, and neither settled nor held, is done.

        Raises:
            RuntimeError: the consumer is closed.
            MeshError: the mesh can't go on: an outcome could not be made durable, and never will.
        """
        received = self._receiving.receive(1, None if timeout is None else float(timeout))
        return received[0] if received else None  # type: ignore[return-value]  # or an error event, as ever

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:  # type: ignore[override]
        """Give up to `num_messages` messages and error events, no two messages of one key, within `timeout` seconds.

        What was given before, and neither settled nor held, is done. It gives less before the time is over where all
        else that it has waits for a message of this very batch.

        Raises:
            ValueError: `num_messages` is below 0 or above a million.
            RuntimeError: the consumer is closed.
            MeshError: the mesh can't go on: an outcome could not be made durable, and never will.
        """
        if not 0 <= num_messages <= _MOST_MESSAGES:
            raise ValueError("num_messages must be between 0 and 1000000 (1M)")
        return self._receiving.receive(num_messages, float(timeout))  # type: ignore[return-value]

    def _put_back(self, received: list[confluent_kafka.Message]) -> None:
        """Have messages be given by the next poll, or consume, to whose caller they did not come."""
        self._receiving.put_back(received)

    def _receive_until(self, abandoned: threading.Event) -> None:
        """Have the next poll, or consume, end soon once nobody waits for it any more."""
        self._receiving.abandoned = abandoned

    # ── subscription and assignment ───────────────────────────────────────────────────────────────────────

    def subscribe(
        self,
        topics: list[str],
        on_assign: Callback | None = None,
        on_revoke: Callback | None = None,
        on_lost: Callback | None = None,
    ) -> None:
        """Subscribe to topics and patterns (`^…`), as ever.

        Raises:
            FailedPrecondition: an operation of another service, or a topic of retries.
            MeshError: the topics of retries and dead letters can't be made.
        """
        self._refuse_closed()
        if not isinstance(topics, list) or not all(isinstance(topic, str) for topic in topics):
            raise TypeError("expected list of topic unicode strings")
        for name, callback in (("on_assign", on_assign), ("on_revoke", on_revoke), ("on_lost", on_lost)):
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} expects a callable")
        self._rebalancing.subscribe(topics, on_assign, on_revoke, on_lost)

    def unsubscribe(self) -> None:
        """End the subscription."""
        self._raw.unsubscribe()
        self._subscription.end()

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Read these partitions; outside of a callback, retries are made in place then."""
        self._rebalancing.assign(partitions, incremental=False)

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        """Read these partitions as well."""
        self._rebalancing.assign(partitions, incremental=True)

    def unassign(self) -> None:
        """Read nothing more."""
        self._rebalancing.unassign(None)

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        """Read these partitions no longer."""
        self._rebalancing.unassign(partitions)

    def assignment(self) -> list[TopicPartition]:
        """Give the assigned partitions of the program's topics."""
        return self._subscription.shown(self._raw.assignment())

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Give nothing more of these partitions, nor of their retries, until they are resumed."""
        self._pausing.pause(partitions)

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Give messages of these partitions again."""
        self._pausing.resume(partitions)

    def seek(self, partition: TopicPartition) -> None:
        """Go on from an offset; the place of a message that the program has is known, also of a retried one."""
        place = key(partition)
        real = self._shown.place_of(place, partition.offset, in_hand=True) or place
        self._rebalancing.seek(real, partition.offset)
        again = self._shown.since(place, partition.offset) if real == place else {}
        for retried, offset in again.items():
            self._rebalancing.seek(retried, offset)
        self._commits.rewound([real, *again])

    # ── offsets ───────────────────────────────────────────────────────────────────────────────────────────

    def commit(  # type: ignore[override]
        self,
        message: confluent_kafka.Message | None = None,
        offsets: list[TopicPartition] | None = None,
        asynchronous: bool = True,
    ) -> list[TopicPartition] | None:
        """Commit a message, offsets, or all that was given; what that covers is done.

        Where the mesh still works on a message below, it commits up to that, and the rest once that is settled.

        Raises:
            FailedPrecondition: the program itself holds a message below, and says two things at once.
            KafkaException: it can't be committed; ILLEGAL_GENERATION where the partition has gone to another member.
        """
        self._refuse_closed()
        return self._commits.commit(message, offsets, asynchronous=asynchronous)

    def store_offsets(
        self, message: confluent_kafka.Message | None = None, offsets: list[TopicPartition] | None = None
    ) -> None:
        """Store what may be committed, of a message or as offsets; what that covers is done.

        Raises:
            FailedPrecondition: the program itself holds a message below, and says two things at once.
            KafkaException: it can't be stored.
        """
        self._refuse_closed()
        self._commits.store(message, offsets)

    def committed(
        self, partitions: list[TopicPartition], timeout: float | None = None
    ) -> list[TopicPartition]:
        """Give the offsets that the group has committed."""
        return (
            self._raw.committed(partitions) if timeout is None else self._raw.committed(partitions, timeout)
        )

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Give how far the program has come; not beyond what the mesh still works on, or the program holds."""
        positions = self._unseen.below(self._intake.reached())
        found = self._raw.position(partitions)
        for place in found:
            place.offset = positions.get(key(place), place.offset)
        return found

    def consumer_group_metadata(self) -> Any:
        """Give what a transaction needs to know of this consumer (`Producer.send_offsets_to_transaction`)."""
        self._commits.sent_to_transaction()
        return self._raw.consumer_group_metadata()

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float | None = None, cached: bool = False
    ) -> tuple[int, int]:
        """Give the lowest and the next offset of a partition; None after `timeout` seconds."""
        if timeout is None:
            return self._raw.get_watermark_offsets(partition, cached=cached)
        return self._raw.get_watermark_offsets(partition, timeout, cached)

    def offsets_for_times(
        self, partitions: list[TopicPartition], timeout: float | None = None
    ) -> list[TopicPartition]:
        """Give the first offsets at or after timestamps."""
        if timeout is None:
            return self._raw.offsets_for_times(partitions)
        return self._raw.offsets_for_times(partitions, timeout)

    # ── the client ────────────────────────────────────────────────────────────────────────────────────────

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        """Give the cluster's metadata, without the topics where retries wait."""
        if topic is not None:
            return self._raw.list_topics(topic, timeout)
        found = self._raw.list_topics(timeout=timeout)
        for name in [name for name in found.topics if self._subscription.is_hidden(name)]:
            del found.topics[name]
        return found

    def memberid(self) -> str:
        """Give the member id that the group's coordinator has assigned; None before it has."""
        return self._raw.memberid()

    def cluster_id(self, timeout: float = -1) -> str:
        """Give the cluster's id."""
        return self._raw.cluster_id(timeout)

    def set_sasl_credentials(self, username: str, password: str) -> None:
        """Use other credentials from the next authentication on."""
        self._raw.set_sasl_credentials(username, password)

    def close(self) -> None:
        """Leave the group, with what was settled committed as configured; a second close does nothing.

        What was given last is done, unless an exception is on its way: then it comes again. What is being settled is
        waited for, up to 10 seconds; what is held comes again. While Kafka is away, leaving the group takes up to its
        session timeout, and the last client's disconnecting up to 20 seconds more.
        """
        self._close(settles=sys.exc_info()[0] is None)

    def _close(self, *, settles: bool) -> None:
        if self._is_closed:
            self._raw.close()
            return
        try:
            self._unseen.hold()
            if settles:
                self._intake.conclude()
            assigned = keys(self._raw.assignment())
            try:
                self._intake.wait_settled(assigned, _SETTLE_SECONDS)
                self._commits.keep_up(now=True)
                self._raw.close()
            finally:
                self._intake.ended(assigned)
        finally:
            self._is_closed = True  # not before: callbacks of the revocation may commit
            self._connection.release(self)

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise RuntimeError("Consumer closed")


def wrap_consumer(
    client: confluent_kafka.Consumer,
    *,
    mesh: Mesh,
    conf: Mapping[str, Any],
    ordering: Literal["key", "partition", "none"] = "key",
    retry: Retry | None = None,
    declared: Iterable[Declaration] = (),
) -> Consumer:
    """Put a finished consumer, which reads nothing yet, behind the mesh (`wrap` says more).

    Args:
        client: the plain one; only the wrapped one may be used from now on.
        mesh, ordering, retry, declared: as for `Consumer`.
        conf: the configuration that it was made with.

    Raises:
        SettingsError: it reads already, or commits by itself what is not settled.
        MeshError: as `Consumer`.
    """
    if isinstance(client, Consumer):
        raise SettingsError(f"{client!r} is wrapped already")
    said = consumer_conf.read(conf)
    consumer_conf.check_wrapped(said)
    if client.assignment():
        raise SettingsError("this consumer reads already: wrap it before it subscribes")
    consumer: Consumer = Consumer.__new__(Consumer)  # its own client, unlike its methods, is never used
    consumer._conf, consumer._raw, consumer._is_closed = said, client, False
    consumer._join(mesh, ordering, retry, declared)
    return consumer
