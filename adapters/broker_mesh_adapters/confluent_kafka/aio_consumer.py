"""confluent_kafka's asyncio consumer behind the mesh: the same coroutines around a wrapped consumer.

On the way of a message: around `consumer.py`, for programs on an event loop. One call at a time has the consumer, in a
thread; what a callback calls belongs to the call that the callback came from.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Literal

from confluent_kafka import aio

from broker_mesh import Mesh, Retry
from broker_mesh.adapter import Declaration
from broker_mesh_adapters.confluent_kafka.conf import given
from broker_mesh_adapters.confluent_kafka.consumer import Consumer

_COROUTINES = ("error_cb", "throttle_cb", "stats_cb", "on_commit")

_called_back_by: ContextVar[AIOConsumer | None] = ContextVar("_called_back_by", default=None)


class AIOConsumer(aio.AIOConsumer):
    """`confluent_kafka.aio.AIOConsumer`, whose messages have passed the mesh's checks, as those of `Consumer`.

    It connects to the mesh with its first awaited call, or with `async with`; errors of that are raised there. A
    cancelled `poll` or `consume` ends, and loses nothing: what it would have given comes with the next.

    Args:
        consumer_conf: as for `Consumer`; callbacks are coroutine functions, called on the event loop.
        max_workers: threads for calls, where no `executor` is given; at least two, for calls that callbacks make.
        executor: for calls; it stays open.
        mesh, ordering, retry, declared: as for `Consumer`.

    Raises:
        SettingsError: an option or property can't be had behind a mesh.
        KafkaException: librdkafka refuses the configuration.
        RuntimeError: no event loop runs.
    """

    def __init__(  # the other's makes a plain consumer
        self,
        consumer_conf: dict[str, Any],
        max_workers: int = 4,
        executor: Executor | None = None,
        *,
        mesh: Mesh,
        ordering: Literal["key", "partition", "none"] = "key",
        retry: Retry | None = None,
        declared: Iterable[Declaration] = (),
    ) -> None:
        loop = asyncio.get_running_loop()
        if max_workers < 1:
            raise ValueError("max_workers must be at least 1")
        conf = given((consumer_conf,), {})
        for name in _COROUTINES:
            if callable(conf.get(name)):
                conf[name] = self._wrap_callback(loop, conf[name])
        consumer: Consumer = Consumer.__new__(Consumer)
        consumer._open(conf, mesh)
        self._consumer: Consumer = consumer
        self._mesh_options = mesh, ordering, retry, list(declared)
        self._is_joined = False
        self._closed = False
        self._owns_executor = executor is None
        self.executor = executor or ThreadPoolExecutor(
            max(2, max_workers), thread_name_prefix="mesh-consumer"
        )
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> AIOConsumer:
        async with self._turn:
            await self._join()
        return self

    async def close(self, *_: Any, **__: Any) -> Any:
        """Leave the group, as `Consumer.close`."""
        settles = sys.exc_info()[0] is None  # asked here: a thread knows nothing of it
        try:
            if self._is_joined:
                await self._call(self._consumer._close, settles=settles)
            elif not self._closed:
                await asyncio.to_thread(self._consumer._raw.close)  # never used: the mesh does not know of it
            else:
                raise RuntimeError("Consumer closed")
        finally:
            self._closed = True
            if self._owns_executor:
                await asyncio.to_thread(self.executor.shutdown)

    async def poll(self, *args: Any, **kwargs: Any) -> Any:
        """Give the next message or error event, as `Consumer.poll`."""
        return await self._receive(self._consumer.poll, *args, **kwargs)

    async def consume(self, *args: Any, **kwargs: Any) -> Any:
        """Give messages and error events, as `Consumer.consume`."""
        return await self._receive(self._consumer.consume, *args, **kwargs)

    async def _receive(self, receive: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        abandoned = threading.Event()
        receiving = asyncio.ensure_future(self._receive_in_turn(abandoned, receive, *args, **kwargs))
        try:
            return await asyncio.shield(receiving)
        except asyncio.CancelledError:
            abandoned.set()
            if receiving.done() and not receiving.cancelled() and receiving.exception() is None:
                self._put_back(receiving.result())
            raise

    async def _receive_in_turn(
        self, abandoned: threading.Event, receive: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if _called_back_by.get() is self:
            return await super()._call(receive, *args, **kwargs)
        async with self._turn:  # until what nobody asks for any more is put back, for whoever is next
            await self._join()
            if abandoned.is_set():
                return None
            self._consumer._receive_until(abandoned)
            received = await super()._call(receive, *args, **kwargs)
            if abandoned.is_set():
                self._put_back(received)
            return received

    def _put_back(self, received: Any) -> None:
        if received:
            self._consumer._put_back(received if isinstance(received, list) else [received])

    async def _call(self, blocking_task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if _called_back_by.get() is self:
            return await super()._call(blocking_task, *args, **kwargs)
        async with self._turn:
            await self._join()
            return await super()._call(blocking_task, *args, **kwargs)

    async def _join(self) -> None:
        if not self._is_joined and not self._closed:
            mesh, ordering, retry, declared = self._mesh_options
            await asyncio.to_thread(self._consumer._join, mesh, ordering, retry, declared)
            self._is_joined = True

    def _wrap_callback(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[..., Any],
        edit_args: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None,
        edit_kwargs: Callable[[Any], Any] | None = None,
    ) -> Callable[..., Any]:
        async def called_back(*args: Any, **kwargs: Any) -> Any:
            _called_back_by.set(self)
            outcome: Awaitable[Any] = callback(*args, **kwargs)
            return await outcome

        return super()._wrap_callback(loop, called_back, edit_args, edit_kwargs)
