"""Wrapping a client that was made elsewhere, and so is not of a class of ours.

On the way of a message: as `producer.py` and `consumer.py`, around an object instead of as a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import confluent_kafka as plain

from broker_mesh import Mesh, Operation
from broker_mesh.adapter import Declaration, SyncHandle
from broker_mesh.errors import SettingsError
from broker_mesh_adapters.confluent_kafka.batches import produce_each
from broker_mesh_adapters.confluent_kafka.producer import CLOSED, Producer
from broker_mesh_adapters.confluent_kafka.sending import (
    Callback,
    Headers,
    Key,
    Sender,
    Value,
    not_produced,
    without_only_errors,
)


class WrappedProducer:
    """A producer around one of confluent_kafka's: what is not here is the other's.

    Args:
        producer: made elsewhere; only this may produce with it from now on.
        mesh, declared: as for `Producer`.
        conf: the configuration that it was made with, which a finished producer does not tell.

    Raises:
        SettingsError: `delivery.report.only.error` is set: the mesh would hear of no delivery.
        MeshError: as `Producer`.
    """

    def __init__(
        self,
        producer: plain.Producer,
        *,
        mesh: Mesh,
        conf: Mapping[str, Any],
        declared: Iterable[Declaration] = (),
    ) -> None:
        conf = dict(conf)
        if without_only_errors(conf):
            raise SettingsError(
                "a producer with 'delivery.report.only.error' can't be wrapped, since nobody hears of its deliveries: "
                "make it without, or make a Producer(conf, mesh=mesh) of broker_mesh_adapters.confluent_kafka"
            )
        self._raw = producer
        self._sender = Sender(mesh, self, conf, declared, only_errors=False)
        self._ended = False

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
        """Produce a message, as `Producer.produce`."""
        if self._ended:
            raise RuntimeError(CLOSED)
        outgoing = self._sender.blocking(topic, value, key, partition, headers)
        try:
            self._raw.produce(
                topic,
                outgoing.value,
                outgoing.key,
                partition=partition,
                on_delivery=self._sender.report(outgoing, callback, on_delivery),
                timestamp=timestamp,
                headers=outgoing.headers,  # type: ignore[arg-type]  # a list of them, that of bytes alone
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
        """Produce messages, as `Producer.produce_batch`."""
        return produce_each(self.produce, topic, messages, partition, callback or on_delivery)

    def request(self, operation: Operation[Any, Any] | str, body: Any, **options: Any) -> Any:
        """Call a service and wait for its reply, as `Producer.request`."""
        return self._sender.request(operation, body, **options)

    def call(self, operation: Operation[Any, Any] | str, body: Any, **options: Any) -> SyncHandle[Any]:
        """Send a request to a service, as `Producer.call`."""
        return self._sender.call(operation, body, **options)

    def close(self) -> bool:
        """Close the producer, as `Producer.close`."""
        closed = self._raw.close()
        if not self._ended:
            self._ended = True
            self._sender.connection.release(self)
        return closed

    def __getattr__(self, name: str) -> Any:
        if name == "_raw":  # not set: the constructor has failed
            raise AttributeError(name)
        return getattr(self._raw, name)

    def __len__(self) -> int:
        return len(self._raw)

    def __bool__(self) -> bool:
        return True  # as confluent_kafka's, whatever its length

    def __enter__(self) -> WrappedProducer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wrap(client: Any, *, mesh: Mesh, conf: Mapping[str, Any], **options: Any) -> Any:
    """Put a finished producer or consumer of confluent_kafka behind the mesh.

    Args:
        client: a `confluent_kafka.Producer` or `Consumer`, or of a subclass that calls its produce() or poll().
        mesh: the service it belongs to.
        conf: the configuration that it was made with, which confluent_kafka does not tell of a finished object.
        options: of the wrapped class, such as `declared` or `ordering`.

    Returns:
        An object with the methods of the wrapped class; use it in place of the client.

    Raises:
        SettingsError: the client can't be wrapped, or its configuration does not allow it.
        MeshError: as the wrapped classes.
    """
    if isinstance(client, (Producer, WrappedProducer)):
        raise SettingsError(f"{client!r} is wrapped already")
    if isinstance(client, (plain.SerializingProducer, plain.DeserializingConsumer)):
        name = "SerializingProducer" if isinstance(client, plain.Producer) else "DeserializingConsumer"
        raise SettingsError(
            f"a finished {name} can't be wrapped, since it works inside its own produce() or poll(): make a "
            f"{name}(conf, mesh=mesh) of broker_mesh_adapters.confluent_kafka instead"
        )
    if isinstance(client, plain.Producer):
        return WrappedProducer(client, mesh=mesh, conf=conf, **options)
    if isinstance(client, plain.Consumer):
        from broker_mesh_adapters.confluent_kafka.consumer import wrap_consumer

        return wrap_consumer(client, mesh=mesh, conf=conf, **options)
    raise SettingsError(f"{client!r} can't be wrapped: give a Producer or Consumer of confluent_kafka")
