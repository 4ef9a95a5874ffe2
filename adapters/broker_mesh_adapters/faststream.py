"""FastStream behind the mesh: its confluent broker makes wrapped clients, and an exception is a failure of the message.

On the way of a message: around FastStream's processing of it, from before it is parsed until all that its handler
returned is published. One middleware is the whole change::

    broker = KafkaBroker(servers, middlewares=[MeshMiddleware(Mesh("enrichment"))])

FastStream itself acknowledges a message before its handler runs, unless it is told otherwise, and what the handler
raises is logged and the message is gone. Here it is held until it is processed: done, or a failure that the mesh tries
again, and keeps as a dead letter at last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Any

from faststream import AckPolicy, BaseMiddleware
from faststream.confluent.helpers import client
from faststream.exceptions import IgnoredException, NackMessage, RejectMessage

from broker_mesh import Mesh
from broker_mesh.adapter import State
from broker_mesh.errors import Aborted, FailedPrecondition
from broker_mesh_adapters.confluent_kafka import Consumer, Message, instrument

logger = logging.getLogger(__name__)


class MeshMiddleware:
    """Puts a FastStream application behind a mesh; one of its broker's `middlewares`, the first in most cases.

    All confluent brokers of this process make wrapped clients from then on. FastStream reads uncommitted records by
    default; here it reads committed ones.

    With `AckPolicy.MANUAL` a handler's own `ack()` and `nack()` mean what they always have, and nothing else settles a
    message. With all other policies the mesh does: `NackMessage` is a retry, `RejectMessage` a dead letter, any other
    exception a failure that is tried again or not by its status.

    Args:
        mesh: of all clients.
        options: of the wrapped clients: `ordering`, `retry`, …

    Attributes:
        instrumentation: to be undone where clients that are made later shall be plain ones again.

    Raises:
        SettingsError: there is no such option.
        FailedPrecondition: this process has FastStream behind another mesh already, or with other options.
    """

    def __init__(self, mesh: Mesh, **options: Any) -> None:
        self.instrumentation = instrument(client, mesh=mesh, classes=[_HoldingConsumer], **options)

    def __call__(self, msg: Any, /, *, context: Any) -> BaseMiddleware[Any, Any]:
        """Make the middleware of one message, as FastStream asks for it."""
        messages = msg if isinstance(msg, tuple) else (msg,)
        if not all(
            isinstance(each, Message) for each in messages
        ):  # one that is published, or a test broker's
            return BaseMiddleware(msg, context=context)
        subscriber = context.get("handler_")  # None where the program asks for a message by itself
        if subscriber is not None and subscriber.ack_policy is AckPolicy.MANUAL:
            return BaseMiddleware(msg, context=context)
        return _Settling(msg, context=context)


class _HoldingConsumer(Consumer):
    """Holds messages from the start where FastStream polls on before they are processed: where it commits by itself."""

    def __init__(self, conf: dict[str, Any], **options: Any) -> None:
        super().__init__({**conf, "isolation.level": "read_committed"}, **options)
        self._holds = bool(conf["enable.auto.commit"])

    def poll(self, timeout: float | None = None) -> Any:
        message = super().poll(timeout)
        if self._holds and isinstance(message, Message):
            message.hold()
        return message

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Any]:
        messages = super().consume(num_messages, timeout)
        for message in messages:
            if self._holds and isinstance(message, Message):
                message.hold()
        return messages


class _Settling(BaseMiddleware[Any, Any]):
    """Settles one message, or one batch, by how its processing ends."""

    __slots__ = ("_messages", "_work")

    async def on_receive(self) -> None:
        """Begin: the message is held, and its span is current in handlers; of a batch the span of the first."""
        self._messages: tuple[Message, ...] = self.msg if isinstance(self.msg, tuple) else (self.msg,)
        first, *others = self._messages
        work = ExitStack()
        try:
            work.enter_context(first.settling())
        except Aborted as gone:  # its partition has, and it comes again; the others with it
            for message in others:
                _settle(message, None, gone, None)
            raise
        for message in others:
            with suppress(Aborted):  # it comes again; that it is processed here as well does no harm
                message.hold()
            work.push(partial(_settle, message))
        self._work = work

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool:
        """End: what was raised is a failure of the message, and is dealt with: nothing else shall acknowledge it."""
        match exc_val:
            case NackMessage():
                self._end_each(lambda message: message.retry())
            case RejectMessage():
                self._end_each(lambda message: message.dead_letter("its handler rejected it"))
            case IgnoredException() | None:  # raised for FastStream's sake alone, to acknowledge or to stop
                self._work.close()
                return False
            case _:
                return bool(self._work.__exit__(exc_type, exc_val, exc_tb))
        self._work.close()
        return True

    def _end_each(self, settle: Callable[[Message], None]) -> None:
        for message in self._messages:
            try:
                settle(message)
            except (Aborted, FailedPrecondition) as refused:  # gone meanwhile, or settled by the handler
                logger.info("%s", refused.message)


def _settle(
    message: Message, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
) -> None:
    if message.delivery.state is not State.HELD:
        return
    try:
        if error is None:
            message.delivery.done()
        elif isinstance(error, Exception):
            message.delivery.fail(error)
    except (Aborted, FailedPrecondition) as refused:  # gone, or settled by another thread
        logger.info("%s", refused.message)
