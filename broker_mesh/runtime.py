"""Everything of one mesh that is connected: from settings to a client and, for services, to running handlers.

On the way of a message: it hands each layer what that layer needs. The order of the layers stands in
`outbound.py` and `inbound.py`; here they are made.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import cached_property
from typing import Any, TypeVar

from broker_mesh import naming, outbound
from broker_mesh.client import Client
from broker_mesh.contracts.catalog import Catalog, Target
from broker_mesh.contracts.files import load_schema_files
from broker_mesh.contracts.registry import Registry
from broker_mesh.control.files import read_folder
from broker_mesh.control.live import LivePolicy
from broker_mesh.errors import MeshError, NotFound, PermissionDenied, Unavailable
from broker_mesh.kafka import topics
from broker_mesh.kafka.admin import Admin
from broker_mesh.kafka.groups import Groups
from broker_mesh.kafka.producer import Producer
from broker_mesh.kafka.topics import Replication
from broker_mesh.layer import Layer, Step
from broker_mesh.layers import authorize, deadline, measure, route, trace, validate
from broker_mesh.message import Receipt, now_ms
from broker_mesh.operation import Event
from broker_mesh.replies import Replies
from broker_mesh.settings import Settings, nearest
from broker_mesh.telemetry.metrics import Metrics
from broker_mesh.telemetry.otlp_metrics import export_metrics
from broker_mesh.telemetry.tracing import tracer_for

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 10.0
_OUTAGE_PAUSE_SECONDS = 0.2

T = TypeVar("T")


async def outlast(step: Callable[[], Awaitable[T]]) -> T:
    """Try a step until Kafka can be reached: to a connected mesh an outage is latency, as long as the caller waits."""
    while True:
        try:
            return await step()
        except Unavailable as error:
            logger.info("waiting for Kafka: %s", error.message)
            await asyncio.sleep(_OUTAGE_PAUSE_SECONDS)


class Runtime:
    """The connected half of a `Mesh`; made by `open`.

    Attributes:
        client: for calls.
    """

    def __init__(
        self,
        service: str,
        version: str,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.service = service
        self.version = version
        self.settings = settings
        self.group = naming.group(service)
        self._instance = f"{socket.gethostname()}-{os.getpid()}-{random.randrange(16**4):04x}"  # noqa: S311 - a name
        self.client_id = f"{service}-{self._instance}"
        self.metrics = metrics
        self._known_topics: set[str] = set()
        self._making_event = asyncio.Lock()
        self._describing = asyncio.Lock()
        self.exit = AsyncExitStack()
        self.audit = authorize.AuditLog()

    @classmethod
    async def open(
        cls,
        service: str,
        version: str,
        settings: Settings,
        environ: Mapping[str, str],
        metrics: Metrics,
    ) -> Runtime:
        """Connect.

        Args:
            service, version: of this process.
            settings: with `bootstrap_servers` set.
            environ: for the OTEL_* variables.
            metrics: told of all that happens.

        Raises:
            Unavailable: Kafka can't be reached.
            SettingsError: a setting is not usable.
            SchemaError: a file of the schemas folder is wrong.
        """
        runtime = cls(service, version, settings, metrics)
        try:
            runtime._observe(environ)
            await runtime._connect()
        except BaseException:
            await runtime.close()
            raise
        return runtime

    @cached_property
    def groups(self) -> Groups:
        """What asks Kafka about consumer groups and partitions; a client of its own, where there is anything to ask."""
        return Groups(self.settings, self.client_id)

    def _observe(self, environ: Mapping[str, str]) -> None:
        """Begin to export spans and metrics; what has begun ends with the mesh, whatever else fails."""
        flushes: list[Callable[[], None]] = []

        async def flush() -> None:
            await asyncio.gather(*(asyncio.to_thread(each) for each in flushes))

        self.exit.push_async_callback(flush)
        self.tracer, flush_spans = tracer_for(self.service, self.version, self._instance, environ)
        flushes.append(flush_spans)
        flush_metrics = export_metrics(
            self.metrics,
            service=self.service,
            version=self.version,
            instance=self._instance,
            environ=environ,
        )
        flushes.append(flush_metrics)

    async def _connect(self) -> None:
        settings = self.settings
        files = load_schema_files(settings.schemas, settings.topics) if settings.schemas.is_dir() else {}
        rules = read_folder(settings.policy)
        self.admin = Admin(settings, self.client_id)
        brokers = await self.admin.count_brokers()
        self.kept: Replication = topics.replication(settings, brokers)
        self.policy = LivePolicy(settings, client_id=self.client_id, files=rules)
        self.exit.push_async_callback(self.policy.close)
        await self.policy.open()
        self.registry = Registry(settings, client_id=self.client_id)
        self.catalog = Catalog(self.registry, files, self.not_found)
        self.producer = Producer(settings, self.client_id)
        self.exit.push_async_callback(self._close_producer)
        self._replies = Replies(
            settings,
            service=self.service,
            client_id=self.client_id,
            ensure_topic=self._ensure_reply_topic,
            retention_of=self._retention_of,
            replied=self.metrics.replied,
        )
        self.exit.push_async_callback(self._replies.close)
        self.client = Client(self.service, self._outbound(), self._replies, self, self.metrics.timed_out)

    async def close(self) -> None:
        """Let what was sent be acknowledged, and disconnect; a cancellation midway still disconnects the rest."""
        await self.exit.aclose()

    async def _close_producer(self) -> None:
        try:
            await self.producer.close(_FLUSH_SECONDS)
        except Unavailable as error:
            logger.warning("%s", error.message)

    # ── what the client asks (client.Contracts) ───────────────────────────────────────────────────────────

    async def ready(self, target: Target) -> None:
        """Make a target's schemas known; an event of this service is made where it is missing.

        Raises:
            PermissionDenied: the event is another service's.
            NotFound: there is no such operation or event.
        """
        name = target if isinstance(target, str) else target.name
        is_event = isinstance(target, Event) or naming.is_event(name)
        if is_event and naming.owner(name) != self.service:
            raise PermissionDenied(
                f"event {name!r} belongs to {naming.owner(name)!r}: only its owner publishes it"
            )
        if isinstance(target, Event):
            await outlast(lambda: self._ready_event(target))
        else:
            await outlast(lambda: self.catalog.ready(target))

    def reply_decoder(self, target: Target) -> validate.Decoder | None:
        """Give what decodes a target's replies."""
        return self.catalog.reply_decoder(target)

    async def decode_reply(self, decoder: validate.Decoder, data: bytes) -> Any:
        """Decode a reply."""
        return await self.catalog.decode_reply(decoder, data)

    async def _ready_event(self, event: Event[Any]) -> None:
        async with self._making_event:
            if event.name not in self._known_topics:
                await self.catalog.own([event])
                await self.admin.create([topics.event_topic(event.name, self.settings, self.kept)])
                self._known_topics.add(event.name)

    # ── layers ────────────────────────────────────────────────────────────────────────────────────────────

    def _outbound(self) -> Step[Receipt]:
        layers = outbound.layers(
            trace=trace.outbound(self.tracer, client_id=self.client_id),
            measure=self.measure_sends(),
            deadline=deadline.layer(now_ms),
            authorize=authorize.outbound(lambda: self.policy.rules, self.audit),
            validate=validate.outbound(lambda message: self.catalog.codec(message.target)),
            route=route.layer(lambda message: self.catalog.key_field(message.target), self._ensure_topic),
        )
        return outbound.pipeline(layers, self.producer)

    def measure_sends(self) -> Layer[Receipt]:
        """Make the layer that measures what is sent, requests and replies."""
        return measure.outbound(self.metrics.sent, timer=time.perf_counter)

    # ── topics ────────────────────────────────────────────────────────────────────────────────────────────

    async def _ensure_topic(self, name: str) -> None:
        if name not in self._known_topics and not await outlast(lambda: self._exists(name)):
            raise await self.not_found(name)

    async def ensure_reply_address(self, topic: str) -> None:
        """Return when a topic that a request named for its reply exists.

        Raises:
            NotFound: it does not.
        """
        if topic not in self._known_topics and not await outlast(lambda: self._exists(topic)):
            raise NotFound(f"topic {topic!r} does not exist")

    async def _exists(self, topic: str) -> bool:
        async with self._describing:  # one question for all who wait for the same answer
            if topic not in self._known_topics and (found := await self.admin.describe([topic])):
                await self.admin.wait_until_served(found.values())
                self._known_topics.add(topic)
        return topic in self._known_topics

    async def _ensure_reply_topic(self) -> int:
        return await outlast(self._make_reply_topic)

    async def _make_reply_topic(self) -> int:
        spec = topics.reply_topic(self.service, self.settings, self.kept)
        await self.admin.create([spec])
        return (await self.admin.describe([spec.name]))[spec.name].partitions

    async def _retention_of(self, topic: str) -> int | None:
        kept = int((await self.admin.topic_config(topic)).get("retention.ms", "-1"))
        return None if kept < 0 else kept

    async def not_found(self, name: str) -> MeshError:
        """Make the error for an operation or event that does not exist, with the nearest name that does.

        Raises:
            SettingsError: no operation or event can have that name.
        """
        what, parse = (
            ("event", naming.parse_event) if naming.is_event(name) else ("operation", naming.parse_operation)
        )
        parse(name)
        known = [topic for topic in await self.admin.topic_names() if naming.is_target(topic)]
        if name in known:
            return NotFound(
                f"{what} {name!r} has no schema in the registry: start its service once, or register it"
            )
        hint = nearest(name, known) or "; it exists once its service has been started"
        return NotFound(f"{what} {name!r} does not exist{hint}")
