"""The blocking face: the same core, driven from a background loop.

On the way of a message: beside `client.py`, for programs and handlers without an event loop of their own.
Nothing is implemented twice; each method runs its asynchronous namesake and waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from broker_mesh.client import Body, EventT, Handle, ReplyT, RequestT
from broker_mesh.errors import FailedPrecondition
from broker_mesh.message import Receipt
from broker_mesh.operation import Event, Operation

if TYPE_CHECKING:
    from broker_mesh.context import Context
    from broker_mesh.mesh import Mesh

T = TypeVar("T")


def run_blocking(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop that runs in another thread, in this thread's context, and wait for it.

    The context carries the current trace. If the wait is interrupted (Ctrl-C), the coroutine is cancelled.

    Raises:
        FailedPrecondition: this thread is the loop's own: the wait would never end.
    """
    try:
        own = asyncio.get_running_loop()
    except RuntimeError:
        own = None
    if own is loop:
        coroutine.close()
        raise FailedPrecondition(
            "a blocking call on the event loop would never end: await the asynchronous one"
        )
    if not loop.is_running():
        coroutine.close()
        raise FailedPrecondition("the mesh is not connected: use it inside 'with'")
    result: concurrent.futures.Future[T] = concurrent.futures.Future()
    variables = contextvars.copy_context()
    started: list[asyncio.Task[T]] = []

    def start() -> None:
        task = loop.create_task(coroutine, context=variables)
        started.append(task)
        task.add_done_callback(finish)

    def finish(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            result.cancel()
            return
        error = task.exception()
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(task.result())

    loop.call_soon_threadsafe(start)
    try:
        return result.result()
    except BaseException:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in started])
        raise


class SyncHandle(Generic[T]):
    """A `Handle` whose `reply` blocks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, handle: Handle[T]) -> None:
        self._loop = loop
        self._handle = handle

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

    def reply(self, timeout: float | None = None, *, wait_for_replay: bool = False) -> T:
        """Wait for the reply, as `Handle.reply`."""
        return run_blocking(self._loop, self._handle.reply(timeout, wait_for_replay=wait_for_replay))


class _Caller(Protocol):
    """What `Mesh` and `Context` have in common."""

    @property
    def request(self) -> Any: ...
    @property
    def call(self) -> Any: ...
    @property
    def send(self) -> Any: ...
    @property
    def publish(self) -> Any: ...


class SyncCalls:
    """Blocking calls on a mesh or a context.

    Args:
        loop: runs in another thread.
        caller: whose methods are called there.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, caller: _Caller) -> None:
        self._loop = loop
        self._caller = caller

    @overload
    def request(
        self,
        operation: Operation[RequestT, ReplyT],
        body: RequestT,
        *,
        timeout: float | None = ...,
        expires_in: float | None = ...,
        idempotency_key: str | None = ...,
    ) -> ReplyT: ...
    @overload
    def request(
        self,
        operation: str,
        body: Mapping[str, Any],
        *,
        timeout: float | None = ...,
        expires_in: float | None = ...,
        idempotency_key: str | None = ...,
    ) -> dict[str, Any]: ...
    def request(self, operation: Operation[Any, Any] | str, body: Body, **options: Any) -> Any:
        """Call and wait for the reply, as `Mesh.request`."""
        return run_blocking(self._loop, self._caller.request(operation, body, **options))

    @overload
    def call(
        self,
        operation: Operation[RequestT, ReplyT],
        body: RequestT,
        *,
        expires_in: float | None = ...,
        idempotency_key: str | None = ...,
    ) -> SyncHandle[ReplyT]: ...
    @overload
    def call(
        self,
        operation: str,
        body: Mapping[str, Any],
        *,
        expires_in: float | None = ...,
        idempotency_key: str | None = ...,
    ) -> SyncHandle[dict[str, Any]]: ...
    def call(self, operation: Operation[Any, Any] | str, body: Body, **options: Any) -> SyncHandle[Any]:
        """Send a request and return once it is persisted, as `Mesh.call`."""
        return SyncHandle(self._loop, run_blocking(self._loop, self._caller.call(operation, body, **options)))

    def send(
        self,
        operation: Operation[RequestT, Any] | str,
        body: RequestT | Mapping[str, Any],
        *,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Send a one-way message, as `Mesh.send`."""
        receipt: Receipt = run_blocking(
            self._loop,
            self._caller.send(operation, body, expires_in=expires_in, idempotency_key=idempotency_key),
        )
        return receipt

    def publish(self, event: Event[EventT] | str, body: EventT | Mapping[str, Any]) -> Receipt:
        """Publish an event, as `Mesh.publish`."""
        receipt: Receipt = run_blocking(self._loop, self._caller.publish(event, body))
        return receipt


class SyncContext(SyncCalls):
    """The blocking face of a `Context`: calls from handlers that are plain functions."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        super().__init__(loop, context)


class SyncMesh(SyncCalls):
    """The blocking face of a `Mesh`, as a context manager: `with Mesh("dispatch").sync() as client:`.

    Args:
        mesh: not entered elsewhere.
    """

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(asyncio.new_event_loop(), mesh)
        self._mesh = mesh
        self._thread = threading.Thread(target=self._loop.run_forever, name="mesh-sync", daemon=True)

    def attach(self, handle: str, operation: Operation[Any, ReplyT] | None = None) -> SyncHandle[Any]:
        """Make a handle of its text, as `Mesh.attach`."""

        async def attach() -> Handle[Any]:
            return self._mesh.attach(handle, operation)

        return SyncHandle(self._loop, run_blocking(self._loop, attach()))

    def __enter__(self) -> SyncMesh:
        self._thread.start()
        run = threading.Event()
        self._loop.call_soon_threadsafe(run.set)
        run.wait()
        try:
            run_blocking(self._loop, self._mesh.__aenter__())
        except BaseException:
            self._stop_loop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            run_blocking(self._loop, self._mesh.__aexit__(kind, error, where))
        finally:
            self._stop_loop()

    def _stop_loop(self) -> None:
        asyncio.run_coroutine_threadsafe(cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def cancel_others() -> None:
    """Cancel all else that runs on this loop, before it stops: other threads may wait for it, and would for ever."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
