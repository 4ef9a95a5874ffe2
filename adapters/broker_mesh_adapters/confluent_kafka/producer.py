"""confluent_kafka's producer behind the mesh: the same methods with the same meaning, and every layer on the way out.

On the way of a message: a program's `produce()`. The message passes the layers in the program's own thread, is produced
with the mesh's headers beside the program's, and the delivery report ends its span before the program's callback hears
it. Key, partition, partitioner, time-outs and transactions are the program's and librdkafka's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial as bound
from typing import Any

import confluent_kafka as plain

from broker_mesh import Mesh, Operation
from broker_mesh.adapter import Declaration, SyncHandle
from broker_mesh_adapters.confluent_kafka.batches import produce_each
from broker_mesh_adapters.confluent_kafka.conf import completed, given
from broker_mesh_adapters.confluent_kafka.sending import (
    Callback,
    Headers,
    Key,
    Sender,
    Value,
    not_produced,
    without_only_errors,
)

CLOSED = "Producer has been closed"  # confluent_kafka's words


class Producer(plain.Producer):
    """`confluent_kafka.Producer`, whose messages pass the mesh: access, values, tracing, metrics.

    Args:
        args, named: the configuration, as for `confluent_kafka.Producer`. Kafka's addresses, and TLS and SASL as a
            whole, are the mesh's where it says nothing of them.
        mesh: the service that sends.
        declared: operations and events whose values are models; those of this service are registered, and their topics
            made.

    Raises:
        SettingsError: `mesh` is no mesh, or a setting is not usable.
        SchemaError: a declared model does not fit its schema.
        Unavailable: Kafka can't be reached, or the access rules can't be read.
        KafkaException: librdkafka refuses the configuration.
    """

    # What `mesh` and `declared` are where a plain class calls this constructor with the configuration alone.
    _mesh_given: tuple[Any, Iterable[Declaration]] = (None, ())

    def __init__(
        self,
        *args: Any,
        mesh: Mesh | None = None,
        declared: Iterable[Declaration] = (),
        **named: Any,
    ) -> None:
        joined, declared = self._mesh_given if mesh is None else (mesh, declared)
        conf = completed(given(args, named), joined)
        only_errors = without_only_errors(conf)
        super().__init__(conf)
        self._mesh_sender = Sender(joined, self, conf, declared, only_errors=only_errors)
        self._mesh_ended = False

    def produce(
        self,
        topic: str,
        value: Value = None,
        key: Key = None,
        partition: int = -1,
        callback: Callback | None = None,
        on_delivery: Callback | None = None,
        timestamp: int = 0,
        headers: Headers = None,
    ) -> None:
        """Produce a message, as `confluent_kafka.Producer.produce`.

        A topic's first message waits until the registry has been read; all others wait for nothing.

        Args:
            topic: where to.
            value: bytes or text, as the program has encoded it; or a model or a mapping, which the mesh encodes by
                the topic's schema; None for none.
            key: bytes or text; None for none.
            partition: -1 for the partitioner's choice.
            callback, on_delivery: called from `poll` or `flush` as `(error, message)`, where the message is delivered,
                and where it has failed.
            timestamp: epoch ms; 0 for now.
            headers: the program's. Those of the mesh's names are the mesh's to write, but `mesh-deadline` (epoch
                ms) and `mesh-idempotency-key` are heard, and `traceparent` where no span is current.

        Raises:
            SchemaError: the value does not fit its topic's schema; nothing was sent.
            PermissionDenied: an access rule denies it, or it is another service's event; nothing was sent.
            MeshError: another layer refuses it; nothing was sent.
            BufferError: librdkafka's queue is full: call `poll`, and try again.
            KafkaException: librdkafka refuses it.
            RuntimeError: the producer is closed.
        """
        if self._mesh_ended:
            raise RuntimeError(CLOSED)
        sender = self._mesh_sender
        outgoing = sender.blocking(topic, value, key, partition, headers)
        try:
            super().produce(
                topic,
                outgoing.value,
                outgoing.key,
                partition,
                sender.report(outgoing, callback, on_delivery),
                None,
                timestamp,
                outgoing.headers,  # type: ignore[arg-type]  # a list of them, that of bytes alone
            )
        except BaseException as error:
            not_produced(outgoing, error)
            raise

    def produce_batch(
        self,
        topic: str,
        messages: list[dict[str, Any]],
        partition: int = -1,
        callback: Callback | None = None,
        on_delivery: Callback | None = None,
    ) -> int:
        """Produce messages, as `confluent_kafka.Producer.produce_batch`, but one by one: each has its own headers.

        So a message's dict may have `headers` and `timestamp` as well, and its `partition` counts. What was not taken
        has `_error` in its dict afterwards: a KafkaError, or the MeshError where the mesh refused it.

        Returns:
            How many were taken.

        Raises:
            TypeError: the messages are no list of dicts, or have values of wrong types; nothing was sent.
            RuntimeError: the producer is closed.
        """
        return produce_each(
            bound(Producer.produce, self), topic, messages, partition, callback or on_delivery
        )

    def close(self) -> bool:
        """Close as `confluent_kafka.Producer.close`; the mesh's last client to close disconnects it.

        An open transaction is aborted and what is queued is delivered first; callbacks are called meanwhile.
        """
        closed = super().close()
        if not self._mesh_ended:
            self._mesh_ended = True
            self._mesh_sender.connection.release(self)
        return closed

    def __exit__(self, *_: Any) -> bool | None:
        self.close()
        return None

    # ── calls on services ─────────────────────────────────────────────────────────────────────────────────

    def request(
        self,
        operation: Operation[Any, Any] | str,
        body: Any,
        *,
        timeout: float | None = None,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Call a service and wait for its reply, as `Mesh.request`, from a program without an event loop.

        Args:
            operation: declared, or its name.
            body: a model, or a dict where the operation is called by name.
            timeout: how long to wait, seconds.
            expires_in: how long the work is worth doing, seconds.
            idempotency_key: requests of one key are done once.

        Raises:
            DeadlineExceeded: no reply within the timeout; its `handle` can be waited for again.
            MeshError: what the service answered, or why the request was not sent.
        """
        return self._mesh_sender.request(
            operation, body, timeout=timeout, expires_in=expires_in, idempotency_key=idempotency_key
        )

    def call(
        self,
        operation: Operation[Any, Any] | str,
        body: Any,
        *,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
    ) -> SyncHandle[Any]:
        """Send a request to a service and return once it is persisted, as `Mesh.call`; `reply()` of the handle waits.

        Raises:
            MeshError: the request was not sent.
        """
        return self._mesh_sender.call(operation, body, expires_in=expires_in, idempotency_key=idempotency_key)
