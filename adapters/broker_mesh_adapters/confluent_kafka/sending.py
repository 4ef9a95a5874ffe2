"""What all wrapped producers share: a message passes the layers, is produced as they leave it, and its report heard.

On the way of a message: between the program's `produce()` and confluent_kafka's own. What the program gives is read as
confluent_kafka reads it, with the same errors in the same words, so that programs that count on them go on working.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message
from pydantic import BaseModel

from broker_mesh import Mesh, Operation
from broker_mesh.adapter import (
    Connection,
    Declaration,
    Outbound,
    Outgoing,
    RawHeaders,
    SyncHandle,
    connect,
    translate,
)
from broker_mesh.errors import InvalidArgument, MeshError, ResourceExhausted

Callback: TypeAlias = Callable[[KafkaError | None, Message], Any]
Value: TypeAlias = BaseModel | Mapping[str, Any] | str | bytes | None
Key: TypeAlias = str | bytes | None
Headers: TypeAlias = (
    Mapping[str, str | bytes | None]
    | list[tuple[str, str | bytes | None]]
    | list[tuple[str, str]]
    | list[tuple[str, bytes]]
    | None
)
Report: TypeAlias = Callable[[KafkaError | None, Message], None]

_ONLY_ERRORS = "delivery.report.only.error"


class Sender:
    """The mesh's part of one wrapped producer.

    Args:
        mesh: whose layers messages pass.
        client: the wrapped producer; referred to weakly, so that one that is dropped is collected.
        conf: its configuration, as librdkafka gets it.
        declared: operations and events whose values are models.
        only_errors: whether the program hears of failed deliveries only.

    Raises:
        Unavailable: Kafka can't be reached, or the access rules can't be read.
        SettingsError: `mesh` is no mesh, or a setting is not usable.
        SchemaError: a declared model does not fit its schema.
    """

    def __init__(
        self,
        mesh: Mesh,
        client: object,
        conf: Mapping[str, Any],
        declared: Iterable[Declaration],
        *,
        only_errors: bool,
    ) -> None:
        declarations = list(declared)
        self.connection: Connection = connect(mesh, client)
        try:
            if declarations:
                self.connection.declare(declarations)
        except BaseException:
            self.connection.release(client)
            raise
        self.outbound: Outbound = self.connection.outbound(str(conf.get("client.id", "")))
        self._callback: Callback | None = conf.get("on_delivery")
        self._report = _report_errors if only_errors else _report

    def prepared(
        self, topic: str, value: Value, key: Key, partition: int, headers: Headers
    ) -> Outgoing | Future[Outgoing]:
        """Pass a message to a topic that is ready through the layers; see `Outbound.prepare`.

        Raises:
            TypeError: an argument is of the wrong type.
            MeshError: a layer refuses the message, or the mesh is disconnected; nothing is sent.
        """
        return self.outbound.prepare(
            topic,
            value_of(value),
            key=key_of(key),
            program_headers=pairs(headers),
            partition=partition,
        )

    def ready_for(self, topic: str) -> None:
        """Learn what a topic carries, once; blocks until the registry has been read.

        Raises:
            TypeError: the topic is no str.
            NotFound: it has a name of the mesh's, and there is no such operation or event.
            PermissionDenied: it is an event of another service.
            MeshError: the registry can't be read.
        """
        if not self.outbound.is_ready(check_topic(topic)):
            self.connection.wait(self.outbound.ready(topic))

    def blocking(self, topic: str, value: Value, key: Key, partition: int, headers: Headers) -> Outgoing:
        """Do both, and wait for what has to be read."""
        self.ready_for(topic)
        outgoing = self.prepared(topic, value, key, partition, headers)
        return outgoing if isinstance(outgoing, Outgoing) else outgoing.result()

    def report(self, outgoing: Outgoing, callback: Callback | None, on_delivery: Callback | None) -> Report:
        """Make what the client calls with the delivery report of a message.

        Args:
            outgoing: told what became of it.
            callback, on_delivery: the program's, two names of one thing; by default that of its configuration.
        """
        own = callback if callback is not None else on_delivery
        return partial(self._report, outgoing, own if own is not None else self._callback)

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
        """Call a service and wait for its reply; see `Mesh.request`."""
        client = self.connection.runtime.client
        return self.connection.wait(
            client.request(
                operation, body, timeout=timeout, expires_in=expires_in, idempotency_key=idempotency_key
            )
        )

    def call(
        self,
        operation: Operation[Any, Any] | str,
        body: Any,
        *,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
    ) -> SyncHandle[Any]:
        """Send a request to a service, and return once it is persisted; see `Mesh.call`."""
        client = self.connection.runtime.client
        handle = self.connection.wait(
            client.call(operation, body, expires_in=expires_in, idempotency_key=idempotency_key)
        )
        return SyncHandle(self.connection.loop, handle)


def _report(
    outgoing: Outgoing, callback: Callback | None, error: KafkaError | None, message: Message
) -> None:
    """Tell the mesh of a delivery, then the program; what the program's callback raises comes out of `poll`."""
    _conclude(outgoing, error, message)
    if callback is not None:
        callback(error, message)


def _report_errors(
    outgoing: Outgoing, callback: Callback | None, error: KafkaError | None, message: Message
) -> None:
    """Do as `_report`, for a program that has set `delivery.report.only.error`."""
    _conclude(outgoing, error, message)
    if callback is not None and error is not None:
        callback(error, message)


def _conclude(outgoing: Outgoing, error: KafkaError | None, message: Message) -> None:
    if error is not None:
        outgoing.failed(translate(error, f"sending to {outgoing.topic!r}"))
        return
    partition, offset = message.partition(), message.offset()
    outgoing.acknowledged(-1 if partition is None else partition, -1 if offset is None else offset)


def not_produced(outgoing: Outgoing, error: BaseException) -> None:
    """Tell the mesh that the client did not take a message; the program gets the client's own error."""
    doing = f"sending to {outgoing.topic!r}"
    told: MeshError
    match error:
        case KafkaException():
            told = translate(error, doing)
        case BufferError():
            told = ResourceExhausted(f"{doing}: the producer's queue is full: call poll(), and try again")
        case _:
            told = InvalidArgument(f"{doing}: {error}")
    told.__cause__ = error
    outgoing.failed(told)


def without_only_errors(conf: MutableMapping[str, Any]) -> bool:
    """Take `delivery.report.only.error` out of a configuration and tell what it said.

    With it, confluent_kafka reports no success to anybody, and the mesh would never hear of any: the mesh hears of all,
    and keeps from the program what it does not want to hear of.
    """
    if isinstance(conf.get(_ONLY_ERRORS), bool):  # anything else confluent_kafka refuses
        return bool(conf.pop(_ONLY_ERRORS))
    return False


# ── what a program gives, read as confluent_kafka reads it ────────────────────────────────────────────────


def check_topic(topic: Any) -> str:
    """Give a topic's name.

    Raises:
        TypeError: it is no str.
    """
    if not isinstance(topic, str):
        raise TypeError(f"argument 1 must be str, not {_type_name(topic)}")
    return topic


def value_of(value: Any) -> BaseModel | Mapping[str, Any] | bytes | None:
    """Give a value as the mesh takes it: text as UTF-8, and models and mappings as they are.

    Raises:
        TypeError: it is something else.
    """
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (BaseModel, Mapping)):
        return value
    raise _no_bytes(value, 2)


def key_of(key: Any) -> bytes | None:
    """Give a key as bytes, text as UTF-8.

    Raises:
        TypeError: it is something else.
    """
    if key is None or isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return key.encode()
    raise _no_bytes(key, 3)


def pairs(headers: Any) -> RawHeaders:
    """Give headers as pairs of a name and bytes or None.

    Raises:
        TypeError: they are neither a dict nor a list of pairs, or a value is neither text nor bytes nor None.
    """
    if headers is None:
        return []
    if isinstance(headers, dict):
        return [(_header_name(name), _header_value(value)) for name, value in headers.items()]
    if not isinstance(headers, list):
        raise TypeError(
            f"expected headers to be dict or list of (key, value) tuples, not {_type_name(headers)}"
        )
    read: RawHeaders = []
    for pair in headers:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError("Headers are expected to be a list of (key, value) tuples")
        read.append((_header_name(pair[0]), _header_value(pair[1])))
    return read


def _header_name(name: Any) -> str:
    # As the client does: any object by its text, up to a NUL. Read here, or a header would pass by another name.
    return str(name).partition("\0")[0]


def _header_value(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"expected header value to be None, binary, or unicode string, not {_type_name(value)}")


def _no_bytes(given: Any, position: int) -> TypeError:
    if isinstance(given, (bytearray, memoryview)):
        return TypeError(f"argument {position} must be read-only bytes-like object, not {_type_name(given)}")
    return TypeError(f"a bytes-like object is required, not {_type_name(given)!r}")


def _type_name(given: Any) -> str:
    return "None" if given is None else type(given).__name__
