"""What a handler knows of the message it handles, and what it calls others with.

On the way of a message: made by `mesh.py` for each handler call. Calls made through it inherit the message's
deadline; its trace is inherited by any call made while the handler runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

from broker_mesh import turn
from broker_mesh.client import Body, Client, EventT, Handle, ReplyT, RequestT
from broker_mesh.errors import Aborted
from broker_mesh.message import Message, Receipt, now_ms
from broker_mesh.operation import Event, Operation

if TYPE_CHECKING:
    from broker_mesh.sync import SyncContext


class Context:
    """The message that a handler handles.

    Args:
        message: the message, decoded.
        client: what its calls are made with.
        make_sync: makes the blocking face, for plain functions.
    """

    def __init__(self, message: Message, client: Client, make_sync: Callable[[Context], SyncContext]) -> None:
        self._message = message
        self._client = client
        self._make_sync = make_sync
        self._turn = turn.current()

    @property
    def id(self) -> str:
        """The message's id; the same over retries and replays."""
        return self._message.envelope.id

    @property
    def operation(self) -> str:
        """The operation or event."""
        return self._message.operation

    @property
    def caller(self) -> str:
        """The service that sent the message; empty when a plain Kafka client did."""
        return self._message.envelope.source

    @property
    def attempt(self) -> int:
        """Which attempt this is; 1 is the first."""
        return self._message.envelope.attempt

    @property
    def idempotency_key(self) -> str | None:
        """The caller's key for work that it may ask for more than once; None where it gave none.

        The mesh runs one request of a key. Where the handler has effects elsewhere, it passes the key on: after a crash
        between such an effect and its settlement it runs again.
        """
        return self._message.envelope.idempotency_key

    @property
    def key(self) -> bytes | None:
        """The record's key."""
        return self._message.key

    @property
    def deadline(self) -> int | None:
        """When the work is no longer worth doing, epoch ms; None for no limit."""
        return self._message.envelope.deadline

    @property
    def headers(self) -> Mapping[str, bytes | None]:
        """All headers of the record; of a repeated name the last."""
        record = self._message.record
        return {} if record is None else dict(record.headers)

    def remaining(self) -> float | None:
        """Tell how long the work is still worth doing, seconds (not below 0); None for no limit."""
        deadline = self.deadline
        return None if deadline is None else max(0.0, (deadline - now_ms()) / 1000)

    @overload
    async def request(
        self,
        operation: Operation[RequestT, ReplyT],
        body: RequestT,
        *,
        timeout: float | None = ...,
        expires_in: float | None = ...,
        idempotency_key: str | None = ...,
    ) -> ReplyT: ...
    @overload
    async def request(
        self,
        operation: str,
        body: Mapping[str, Any],
        *,
        timeout: float | None = ...,
        expires_in: float | None = ...,
        idempotency_key: str | None = ...,
    ) -> dict[str, Any]: ...
    async def request(
        self,
        operation: Operation[Any, Any] | str,
        body: Body,
        *,
        timeout: float | None = None,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Call another operation and wait for its reply, as `Mesh.request`, within this message's deadline."""
        self._refuse_fenced()
        remaining = self.remaining()
        if remaining is not None:
            timeout = max(0.001, remaining if timeout is None else min(timeout, remaining))
        return await self._client.request(
            operation,
            body,
            timeout=timeout,
            expires_in=expires_in,
            idempotency_key=idempotency_key,
            inherited=self.deadline,
        )

    @overload
    async def call(
        self,
        operation: Operation[RequestT, ReplyT],
        body: RequestT,
        *,
        expires_in: float | None = ...,
        idempotency_key: str | None = ...,
    ) -> Handle[ReplyT]: ...
    @overload
    async def call(
        self,
        operation: str,
        body: Mapping[str, Any],
        *,
        expires_in: float | None = ...,
        idempotency_key: str | None = ...,
    ) -> Handle[dict[str, Any]]: ...
    async def call(
        self,
        operation: Operation[Any, Any] | str,
        body: Body,
        *,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
    ) -> Handle[Any]:
        """Send a request, as `Mesh.call`; it expires with this message."""
        self._refuse_fenced()
        return await self._client.call(
            operation, body, expires_in=expires_in, idempotency_key=idempotency_key, inherited=self.deadline
        )

    async def send(
        self,
        operation: Operation[RequestT, Any] | str,
        body: RequestT | Mapping[str, Any],
        *,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Send a one-way message, as `Mesh.send`; it expires with this message."""
        self._refuse_fenced()
        return await self._client.send(
            operation, body, expires_in=expires_in, idempotency_key=idempotency_key, inherited=self.deadline
        )

    async def publish(self, event: Event[EventT] | str, body: EventT | Mapping[str, Any]) -> Receipt:
        """Publish an event, as `Mesh.publish`; a fact does not expire with the work that found it."""
        self._refuse_fenced()
        return await self._client.send(event, body, expires_in=None)

    def sync(self) -> SyncContext:
        """Give the blocking face of this context, for handlers that are plain functions."""
        return self._make_sync(self)

    def _refuse_fenced(self) -> None:
        """Send nothing on behalf of a message that another member has taken over.

        Raises:
            Aborted: it has; the handler can only end.
        """
        if self._turn is not None and self._turn.fenced:
            raise Aborted(f"{self.operation} {self.id} has gone to another instance, which handles it again")


AsyncHandler = Callable[[Any, Context], Awaitable[Any]]
PlainHandler = Callable[[Any, Context], Any]
