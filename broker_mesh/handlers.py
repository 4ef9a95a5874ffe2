"""Handlers: running what the user wrote, and turning what it returns or raises into an outcome.

On the way of a message: the innermost step of the inbound pipeline.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from broker_mesh.context import Context
from broker_mesh.errors import DeadlineExceeded, InternalError, SchemaError, SettingsError
from broker_mesh.layers.settle import classify_exception, text_of
from broker_mesh.layers.validate import Encoder
from broker_mesh.message import Message
from broker_mesh.outcome import Done, HandlerError, Outcome
from broker_mesh.turn import current


class Handler:
    """One user function with the types it was declared for.

    Args:
        name: the operation or event, for errors.
        function: `async def`, or a plain `def`, which runs in a thread.
        reply: the model it must return; None when its return value means nothing.

    Raises:
        SettingsError: it is not a function of a message and a context.
    """

    def __init__(self, name: str, function: Callable[..., Any], reply: type[BaseModel] | None) -> None:
        self._name = name
        self._function = function
        self._reply = reply
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__ is a handler too
        )
        self._check_signature()

    async def run(self, message: Message, context: Context, encoder: Encoder | None) -> Outcome:
        """Run the function within the message's deadline.

        Args:
            message: decoded.
            context: what the function gets beside the body.
            encoder: for the reply; None where none is waited for.

        Raises:
            HandlerError: with what the function raised, as an error of the mesh; DEADLINE_EXCEEDED when the
                work expired while it ran; INTERNAL when it returned something that is no reply.
        """
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(context.remaining()) as limit:
                result = await self._call(message.body, context)
        except TimeoutError as error:
            if limit.expired():
                expired = DeadlineExceeded(f"{self._name} did not finish before the work expired")
                expired.__cause__ = error
                raise HandlerError(expired) from error
            raise HandlerError(classify_exception(error)) from error
        except asyncio.CancelledError:
            if task is not None and task.cancelling():
                raise  # the mesh stops this work: it comes again elsewhere
            cancelled = InternalError(f"the handler of {self._name} cancelled itself")
            raise HandlerError(cancelled) from None
        except BaseException as error:  # a handler may raise anything; none of it may stop the service
            if isinstance(error, GeneratorExit) and not _is_running(task):
                raise  # nobody raised it: the coroutine is thrown away with its loop
            raise HandlerError(classify_exception(error)) from error
        return Done(reply=None if self._reply is None else self._encoded(result, encoder))

    async def _call(self, body: Any, context: Context) -> Any:
        if self._is_async:
            return await self._function(body, context)
        result, returned = _in_thread(lambda: self._function(body, context))
        try:
            return await result
        finally:
            turn = current()
            if turn is not None and not returned.done():
                turn.left_behind.append(returned)

    def _encoded(self, result: Any, encoder: Encoder | None) -> bytes | None:
        assert self._reply is not None
        if not isinstance(result, self._reply):
            raise HandlerError(
                InternalError(
                    f"the handler of {self._name} returned {type(result).__name__}, not {self._reply.__name__}"
                )
            )
        if encoder is None:
            return None
        try:
            return encoder.encode(result)
        except SchemaError as error:
            failure = InternalError(f"the reply of {self._name} does not fit its schema: {error.message}")
            raise HandlerError(failure) from error
        except Exception as error:  # a model's serializers are the user's code
            failure = InternalError(
                f"the reply of {self._name} can't be encoded: {type(error).__name__}: {text_of(error)}"
            )
            failure.__cause__ = error
            raise HandlerError(failure) from error

    def _check_signature(self) -> None:
        if not callable(self._function):
            raise SettingsError(f"{self._name}: the handler must be a function, not {self._function!r}")
        try:
            inspect.signature(self._function).bind(None, None)
        except TypeError as error:
            name = getattr(self._function, "__name__", repr(self._function))
            raise SettingsError(
                f"{self._name}: handler {name} must take two arguments, the message and its context"
            ) from error


def _is_running(task: asyncio.Task[Any] | None) -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no loop runs here
        return False


def _in_thread(function: Callable[[], Any]) -> tuple[asyncio.Future[Any], asyncio.Future[None]]:
    """Run a function in a daemon thread of its own, in this context (trace, log fields).

    Not in a pool: the interpreter joins a pool's threads when it ends, so that one function that never returns
    would keep the process for ever. How many run at once is bounded by the places of `turn.py`.

    Returns:
        Its result, and that it has returned, also when nobody waits for the result any more.
    """
    loop = asyncio.get_running_loop()
    variables = contextvars.copy_context()
    result: asyncio.Future[Any] = loop.create_future()
    returned: asyncio.Future[None] = loop.create_future()

    def finish(value: Any, error: BaseException | None) -> None:
        if not returned.done():
            returned.set_result(None)
        if result.done():
            return
        if error is None:
            result.set_result(value)
        elif isinstance(error, StopIteration) or not isinstance(error, Exception | SystemExit):
            # A future can't carry the first (PEP 479 makes the same of it), and the loop would take a
            # KeyboardInterrupt or a cancellation for its own.
            converted = RuntimeError(f"the handler raised {type(error).__name__}")
            converted.__cause__ = error
            result.set_exception(converted)
        else:
            result.set_exception(error)

    def run() -> None:
        value, error = None, None
        try:
            value = variables.run(function)
        except BaseException as raised:  # noqa: BLE001 - all of it belongs to the message, none to this thread
            error = raised
        try:
            loop.call_soon_threadsafe(finish, value, error)
        except RuntimeError:
            return  # the loop is closed: the message has been handed back

    threading.Thread(target=run, name="mesh-handler", daemon=True).start()
    return result, returned
