"""confluent_kafka's asyncio producer behind the mesh.

On the way of a message: as `producer.py`, on an event loop. `produce()` puts the message into librdkafka's queue at
once, with its headers, so nothing is held back in a buffer of its own; a thread polls, and what it hears of deliveries
crosses to the event loop once for many.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import confluent_kafka as plain
from confluent_kafka import KafkaError, KafkaException, Message

from broker_mesh import Handle, Mesh, Operation
from broker_mesh.adapter import Declaration, Outgoing
from broker_mesh_adapters.confluent_kafka.aio_reports import Reports
from broker_mesh_adapters.confluent_kafka.conf import completed, given
from broker_mesh_adapters.confluent_kafka.producer import CLOSED
from broker_mesh_adapters.confluent_kafka.sending import (
    Callback,
    Headers,
    Key,
    Sender,
    Value,
    not_produced,
    without_only_errors,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_SECONDS = 0.1
_COROUTINES = ("error_cb", "throttle_cb", "stats_cb")


class AIOProducer:
    """`confluent_kafka.aio.AIOProducer`, whose messages pass the mesh, with headers and timestamps.

    It connects to the mesh with its first awaited call, or with `async with`; errors of that are raised there.

    Args:
        producer_conf: as for `confluent_kafka.Producer`; `error_cb`, `throttle_cb` and `stats_cb` may be coroutine
            functions, called on the event loop. Addresses and security as for `Producer`.
        max_workers: threads for calls that block, where no `executor` is given.
        executor: for calls that block; `close()` shuts it down.
        batch_size: how many messages may follow each other before others on the event loop have their turn.
        buffer_timeout: without effect: librdkafka's `linger.ms` says how long messages wait for others.
        mesh, declared: as for `Producer`.

    Raises:
        SettingsError: `mesh` is no mesh.
        KafkaException: librdkafka refuses the configuration.
        RuntimeError: no event loop runs.
    """

    def __init__(
        self,
        producer_conf: dict[str, Any],
        max_workers: int = 4,
        executor: Executor | None = None,
        batch_size: int = 1000,
        buffer_timeout: float = 1.0,  # noqa: ARG002 - programs give it
        *,
        mesh: Mesh | None = None,
        declared: Iterable[Declaration] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        joined: Any = mesh
        conf = completed(given((producer_conf,), {}), joined)
        without_only_errors(conf)  # every future is answered
        self._raw = plain.Producer(_on_loop(self._loop, conf))
        self._given: tuple[Any, dict[str, Any], list[Declaration]] = joined, conf, list(declared)
        self._joining: asyncio.Task[Sender] | None = None
        self.executor = executor or ThreadPoolExecutor(max_workers, thread_name_prefix="mesh-producer-call")
        self._batch_size = batch_size
        self._in_a_row = 0
        self._is_closed = False
        self._reports = Reports(self._loop)
        self._stopped = threading.Event()
        weakref.finalize(
            self, self._stopped.set
        )  # one that is dropped without close() leaves no thread behind
        self._poller = threading.Thread(
            target=_poll, args=(self._raw, self._stopped), name="mesh-aio-producer", daemon=True
        )
        self._poller.start()

    async def __aenter__(self) -> AIOProducer:
        await self._sender()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __len__(self) -> int:
        return 0 if self._is_closed else len(self._raw)

    def __bool__(self) -> bool:
        return True

    # ── producing ─────────────────────────────────────────────────────────────────────────────────────────

    async def produce(
        self,
        topic: str,
        value: Value = None,
        key: Key = None,
        partition: int = -1,
        callback: Callback | None = None,
        on_delivery: Callback | None = None,
        timestamp: int = 0,
        headers: Headers = None,
    ) -> asyncio.Future[Message]:
        """Produce a message; arguments as for `Producer.produce`. A callback is called on the event loop.

        Returns:
            A future of the delivered message; it fails with a KafkaException where delivery does, also where librdkafka
            does not take the message.

        Raises:
            MeshError: the mesh refuses the message; nothing was sent.
            TypeError: an argument is of the wrong type.
            RuntimeError: the producer is closed.
        """
        sender = await self._sender()
        if not sender.outbound.is_ready(topic):
            await asyncio.to_thread(sender.ready_for, topic)
        prepared = sender.prepared(topic, value, key, partition, headers)
        outgoing = prepared if isinstance(prepared, Outgoing) else await asyncio.wrap_future(prepared)
        if self._is_closed:  # while this waited
            outgoing.failed(RuntimeError(CLOSED))
            raise RuntimeError(CLOSED)
        future: asyncio.Future[Message] = self._loop.create_future()
        report = sender.report(
            outgoing, partial(self._reports.arrived, future, callback or on_delivery), None
        )
        try:
            self._raw.produce(
                topic,
                outgoing.value,
                outgoing.key,
                partition=partition,
                on_delivery=report,
                timestamp=timestamp,
                headers=outgoing.headers,  # type: ignore[arg-type]  # a list of them, that of bytes alone
            )
        except BaseException as error:
            not_produced(outgoing, error)
            if isinstance(error, BufferError):
                future.set_exception(KafkaException(KafkaError(KafkaError._QUEUE_FULL, str(error))))
            elif isinstance(error, KafkaException):
                future.set_exception(error)
            else:
                raise
        self._in_a_row += 1
        if self._in_a_row >= self._batch_size:
            self._in_a_row = 0
            await asyncio.sleep(0)
        return future

    async def poll(self, timeout: float = 0) -> int:
        """Wait for delivery reports; they are served in the background, and this tells how many have been.

        Args:
            timeout: seconds; 0 for what there is, negative for as long as it takes.

        Returns:
            How many reports came since the last call.
        """
        await self._sender()
        return await self._reports.counted(timeout)

    async def flush(self, timeout: float = -1) -> int:
        """Wait until everything is delivered, or the time is over; tells how many messages are still queued."""
        return await self._call(self._raw.flush, timeout)

    async def purge(self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True) -> None:
        """Give up what is queued, or in flight; futures fail with a KafkaException that says so."""
        await self._call(self._raw.purge, in_queue, in_flight, blocking)

    async def list_topics(self, *args: Any, **named: Any) -> Any:
        """Describe topics, as `confluent_kafka.Producer.list_topics`."""
        return await self._call(self._raw.list_topics, *args, **named)

    async def cluster_id(self, timeout: float = -1) -> str:
        """Tell the cluster's id, as `confluent_kafka.Producer.cluster_id`."""
        return await self._call(self._raw.cluster_id, timeout)

    async def set_sasl_credentials(self, username: str, password: str) -> None:
        """Set credentials, as `confluent_kafka.Producer.set_sasl_credentials`."""
        await self._call(self._raw.set_sasl_credentials, username, password)

    # ── transactions ──────────────────────────────────────────────────────────────────────────────────────

    async def init_transactions(self, timeout: float = -1) -> None:
        """Begin to use transactions, as `confluent_kafka.Producer.init_transactions`."""
        await self._call(self._raw.init_transactions, timeout)

    async def begin_transaction(self) -> None:
        """Begin a transaction; what was produced before is delivered first."""
        await self.flush()
        await self._call(self._raw.begin_transaction)

    async def send_offsets_to_transaction(
        self, positions: list[plain.TopicPartition], group_metadata: Any, timeout: float = -1
    ) -> None:
        """Commit offsets with the transaction, as `confluent_kafka.Producer.send_offsets_to_transaction`."""
        await self._call(self._raw.send_offsets_to_transaction, positions, group_metadata, timeout)

    async def commit_transaction(self, timeout: float = -1) -> None:
        """Commit the transaction, after all of its messages are delivered."""
        await self.flush()
        await self._call(self._raw.commit_transaction, timeout)

    async def abort_transaction(self, timeout: float = -1) -> None:
        """Abort the transaction; what it has produced nobody reads."""
        await self.flush()
        await self._call(self._raw.abort_transaction, timeout)

    # ── calls on services ─────────────────────────────────────────────────────────────────────────────────

    async def request(
        self,
        operation: Operation[Any, Any] | str,
        body: Any,
        *,
        timeout: float | None = None,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Call a service and wait for its reply, as `Mesh.request`."""
        client = (await self._sender()).connection.client
        return await client.request(
            operation, body, timeout=timeout, expires_in=expires_in, idempotency_key=idempotency_key
        )

    async def call(
        self,
        operation: Operation[Any, Any] | str,
        body: Any,
        *,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
    ) -> Handle[Any]:
        """Send a request to a service, and return once it is persisted, as `Mesh.call`."""
        client = (await self._sender()).connection.client
        handle: Handle[Any] = await client.call(
            operation, body, expires_in=expires_in, idempotency_key=idempotency_key
        )
        return handle

    # ── lifetime ──────────────────────────────────────────────────────────────────────────────────────────

    async def close(self) -> None:
        """Deliver what is queued, and close; the mesh's last client to close disconnects it."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._joining is not None:
                await asyncio.wait([self._joining])
            await asyncio.to_thread(self._raw.flush)
        finally:
            self._stopped.set()
            await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._poller.join()
        self._raw.close()
        joining = self._joining
        if joining is not None and not joining.cancelled() and joining.exception() is None:
            joining.result().connection.release(self)
        self.executor.shutdown()

    def _join(self) -> Sender:
        mesh, conf, declared = self._given
        return Sender(mesh, self, conf, declared, only_errors=False)

    async def _sender(self) -> Sender:
        """Connect to the mesh, once; a cancelled caller does not end it for others."""
        if self._is_closed:
            raise RuntimeError(CLOSED)
        joining = self._joining
        if joining is None or (joining.done() and joining.exception() is not None):
            joining = self._joining = self._loop.create_task(asyncio.to_thread(self._join))
        if not joining.done():
            await asyncio.shield(joining)
        return joining.result()

    async def _call(self, blocking: Callable[..., T], *args: Any, **named: Any) -> T:
        await self._sender()
        return await self._loop.run_in_executor(self.executor, partial(blocking, *args, **named))


def _poll(producer: plain.Producer, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            producer.poll(_POLL_SECONDS)
        except Exception:  # what the program's error_cb or stats_cb raises must not end deliveries
            logger.exception("a callback of the producer's configuration failed")


def _on_loop(loop: asyncio.AbstractEventLoop, conf: Mapping[str, Any]) -> dict[str, Any]:
    """Have the callbacks of a configuration be called on the event loop, while the thread that polls waits."""

    def called(callback: Callable[..., Any], *args: Any) -> Any:
        async def call() -> Any:
            result = callback(*args)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(call(), loop).result()

    return {**conf, **{name: partial(called, conf[name]) for name in _COROUTINES if name in conf}}
