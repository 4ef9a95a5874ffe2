"""One mesh, connected for the wrapped clients of this process.

On the way of a message: what hands the layers of wrapped clients what they need, as `runtime.py` does for native
ones; the inbound half is `reception.py`. The connection has an event loop of its own, on a thread of its own, so that
programs need none, and all wrapped clients of a mesh share it.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - asyncio's: its hook is run after ours only if it is there before
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

from broker_mesh import naming, outbound
from broker_mesh.bridge import BridgedClient
from broker_mesh.contracts.catalog import is_unknown_schema
from broker_mesh.contracts.replying import Replying
from broker_mesh.contracts.topic_contracts import TopicContract, TopicContracts
from broker_mesh.errors import FailedPrecondition, MeshError, PermissionDenied, SchemaError, SettingsError
from broker_mesh.kafka import topics
from broker_mesh.layer import stack
from broker_mesh.layers import authorize, deadline, measure, trace, validate
from broker_mesh.mesh import Mesh
from broker_mesh.message import Message, Receipt, now_ms
from broker_mesh.operation import Event, Operation
from broker_mesh.outgoing import Outbound
from broker_mesh.runtime import Runtime, outlast
from broker_mesh.stepping import Background, elsewhere, hand_over
from broker_mesh.sync import cancel_others, run_blocking

logger = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

Declaration = Operation[Any, Any] | Event[Any]

_REFRESH_SECONDS = 15.0
_FINISH_SECONDS = 10.0

_FORKED = (
    "this process was forked after its mesh was connected, and threads don't come along: make clients in the child, or "
    "start it with 'spawn'"
)

_shared: dict[Mesh, Connection] = {}  # those that are open
_opening: weakref.WeakKeyDictionary[Mesh, threading.Lock] = weakref.WeakKeyDictionary()
_sharing = threading.Lock()


def _lock_of(mesh: Mesh) -> threading.Lock:
    """Give the lock under which a mesh's connection is opened, counted and closed; that may take seconds."""
    with _sharing:
        return _opening.setdefault(mesh, threading.Lock())


def connect(mesh: Mesh, client: object) -> Connection:
    """Give the connection of a mesh to one wrapped client, making it where this is the first.

    It ends with the last of its clients: by `Connection.release`, when they are collected, or with the interpreter.

    Args:
        mesh: one that is not used with `async with` elsewhere, or is: this connection is one of its own.
        client: the wrapped client; only referred to weakly.

    Raises:
        Unavailable: Kafka can't be reached, or the access rules can't be read.
        SettingsError: a setting is not usable.
    """
    if not isinstance(mesh, Mesh):
        raise SettingsError(f"mesh is {mesh!r}: give a Mesh(…), as in Producer(conf, mesh=Mesh('orders'))")
    with _lock_of(mesh):
        connection = _shared.get(mesh)
        if connection is None:
            connection = _shared[mesh] = Connection(mesh)
        connection._serve(client)
    return connection


def _close_all() -> None:
    for connection in list(_shared.values()):
        try:
            connection.close()
        except Exception:  # what closes after this one, executors among it, must not be left open
            logger.exception("%r can't be closed", connection)


def _forked() -> None:
    """Part with the parent's connections: their threads are not here, and their locks may have been held."""
    global _sharing
    _sharing = threading.Lock()
    _opening.clear()
    for connection in _shared.values():
        connection.is_closed = True
        connection._measuring = threading.RLock()
        connection.background.forsake(_FORKED)
    _shared.clear()


# Not `atexit`: that comes after asyncio's executors are shut down, which closing needs. They use this hook themselves.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Connection:
    """What the wrapped clients of one mesh share; made by `connect`.

    Attributes:
        mesh: whose connection it is.
        loop: the mesh's event loop, on a thread of its own.
        background: the same, as pipelines that are driven by hand use it.
        runtime: connected.
        contracts: what each topic carries.
        replying: how replies are written.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.service = mesh.service
        self.version = mesh.version
        self.is_closed = False
        self._clients: dict[object, weakref.finalize[Any, Any]] = {}
        self._measuring = threading.RLock()  # re-entrant: what garbage collection ends is measured too
        self._topics: set[str] = set()
        self._sendable: set[str] = set()  # fewer: events of others are received, and not sent
        self.loop = asyncio.new_event_loop()
        self.background = Background(self.loop)
        self._thread = threading.Thread(target=self.loop.run_forever, name="mesh-clients", daemon=True)
        self._thread.start()
        try:
            self.runtime: Runtime = run_blocking(self.loop, mesh.connect())
        except BaseException:
            self._stop_loop()
            raise
        self._declared: dict[str, TopicContract] = {}
        self._declarations: list[Declaration] = []
        self.contracts = TopicContracts(
            self.runtime.registry,
            self.runtime.catalog.read_registry,
            self.runtime.not_found,
            lambda: self.runtime.policy.adopted,
        )
        self.replying = Replying(
            self.runtime.catalog,
            lambda name: next((each for each in self._declarations if each.name == name), name),
        )
        self.client = BridgedClient(self.runtime.client, self.loop)
        self.validation_log = validate.ValidationLog()
        self._refreshing = self.run(self._refresh())

    def __repr__(self) -> str:
        return f"<Connection of {self.mesh!r}{' closed' if self.is_closed else ''}>"

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin something on the mesh's event loop.

        Raises:
            FailedPrecondition: the connection is closed.
        """
        self._refuse_when_closed(coroutine)
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Do something on the mesh's event loop, in the context of this thread, and wait for it.

        Raises:
            FailedPrecondition: the connection is closed.
        """
        self._refuse_when_closed(coroutine)
        return run_blocking(self.loop, coroutine)

    def _refuse_when_closed(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        if self.is_closed:
            coroutine.close()
            raise FailedPrecondition(f"{self.mesh!r}: {self.background.closed}")

    # ── lifetime ──────────────────────────────────────────────────────────────────────────────────────────

    def _serve(self, client: object) -> None:
        # Not its id(), which another client may get before a thread comes to note this one's end.
        token = object()
        finalizer = weakref.finalize(client, self._collected, token)
        finalizer.atexit = False  # by then the loop's helper threads are gone: `_close_all` comes before
        self._clients[token] = finalizer

    def release(self, client: object) -> None:
        """Note that a client is closed; with the last of them the mesh is disconnected, which may take seconds."""
        for token, finalizer in list(self._clients.items()):
            alive = finalizer.peek()
            if alive is not None and alive[0] is client:
                finalizer.detach()
                self._let_go(token)

    def _collected(self, token: object) -> None:
        # Garbage is collected on any thread, in the midst of anything: nothing here may wait, or take a lock.
        if not self.is_closed:
            self.loop.call_soon_threadsafe(self._let_go_elsewhere, token)

    def _let_go_elsewhere(self, token: object) -> None:
        try:
            threading.Thread(target=self._let_go, args=(token,), name="mesh-disconnect").start()
        except RuntimeError:  # the interpreter is ending, and closes everything
            logger.debug("the client's end is that of the interpreter")

    def _let_go(self, token: object) -> None:
        with _lock_of(self.mesh):
            if self._clients.pop(token, None) is not None and not self._clients:
                self._close()

    def close(self) -> None:
        """Disconnect: what was settled is made durable, spans and metrics are flushed; takes 20 seconds at most."""
        with _lock_of(self.mesh):
            self._close()

    def _close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.background.close()
        for finalizer in self._clients.values():
            finalizer.detach()
        self._clients.clear()
        _shared.pop(self.mesh, None)
        try:
            self._refreshing.cancel()
            run_blocking(self.loop, self._disconnect())
        finally:
            self._stop_loop()

    async def _disconnect(self) -> None:
        await self.background.finish(_FINISH_SECONDS)
        await self.runtime.close()

    def _stop_loop(self) -> None:
        run_blocking(self.loop, cancel_others())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    # ── contracts ─────────────────────────────────────────────────────────────────────────────────────────

    def declare(self, declarations: Iterable[Declaration]) -> None:
        """Have values of operations and events be models; those of this service are registered, with their topics.

        Raises:
            SettingsError: an operation is another service's.
            SchemaError: a model does not fit its schema.
        """
        self.wait(self._declare(list(declarations)))

    async def _declare(self, declarations: list[Declaration]) -> None:
        runtime = self.runtime
        own = [each for each in declarations if naming.owner(each.name) == self.service]
        await runtime.catalog.own(own)
        for each in own:
            if isinstance(each, Operation):
                await runtime.admin.create(topics.operation_topics(each.name, runtime.settings, runtime.kept))
            else:
                await runtime.admin.create([topics.event_topic(each.name, runtime.settings, runtime.kept)])
        for each in declarations:
            if each not in own:
                await outlast(lambda each=each: runtime.catalog.ready(each))  # type: ignore[misc]
            await self.contracts.ready(each.name)
            codec = runtime.catalog.codec(each)
            self._declarations.append(each)
            self._topics.add(each.name)
            self._declared[each.name] = self.contracts.of(each.name)._replace(values=codec)

    def contract_of(self, topic: str) -> TopicContract:
        """Give the contract of a topic that is ready."""
        return self._declared.get(topic) or self.contracts.of(topic)

    def is_ready(self, topic: str) -> bool:
        """Tell whether a topic's contract is known; what has been is kept up to date in the background."""
        return topic in self._topics

    async def ready(self, topic: str) -> None:
        """Learn a topic's contract; on the mesh's loop.

        Raises:
            NotFound: it has a name of the mesh's, and there is no such operation or event.
            MeshError: the registry can't be read.
        """
        if topic not in self._topics:
            await self.contracts.ready(topic)
            self._topics.add(topic)

    async def _ready_to_send(self, topic: str) -> None:
        if naming.is_target(topic) and naming.is_event(topic):
            await self._ready_event(topic)
        await self.ready(topic)
        self._sendable.add(topic)

    async def _ready_event(self, topic: str) -> None:
        """See that an event is this service's own, and make it where its schema stands in the folder."""
        owner = naming.owner(topic)
        if owner != self.service:
            raise PermissionDenied(f"event {topic!r} belongs to {owner!r}: only its owner publishes it")
        runtime = self.runtime
        if topic not in self._declared and await outlast(lambda: runtime.catalog.own_file(topic)):
            made = [topics.event_topic(topic, runtime.settings, runtime.kept)]
            await outlast(lambda: runtime.admin.create(made))

    async def encode_reply(self, operation: str, body: Any) -> bytes:
        """Encode the reply to a request of one of this service's operations, or check that bytes are one; on the loop.

        Raises:
            FailedPrecondition: the operation is one-way.
            SchemaError: the body does not fit the reply's schema.
            MeshError: the schema is not known yet, and can't be read now.
        """
        if not self.replying.is_ready(operation):
            await self.replying.ready(operation)
        return self.replying.encode(operation, body)

    def encode_reply_of(self, message: Message, body: Any) -> bytes:
        """Do the same from any other thread, without a hop where the schema is known."""
        if not self.replying.is_ready(message.operation):
            self.wait(self.replying.ready(message.operation))
        return self.replying.encode(message.operation, body)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            for topic in sorted(self._topics):
                try:
                    await self.contracts.ready(topic)
                    if self.replying.is_ready(topic):
                        await self.replying.ready(topic)
                except MeshError as error:
                    logger.info("topic %s: its contract can't be looked up now: %s", topic, error.message)

    async def read_registry(self) -> None:
        """Read the registry, from within a pipeline that is driven by hand."""
        await elsewhere(self.runtime.catalog.read_registry)

    def audited(self, message: Message, error: SchemaError) -> None:
        """Note a value that did not fit where values are only audited."""
        with self._measuring:
            self.runtime.metrics.audited(message)
        self.validation_log.note(message, error)

    def measured(self, tell: Callable[P, None]) -> Callable[P, None]:
        """Let a function that counts be called from any thread."""

        def told(*facts: P.args, **named: P.kwargs) -> None:
            with self._measuring:
                tell(*facts, **named)

        return told

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────

    def outbound(self, client_id: str = "") -> Outbound:
        """Make the sending side of one wrapped producer.

        Args:
            client_id: the producer's `client.id`.
        """
        runtime = self.runtime
        layers = outbound.client_layers(
            trace=trace.outbound(runtime.tracer, client_id=client_id),
            measure=measure.outbound(self.measured(runtime.metrics.sent), timer=time.perf_counter),
            deadline=deadline.layer(now_ms),
            authorize=authorize.outbound(
                lambda: runtime.policy.rules,
                runtime.audit,
                lambda message: self.contract_of(message.operation),
            ),
            validate=validate.values_outbound(
                lambda message: self.contract_of(message.topic),
                is_unknown_schema,
                self.read_registry,
                self.audited,
            ),
        )

        async def produce(message: Message) -> Receipt:
            receipt: Receipt = await hand_over(message)
            return receipt

        return Outbound(
            self.service,
            stack(layers, produce),
            self.background,
            contract_of=self.contract_of,
            is_ready=self._sendable.__contains__,
            make_ready=self._ready_to_send,
        )
