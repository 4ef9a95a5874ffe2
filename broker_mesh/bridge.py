"""A client whose event loop runs in another thread, to be awaited on any loop.

On the way of a message: what `message.context` of a wrapped client calls others with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

from broker_mesh.client import AnyTarget, Body, Client, Handle
from broker_mesh.errors import FailedPrecondition
from broker_mesh.message import Receipt
from broker_mesh.operation import Operation

T = TypeVar("T")


class BridgedHandle(Generic[T]):
    """A `Handle` of another loop.

    Args:
        handle: of the client's loop.
        loop: the client's.
    """

    def __init__(self, handle: Handle[T], loop: asyncio.AbstractEventLoop) -> None:
        self._handle = handle
        self._loop = loop

    @property
    def id(self) -> str:
        """The request's id."""
        return self._handle.id

    @property
    def operation(self) -> str:
        """The operation that was called."""
        return self._handle.operation

    def __str__(self) -> str:
        return str(self._handle)

    async def reply(self, timeout: float | None = None, *, wait_for_replay: bool = False) -> T:
        """Wait for the reply, as `Handle.reply`."""
        return await across(self._loop, self._handle.reply(timeout, wait_for_replay=wait_for_replay))

    def __await__(self) -> Generator[Any, None, T]:
        return self.reply().__await__()


class BridgedClient:
    """A `Client` of another loop: the same methods, awaited on the caller's loop.

    Args:
        client: made on its loop.
        loop: that loop; it runs in another thread.
    """

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    async def request(self, operation: Operation[Any, Any] | str, body: Body, **options: Any) -> Any:
        """Call and wait for the reply, as `Client.request`."""
        return await across(self._loop, self._client.request(operation, body, **options))

    async def call(self, operation: Operation[Any, Any] | str, body: Body, **options: Any) -> Any:
        """Send a request, as `Client.call`."""
        handle = await across(self._loop, self._client.call(operation, body, **options))
        return BridgedHandle(handle, self._loop)

    async def send(self, target: AnyTarget, body: Body, **options: Any) -> Receipt:
        """Send a one-way message, or publish an event, as `Client.send`."""
        return await across(self._loop, self._client.send(target, body, **options))


async def across(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on another thread's loop, and await it here; a cancellation here cancels it there.

    Raises:
        FailedPrecondition: that loop has ended: the mesh is disconnected.
    """
    if not loop.is_running():
        coroutine.close()
        raise FailedPrecondition("the mesh is disconnected: its wrapped clients were closed")
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))
