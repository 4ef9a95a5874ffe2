"""Driving a pipeline by hand: the layers' coroutine runs in whatever thread the program works in, without a task.

On the way of a message: for wrapped clients, in place of the event loop. A pipeline that waits for nothing costs a
wrapped client no hop between threads. It stops at two kinds of points, which its innermost step and the functions
handed to its layers mark: `hand_over` gives the message to the program (inbound) or to the client that sends it
(outbound) until that says what came of it; `elsewhere` has something done on the mesh's own event loop, and goes on
there.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import types
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, NamedTuple, TypeVar

from broker_mesh.errors import InternalError, Unavailable
from broker_mesh.layer import R
from broker_mesh.message import Message

T = TypeVar("T")

Work = Callable[[], Awaitable[Any]]

_DISCONNECTED = "the mesh is disconnected: its wrapped clients were closed"


class _HandOver(NamedTuple):
    message: Message


class _Elsewhere(NamedTuple):
    work: Work


@types.coroutine
def _ask(request: _HandOver | _Elsewhere) -> Generator[_HandOver | _Elsewhere, Any, Any]:
    return (yield request)


async def hand_over(message: Message) -> Any:
    """Give a message out of the pipeline, and wait for what `Run.resume` or `Run.fail` brings back."""
    return await _ask(_HandOver(message))


async def elsewhere(work: Callable[[], Awaitable[T]]) -> T:
    """Do something on the mesh's event loop, and go on there once it is done.

    Raises:
        Unavailable: the mesh is disconnected.
        BaseException: what the work raises.
    """
    done: T = await _ask(_Elsewhere(work))
    return done


class Background:
    """The mesh's event loop, which runs in a thread of its own, as what is driven by hand uses it.

    Args:
        loop: that loop.

    Attributes:
        closed: why nothing more may begin, one sentence; None while the mesh is connected.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()  # of the loop's thread alone
        self.closed: str | None = None

    def begin(
        self, work: Work, context: contextvars.Context, done: Callable[[asyncio.Task[Any]], None]
    ) -> None:
        """Begin something on the loop.

        Args:
            work: is called and awaited there.
            context: it runs in this one: what it sends belongs to the span that is current there.
            done: called there, outside of that context, when the work has ended in whatever way.

        Raises:
            Unavailable: the mesh is disconnected.
        """

        def start() -> None:
            task = self._loop.create_task(_awaited(work), context=context)
            self._tasks.add(task)
            task.add_done_callback(ended, context=contextvars.Context())

        def ended(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            done(task)

        with self._lock:  # what begins before `close` is seen by `finish`
            if self.closed is not None:
                raise Unavailable(self.closed)
            self._loop.call_soon_threadsafe(start, context=contextvars.Context())

    def close(self, why: str = _DISCONNECTED) -> None:
        """Let nothing more begin."""
        with self._lock:
            self.closed = self.closed or why

    def forsake(self, why: str) -> None:
        """Let nothing more begin, in a process where the loop's thread is missing and the lock may stay held."""
        self._lock = threading.Lock()
        self.closed = why

    async def finish(self, timeout: float) -> None:
        """Let what has begun end, for so many seconds at most; on the loop."""
        until = self._loop.time() + timeout
        while self._tasks and (rest := until - self._loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=rest)


class Run(ABC, Generic[R]):
    """One message's way through a pipeline. Driven by one thread at a time; a subclass says what each stop means.

    Args:
        steps: the pipeline, called with the message.
        background: where `elsewhere` is done.

    Attributes:
        context: what the pipeline runs in; a layer's context variables (the current span) are found there.
    """

    # No reference to itself, so that one which is dropped unfinished ends there and then, and not in the midst of
    # whatever else when garbage is collected.
    __slots__ = ("_background", "_steps", "context")

    def __init__(self, steps: Awaitable[R], background: Background) -> None:
        assert isinstance(steps, Coroutine)  # what a stack of layers, called with a message, gives
        self._steps = steps
        self._background = background
        self.context = contextvars.copy_context()

    @abstractmethod
    def _handed(self, message: Message) -> None:
        """Take the message that the pipeline gives out; on the thread that drove it there."""

    @abstractmethod
    def _left(self) -> None:
        """Note that the pipeline is about to go on on the mesh's loop; before it does."""

    @abstractmethod
    def _ended(self, result: R | None, error: BaseException | None, /) -> None:
        """Take the result, or the error, at the end; on the thread that drove it there."""

    def start(self) -> None:
        """Run to the first stop: the message is handed over, is dealt with elsewhere, or has ended."""
        self._drive(self._steps.send, None)

    def resume(self, value: Any) -> None:
        """Go on from where the message was handed over, with what came of it."""
        self._drive(self._steps.send, value)

    def fail(self, error: BaseException) -> None:
        """Go on from where the message was handed over, with what went wrong."""
        self._drive(self._steps.throw, error)

    def _drive(self, go_on: Callable[[Any], Any], value: Any) -> None:
        try:
            request = self.context.run(go_on, value)
        except StopIteration as end:
            self._ended(end.value, None)
            return
        except BaseException as error:
            self._ended(None, error)
            if isinstance(error, KeyboardInterrupt):
                raise  # it is the program's: it only happened to come while a layer ran
            return
        match request:
            case _HandOver(message):
                self._handed(message)
            case _Elsewhere(work):
                self._left()
                try:
                    self._background.begin(work, self.context, self._done_elsewhere)
                except Unavailable as closed:
                    self.fail(closed)
            case _:
                # A layer waits for something of asyncio's: it can't go on here, and must say so instead of hanging.
                self.fail(InternalError(f"a layer waits for {request!r} where there is no event loop"))

    def _done_elsewhere(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.fail(Unavailable(_DISCONNECTED))
        elif (error := task.exception()) is not None:
            self.fail(error)
        else:
            self.resume(task.result())


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
