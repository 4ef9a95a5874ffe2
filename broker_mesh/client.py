"""The caller's side: requests, one-way messages, events, and handles to what is pending.

On the way of a message: its first station. Gives it an id, an expiry and a reply address, and sends it through
the outbound pipeline. Returns only when Kafka has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel

from broker_mesh import turn
from broker_mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    MeshError,
    SchemaError,
)
from broker_mesh.headers import Envelope
from broker_mesh.layer import Step
from broker_mesh.layers.deadline import earliest
from broker_mesh.layers.validate import Decoder
from broker_mesh.message import Message, Receipt, new_id, now_ms
from broker_mesh.operation import Event, Operation
from broker_mesh.replies import HandleToken, PendingReply, Replies
from broker_mesh.status import StatusCode

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=BaseModel)
ReplyT = TypeVar("ReplyT", bound="BaseModel | None")
EventT = TypeVar("EventT", bound=BaseModel)

Body = BaseModel | Mapping[str, Any]
AnyTarget = Operation[Any, Any] | Event[Any] | str


class Contracts(Protocol):
    """Knows the schemas of what is called; `contracts/catalog.py`."""

    async def ready(self, target: AnyTarget) -> None:
        """Make a target's schemas known, or raise `NotFound` or `SchemaError`."""
        ...

    def reply_decoder(self, target: AnyTarget) -> Decoder | None:
        """Give what decodes replies; None for a one-way operation."""
        ...

    async def decode_reply(self, decoder: Decoder, data: bytes) -> Any:
        """Decode a reply, reading the registry where its schema is not known yet."""
        ...


class Handle(Generic[T]):
    """A request that is persisted, and whose reply can be waited for, now or in a later process.

    `str(handle)` is opaque; `Mesh.attach` takes it.
    """

    def __init__(
        self,
        token: HandleToken,
        pending: Callable[[], Awaitable[PendingReply]],
        decode: Callable[[Message], Awaitable[T]],
        timed_out: Callable[[str], None],
    ) -> None:
        self._token = token
        self._pending = pending
        self._decode = decode
        self._timed_out = timed_out

    @property
    def id(self) -> str:
        """The request's id: its `ce_id`."""
        return self._token.id

    @property
    def operation(self) -> str:
        """The operation that was called."""
        return self._token.operation

    def __str__(self) -> str:
        return self._token.encode()

    def __repr__(self) -> str:
        return f"<Handle of {self.operation} {self.id}>"

    async def reply(self, timeout: float | None = None, *, wait_for_replay: bool = False) -> T:
        """Wait for the reply: the newest, where a failed request was replayed.

        Args:
            timeout: how long to wait, seconds; None waits as long as it takes. The request is not affected.
            wait_for_replay: wait on where the answer is an error whose request is kept as a dead letter, until a
                replay of it is answered with anything else.

        Raises:
            DeadlineExceeded: no reply within `timeout`. The request is still pending: the error's `handle`
                can be waited for again.
            MeshError: what the callee answered, with its status, message, details and attempts; `dead_letter` says
                where the request is kept, if it is: once it is replayed, the handle gives the new answer.
        """
        _check_timeout(timeout)
        try:
            async with turn.waiting(), asyncio.timeout(timeout):
                pending = await self._pending()
                answer = await asyncio.shield(pending.final if wait_for_replay else pending.arrived)
        except TimeoutError as error:
            self._timed_out(self.operation)
            raise DeadlineExceeded(
                f"no reply from {self.operation} within {timeout:g} s; the request is still pending, "
                "wait for it again with its handle",
                handle=str(self),
            ) from error
        return await self._decode(answer)

    def __await__(self) -> Generator[Any, None, T]:
        return self.reply().__await__()


class Client:
    """What `Mesh` and `Context` call with; on one event loop.

    Args:
        service: the calling service.
        send: the outbound pipeline.
        replies: where replies arrive.
        contracts: knows the schemas.
        timed_out: told the operation of each wait that ends by its timeout.
    """

    def __init__(
        self,
        service: str,
        send: Step[Receipt],
        replies: Replies,
        contracts: Contracts,
        timed_out: Callable[[str], None],
    ) -> None:
        self._service = service
        self._send = send
        self._replies = replies
        self._contracts = contracts
        self._timed_out = timed_out

    async def request(
        self,
        operation: Operation[Any, Any] | str,
        body: Body,
        *,
        timeout: float | None,
        expires_in: float | None,
        idempotency_key: str | None,
        inherited: int | None = None,
    ) -> Any:
        """Call and wait for the reply, within one timeout in seconds; else as `call`.

        Raises:
            DeadlineExceeded: no reply within `timeout`, or Kafka has not acknowledged the request by then;
                the error's `handle` can be waited for again in both cases.
            MeshError: what `call` or `Handle.reply` raise.
        """
        _check_timeout(timeout)
        clock = asyncio.get_running_loop().time
        started = clock()
        handle: Handle[Any] | None = None
        try:
            async with asyncio.timeout(timeout):
                message, handle = await self._prepare(operation, body, expires_in, idempotency_key, inherited)
                await self._send(message)
        except TimeoutError as error:
            self._timed_out(_name(operation))
            if handle is None:
                raise DeadlineExceeded(
                    f"Kafka could not be reached within {timeout:g} s; the request to {_name(operation)} was not sent"
                ) from error
            raise DeadlineExceeded(
                f"Kafka did not acknowledge the request to {handle.operation} within {timeout:g} s; "
                "it may or may not be sent once Kafka can be reached; if it is, its handle can be waited for",
                handle=str(handle),
            ) from error
        # At least a millisecond: an answer that is here already is taken, however late it is.
        rest = None if timeout is None else max(0.001, timeout - (clock() - started))
        return await handle.reply(rest)

    async def call(
        self,
        operation: Operation[Any, Any] | str,
        body: Body,
        *,
        expires_in: float | None,
        idempotency_key: str | None,
        inherited: int | None = None,
    ) -> Handle[Any]:
        """Send a request; return once it is persisted.

        Args:
            operation: what to call, declared or by name.
            body: the request: a model, or a mapping for calls by name.
            expires_in: how long the work is worth doing, seconds.
            idempotency_key: the same for requests that ask for the same work; the callee runs one of them.
            inherited: deadline of the work on whose behalf this is asked, epoch ms.

        Raises:
            NotFound: there is no such operation.
            FailedPrecondition: the operation is one-way.
            SchemaError: the body does not fit the operation's schema.
            MeshError: what else keeps the request from being persisted.
        """
        message, handle = await self._prepare(operation, body, expires_in, idempotency_key, inherited)
        await self._send(message)
        return handle

    async def _prepare(
        self,
        operation: Operation[Any, Any] | str,
        body: Body,
        expires_in: float | None,
        idempotency_key: str | None,
        inherited: int | None,
    ) -> tuple[Message, Handle[Any]]:
        await self._contracts.ready(operation)
        if self._contracts.reply_decoder(operation) is None:
            raise FailedPrecondition(f"{_name(operation)} is one-way and has no reply: use send")
        address = await self._replies.address()
        envelope = self._envelope(operation, expires_in, inherited)._replace(
            reply_to=address, idempotency_key=_checked_key(idempotency_key)
        )
        token = HandleToken(envelope.id, _name(operation), address)
        # Before the request is sent: its reply may be faster than the acknowledgement of the request.
        pending = self._replies.expect(token)

        async def known() -> PendingReply:
            return pending

        return _message(operation, envelope, body), Handle(
            token, known, self._decoding(operation, token), self._timed_out
        )

    async def send(
        self,
        target: AnyTarget,
        body: Body,
        *,
        expires_in: float | None,
        inherited: int | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Send a one-way message, or publish an event; return once it is persisted.

        Raises:
            NotFound: there is no such operation or event.
            SchemaError: the body does not fit its schema.
            MeshError: what else keeps the message from being persisted.
        """
        await self._contracts.ready(target)
        envelope = self._envelope(target, expires_in, inherited)._replace(
            idempotency_key=_checked_key(idempotency_key)
        )
        return await self._send(_message(target, envelope, body))

    def attach(self, text: str, operation: Operation[Any, Any] | None) -> Handle[Any]:
        """Make a handle of its text; nothing is read before `reply` is awaited.

        Raises:
            InvalidArgument: the text is not a handle, or is of another operation.
        """
        token = HandleToken.decode(text)
        if operation is not None and operation.name != token.operation:
            raise InvalidArgument(f"the handle is of {token.operation}, not of {operation.name}")
        target: Operation[Any, Any] | str = operation or token.operation
        search: asyncio.Task[PendingReply] | None = None

        async def find() -> PendingReply:
            await self._contracts.ready(target)
            return await self._replies.attach(token)

        async def found() -> PendingReply:
            nonlocal search
            if search is None or (search.done() and (search.cancelled() or search.exception() is not None)):
                search = asyncio.create_task(find())
            return await asyncio.shield(search)

        return Handle(token, found, self._decoding(target, token), self._timed_out)

    def _envelope(self, target: AnyTarget, expires_in: float | None, inherited: int | None) -> Envelope:
        now = now_ms()
        return Envelope(
            id=new_id(),
            source=self._service,
            type=_name(target),
            time=now,
            deadline=earliest(now, expires_in, inherited),
        )

    def _decoding(
        self, operation: Operation[Any, Any] | str, token: HandleToken
    ) -> Callable[[Message], Awaitable[Any]]:
        async def decode(answer: Message) -> Any:
            return await self._decode(operation, token, answer)

        return decode

    async def _decode(self, operation: Operation[Any, Any] | str, token: HandleToken, answer: Message) -> Any:
        envelope = answer.envelope
        if answer.fault is not None:
            raise InternalError(
                f"the reply of {token.operation} can't be read: {answer.fault.message}", handle=token.encode()
            ) from answer.fault
        if envelope.status not in (None, StatusCode.OK):
            assert envelope.status is not None
            raise MeshError.of(
                envelope.status,
                envelope.status_message or "no message",
                details=envelope.status_details,
                attempts=envelope.attempt,
                handle=token.encode(),
                dead_letter=None if envelope.dead_letter is None else str(envelope.dead_letter),
            )
        decoder = self._contracts.reply_decoder(operation)
        assert decoder is not None  # asked when the request was sent
        if answer.value is None:
            raise InternalError(f"the reply of {token.operation} is empty", handle=token.encode())
        try:
            return await self._contracts.decode_reply(decoder, answer.value)
        except SchemaError as error:
            raise SchemaError(
                f"the reply of {token.operation} does not fit: {error.message}", handle=token.encode()
            ) from error


def _message(target: AnyTarget, envelope: Envelope, body: Body) -> Message:
    name = _name(target)
    return Message(topic=name, operation=name, envelope=envelope, body=body, target=target)


def _name(target: AnyTarget) -> str:
    return target if isinstance(target, str) else target.name


def _checked_key(key: str | None) -> str | None:
    if key is not None and not (
        key.isascii() and key.isprintable() and " " not in key and 1 <= len(key) <= 128
    ):
        raise InvalidArgument("idempotency_key must be 1 to 128 printable ASCII characters without spaces")
    return key


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not timeout > 0:
        raise InvalidArgument(
            f"timeout is {timeout}: give seconds above 0, or None to wait as long as it takes"
        )
