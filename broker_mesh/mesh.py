"""`Mesh`: what a program holds. Declarations before it is connected, calls and serving after.

On the way of a message: the composition root: settings are loaded here, `runtime.py` makes the rest of them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

from broker_mesh import naming
from broker_mesh.client import Body, Client, EventT, Handle, ReplyT, RequestT
from broker_mesh.context import Context
from broker_mesh.dev.discovery import require_bootstrap_servers
from broker_mesh.errors import FailedPrecondition, SettingsError
from broker_mesh.handlers import Handler
from broker_mesh.layers.retry import Retry
from broker_mesh.message import Message, Receipt
from broker_mesh.operation import Event, Operation
from broker_mesh.outcome import Outcome
from broker_mesh.running import run_until, stopping_on_signals
from broker_mesh.settings import Settings, load
from broker_mesh.sync import SyncContext, SyncMesh
from broker_mesh.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from broker_mesh.runtime import Runtime
    from broker_mesh.service import Service
    from broker_mesh.serving import Declared

logger = logging.getLogger(__name__)

Delivery: TypeAlias = Literal["at-most-once", "at-least-once", "exactly-once"]
Ordering: TypeAlias = Literal["key", "partition", "none"]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
RequestHandler: TypeAlias = (
    Callable[[RequestT, Context], Awaitable[ReplyT]] | Callable[[RequestT, Context], ReplyT]
)
EventHandler: TypeAlias = Callable[[EventT, Context], Awaitable[None]] | Callable[[EventT, Context], None]

_ORDERINGS = ("key", "partition", "none")


class Mesh:
    """A service's place in the mesh: as caller, as callee, or both.

    Making one connects to nothing. `async with mesh:` connects it to call others; `await mesh.run()` serves its
    operations and subscriptions until it is told to stop.

    Args:
        service: the service's name, lower-case words with hyphens.
        version: the service's version; its instances of one version share the work.
        bootstrap_servers: Kafka's addresses; by default those of the settings, then of a running `mesh dev`.
        schemas: folder of Avro schemas.
        kafka: librdkafka properties passed through (TLS, SASL).
        environ: environment variables; the process's own by default.
        directory: where mesh.toml is looked for; the working directory by default.
        **settings: any other setting of `broker_mesh.settings.Settings`.

    Attributes:
        metrics: what it has measured since it was made, for a program that serves Prometheus itself
            (`broker_mesh.telemetry.prometheus.MeshCollector`).

    Raises:
        SettingsError: a name or a setting is wrong.
    """

    def __init__(
        self,
        service: str,
        *,
        version: str = "v1",
        bootstrap_servers: str | None = None,
        schemas: str | Path | None = None,
        kafka: Mapping[str, str | int | float | bool] | None = None,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
        **settings: Any,
    ) -> None:
        self.service = naming.check_service(service)
        self.version = naming.check_version(version)
        self._environ = os.environ if environ is None else environ
        given = {"bootstrap_servers": bootstrap_servers, "schemas": schemas, "kafka": kafka, **settings}
        self.settings = load(given, environ=self._environ, directory=directory or Path.cwd())
        self._declared: dict[str, Declared] = {}
        self._runtime: Runtime | None = None
        self.metrics = Metrics(self.service)

    def __repr__(self) -> str:
        return f"Mesh({self.service!r})"

    # ── declaring ─────────────────────────────────────────────────────────────────────────────────────────

    def operation(
        self,
        operation: Operation[RequestT, ReplyT],
        *,
        delivery: Delivery = "at-least-once",
        ordering: Ordering = "key",
        retry: Retry | None = None,
    ) -> Callable[[RequestHandler[RequestT, ReplyT]], RequestHandler[RequestT, ReplyT]]:
        """Declare the handler of an operation of this service; a decorator.

        Args:
            operation: of this service.
            delivery: "at-least-once": a request is handled again when its handler's process dies before it
                is settled.
            ordering: "key": requests of one key one after the other; "partition": all of a partition;
                "none": in any order.
            retry: what follows a failed attempt; `Retry()` by default.

        Raises:
            SettingsError: the operation is another service's or has a handler, or an option can't be had.
        """
        if operation.service != self.service:
            raise SettingsError(
                f"operation {operation.name!r} belongs to service {operation.service!r}: "
                f"{self.service!r} can't handle it"
            )
        return self._declare(operation, operation.reply, delivery, ordering, retry)

    def subscribe(
        self,
        event: Event[EventT],
        *,
        delivery: Delivery = "at-least-once",
        ordering: Ordering = "key",
        retry: Retry | None = None,
    ) -> Callable[[EventHandler[EventT]], EventHandler[EventT]]:
        """Declare the handler of an event, of any service; a decorator. Options as for `operation`.

        Raises:
            SettingsError: the event has a handler in this mesh, or an option can't be had.
        """
        return self._declare(event, None, delivery, ordering, retry)

    def _declare(
        self,
        target: Operation[Any, Any] | Event[Any],
        reply: Any,
        delivery: Delivery,
        ordering: Ordering,
        retry: Retry | None,
    ) -> Callable[[FunctionT], FunctionT]:
        from broker_mesh.serving import Declared

        if target.name in self._declared:
            raise SettingsError(f"{target.name!r} has a handler already: declare one")
        if ordering not in _ORDERINGS:
            raise SettingsError(
                f"{target.name}: ordering {ordering!r} is unknown (there are {', '.join(_ORDERINGS)})"
            )
        if retry is not None and not isinstance(retry, Retry):
            raise SettingsError(f"{target.name}: retry is {retry!r}: give a Retry(…)")
        if delivery != "at-least-once":
            raise SettingsError(
                f"{target.name}: delivery {delivery!r} can't be promised yet: use 'at-least-once'"
            )

        def declare(function: FunctionT) -> FunctionT:
            handler = Handler(target.name, function, reply)
            self._declared[target.name] = Declared(
                target, functools.partial(self._handle, target, handler), ordering, retry or Retry()
            )
            return function

        return declare

    async def _handle(
        self, target: Operation[Any, Any] | Event[Any], handler: Handler, message: Message, client: Client
    ) -> Outcome:
        runtime = self._connected()
        encoder = None
        if isinstance(target, Operation) and message.expects_reply:
            encoder = runtime.catalog.reply_encoder(target)
        loop = asyncio.get_running_loop()
        context = Context(message, client, lambda context: SyncContext(loop, context))
        return await handler.run(message, context, encoder)

    # ── connecting ────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Mesh:
        if self._runtime is not None:
            raise FailedPrecondition(f"{self!r} is connected already: use it, or make another")
        self._runtime = await self.connect()
        return self

    async def connect(self) -> Runtime:
        """Make a connection of its own, for `broker_mesh.adapter`; programs use `async with mesh`.

        Raises:
            Unavailable: Kafka can't be reached, or the rules can't be read.
            SettingsError: a setting is not usable.
        """
        from broker_mesh.runtime import Runtime

        return await Runtime.open(
            self.service, self.version, self.reachable_settings(), self._environ, self.metrics
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await runtime.close()

    def sync(self) -> SyncMesh:
        """Give the blocking face: `with Mesh("dispatch").sync() as client:`."""
        return SyncMesh(self)

    def reachable_settings(self) -> Settings:
        """Give the settings with Kafka's addresses: where none are set, those of a running `mesh dev`.

        Raises:
            Unavailable: none are set, and no `mesh dev` runs.
        """
        if self.settings.bootstrap_servers is not None:
            return self.settings
        found = require_bootstrap_servers(
            self._environ, "set MESH_BOOTSTRAP_SERVERS, or write bootstrap_servers in mesh.toml"
        )
        logger.info("using the Kafka of 'mesh dev' at %s", found)
        return self.settings.model_copy(update={"bootstrap_servers": found})

    def _connected(self) -> Runtime:
        if self._runtime is None:
            raise FailedPrecondition(f"{self!r} is not connected: use it inside 'async with', or run it")
        return self._runtime

    # ── serving ───────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, *, on_ready: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT, or until this is cancelled; then stop gracefully.

        Stopping finishes what is being handled, within `grace_seconds`, and hands the rest back.

        Args:
            on_ready: called when this instance has joined its group, with or without partitions.

        Raises:
            SettingsError: nothing is declared, or a setting is wrong.
            MeshError: the service can't start, or can't go on.
        """
        async with stopping_on_signals() as stop, self.serving() as service:
            await run_until(stop, service, on_ready or _nothing)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Service]:
        """Serve while a block runs: for programs that have a main loop of their own.

        Yields:
            The running service: how many partitions it has, what is in flight; its `failure()` raises when
            it can't go on.

        Raises:
            SettingsError: nothing is declared, or a setting is wrong.
            MeshError: the service can't start.
        """
        from broker_mesh.serving import Serving

        if not self._declared:
            raise SettingsError(
                f"{self!r} has nothing to serve: declare handlers with @mesh.operation(…) or @mesh.subscribe(…)"
            )
        async with self:
            service = await Serving(self._connected(), list(self._declared.values())).start()
            logger.info("%s %s serves %s", self.service, self.version, ", ".join(self._declared))
            try:
                yield service
            finally:
                await service.stop()
                logger.info("%s %s has stopped", self.service, self.version)

    # ── calling ───────────────────────────────────────────────────────────────────────────────────────────

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
        """Call an operation and wait for its reply.

        Args:
            operation: declared, or its name; then body and reply are dicts and the registry has the schemas.
            body: the request.
            timeout: how long to wait, seconds; None waits as long as it takes.
            expires_in: how long the work is worth doing, seconds; None as long as the topic keeps it.
            idempotency_key: the same for requests that ask for the same work: one is run, and all get its result, as
                long as that is kept (`idempotency_hours`). 1 to 128 printable ASCII characters without spaces.

        Raises:
            DeadlineExceeded: no reply within `timeout`; the error's `handle` can be attached to.
            NotFound: there is no such operation.
            SchemaError: the body does not fit.
            InvalidArgument: `idempotency_key` is malformed, or was used for another body.
            MeshError: what the callee answered.
        """
        return await self._connected().client.request(
            operation, body, timeout=timeout, expires_in=expires_in, idempotency_key=idempotency_key
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
        """Send a request and return its handle once it is persisted. Arguments and errors as for `request`."""
        return await self._connected().client.call(
            operation, body, expires_in=expires_in, idempotency_key=idempotency_key
        )

    @overload
    def attach(self, handle: str, operation: Operation[Any, ReplyT]) -> Handle[ReplyT]: ...
    @overload
    def attach(self, handle: str, operation: None = ...) -> Handle[Any]: ...
    def attach(self, handle: str, operation: Operation[Any, Any] | None = None) -> Handle[Any]:
        """Make a handle of its text, in any process of the service that called.

        Args:
            handle: `str(handle)` of an earlier call.
            operation: its declaration, for a typed reply; without it the reply is a dict.

        Raises:
            InvalidArgument: the text is not a handle, or is of another operation.
        """
        return self._connected().client.attach(handle, operation)

    async def send(
        self,
        operation: Operation[RequestT, Any] | str,
        body: RequestT | Mapping[str, Any],
        *,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Send a one-way message; return where it is persisted. Arguments and errors as for `request`."""
        return await self._connected().client.send(
            operation, body, expires_in=expires_in, idempotency_key=idempotency_key
        )

    async def publish(self, event: Event[EventT] | str, body: EventT | Mapping[str, Any]) -> Receipt:
        """Publish an event of this service; return where it is persisted.

        Raises:
            PermissionDenied: the event is another service's.
            SchemaError: the body does not fit.
        """
        return await self._connected().client.send(event, body, expires_in=None)


def _nothing() -> None:
    """Tell nobody."""
