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
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, TypeVar

from broker_mesh import inbound, naming, outbound
from broker_mesh.client import Client
from broker_mesh.contracts.catalog import Catalog, Target, is_unknown_schema
from broker_mesh.contracts.files import load_schema_files
from broker_mesh.contracts.registry import Registry
from broker_mesh.errors import MeshError, NotFound, PermissionDenied, Unavailable
from broker_mesh.kafka import topics
from broker_mesh.kafka.admin import Admin
from broker_mesh.kafka.consumer import GroupConsumer, Partition
from broker_mesh.kafka.groups import Groups
from broker_mesh.kafka.ledger import LEDGER_TOPIC, GroupLedger, Held, refuse_lost_offsets
from broker_mesh.kafka.producer import Producer
from broker_mesh.kafka.topics import Replication
from broker_mesh.layer import Step, stack
from broker_mesh.layers import deadline, headers, identity, route, settle, trace, validate
from broker_mesh.layers.retry import Retry
from broker_mesh.message import Message, Receipt, now_ms
from broker_mesh.operation import Event, Operation
from broker_mesh.outcome import Outcome
from broker_mesh.replies import Replies
from broker_mesh.service import Endpoint, Ordering, Service
from broker_mesh.settings import Settings, nearest
from broker_mesh.settle import Settler
from broker_mesh.telemetry.logs import message_context
from broker_mesh.telemetry.tracing import tracer_for

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 10.0
_OUTAGE_PAUSE_SECONDS = 0.2
_ASSIGNMENT_SECONDS = 2.0
_ASK_GROUP_SECONDS = 0.5
_ENTERING_SECONDS = 2.0

T = TypeVar("T")


async def outlast(step: Callable[[], Awaitable[T]]) -> T:
    """Try a step until Kafka can be reached: to a connected mesh an outage is latency, as long as the caller waits."""
    while True:
        try:
            return await step()
        except Unavailable as error:
            logger.info("waiting for Kafka: %s", error.message)
            await asyncio.sleep(_OUTAGE_PAUSE_SECONDS)


class Declared(NamedTuple):
    """A handler as it was declared.

    Args:
        target: the operation or event.
        invoke: runs the handler with a decoded message.
        ordering: which records wait for each other.
        retry: what follows a failed attempt.
    """

    target: Operation[Any, Any] | Event[Any]
    invoke: Callable[[Message, Client], Any]
    ordering: Ordering
    retry: Retry


class Runtime:
    """The connected half of a `Mesh`; made by `open`.

    Attributes:
        client: for calls.
    """

    def __init__(self, service: str, version: str, settings: Settings, environ: Mapping[str, str]) -> None:
        self.service = service
        self.version = version
        self.settings = settings
        self.group = naming.group(service)
        instance = f"{socket.gethostname()}-{os.getpid()}-{random.randrange(16**4):04x}"  # noqa: S311 - a name
        self.client_id = f"{service}-{instance}"
        self._tracer, self._flush_spans = tracer_for(service, version, instance, environ)
        self._known_topics: set[str] = set()
        self._making_event = asyncio.Lock()
        self._describing = asyncio.Lock()
        self._exit = AsyncExitStack()
        self._entering: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls, service: str, version: str, settings: Settings, environ: Mapping[str, str]
    ) -> Runtime:
        """Connect.

        Args:
            service, version: of this process.
            settings: with `bootstrap_servers` set.
            environ: for the OTEL_* variables.

        Raises:
            Unavailable: Kafka can't be reached.
            SettingsError: a setting is not usable.
            SchemaError: a file of the schemas folder is wrong.
        """
        runtime = cls(service, version, settings, environ)
        try:
            await runtime._connect()
        except BaseException:
            await runtime.close()
            raise
        return runtime

    async def _connect(self) -> None:
        settings = self.settings
        files = load_schema_files(settings.schemas) if settings.schemas.is_dir() else {}
        self.admin = Admin(settings, self.client_id)
        brokers = await self.admin.count_brokers()
        self._kept: Replication = topics.replication(settings, brokers)
        self.registry = Registry(settings, client_id=self.client_id)
        self.catalog = Catalog(self.registry, files, self.not_found)
        self.producer = Producer(settings, self.client_id)
        self._exit.push_async_callback(self._close_producer)
        self._replies = Replies(
            settings,
            service=self.service,
            client_id=self.client_id,
            ensure_topic=self._ensure_reply_topic,
            retention_of=self._retention_of,
        )
        self._exit.push_async_callback(self._replies.close)
        self.client = Client(self.service, self._outbound(), self._replies, self)

    async def close(self) -> None:
        """Let what was sent be acknowledged, and disconnect; a cancellation midway still disconnects the rest."""
        await self._exit.aclose()
        await asyncio.to_thread(self._flush_spans)

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
                await self.admin.create([topics.event_topic(event.name, self.settings, self._kept)])
                self._known_topics.add(event.name)

    # ── serving ───────────────────────────────────────────────────────────────────────────────────────────

    async def serve(self, declared: Sequence[Declared]) -> Service:
        """Make what the handlers need, join the group, and begin to handle.

        Raises:
            SchemaError: a declaration does not fit its schema, or a schema breaks compatibility.
            MeshError: Kafka refuses something.
        """
        operations = [item.target for item in declared if isinstance(item.target, Operation)]
        # Schemas first: an operation exists for callers once its topic does, and must be callable then.
        await self.catalog.own(operations)
        await self.admin.create(await self._service_topics(declared))
        service_topics = [item.target.name for item in declared]
        endpoints = [self._endpoint(item) for item in declared]

        def pipeline(is_current: Callable[[Message], bool]) -> Step[Outcome]:
            return self._inbound(endpoints, declared, is_current)

        service = Service(self.settings, endpoints, pipeline, await self._keep_ledger(service_topics))
        consumer = GroupConsumer(
            self.settings,
            client_id=self.client_id,
            group=self.group,
            topics=service.topics,
            listener=service,
        )
        service.start(consumer)
        self._confirming = asyncio.create_task(self._confirm_joining(service))
        self._exit.callback(self._confirming.cancel)
        self._exit.push_async_callback(self._finish_entering)
        return service

    async def _confirm_joining(self, service: Service) -> None:
        """Tell the service that it has joined where the consumer hears nothing of it.

        An instance without partitions (there are fewer than instances, or an event has not been published yet) gets
        no assignment: then the group is asked.
        """
        try:
            async with asyncio.timeout(_ASSIGNMENT_SECONDS):
                await service.joined()
        except TimeoutError:
            groups = Groups(self.settings, self.client_id)
            while not service.has_joined:
                try:
                    members = (await groups.describe([self.group]))[self.group].members
                except MeshError as error:
                    logger.debug("the group can't be asked now: %s", error)
                    members = ()
                if any(member.client_id == self.client_id for member in members):
                    service.assigned({})
                await asyncio.sleep(_ASK_GROUP_SECONDS)

    async def _keep_ledger(self, names: Sequence[str]) -> Callable[[Collection[Partition]], None]:
        """Refuse to start a group whose offsets are lost; give what enters first commits into the ledger.

        Raises:
            DataLoss: they are.
        """
        ledger = GroupLedger(self.settings, self.group, client_id=self.client_id)
        entries = await asyncio.to_thread(ledger.entries)
        suspects = sorted({topic for topic, _ in entries} & set(names))
        if suspects:
            groups = Groups(self.settings, self.client_id)
            described = await self.admin.describe(suspects)
            partitions = [
                (name, number) for name, info in described.items() for number in range(info.partitions)
            ]
            held = {
                key: Held(described[key[0]].id, bounds.first, bounds.end)
                for key, bounds in (await groups.bounds(partitions)).items()
            }
            refuse_lost_offsets(self.group, entries, await groups.committed(self.group), held)

        async def enter(partitions: Collection[Partition]) -> None:
            described = await self.admin.describe(sorted({topic for topic, _ in partitions}))
            for partition in partitions:
                topic_id = described[partition[0]].id
                if entries.get(partition) != topic_id:
                    await self.producer.send(
                        LEDGER_TOPIC,
                        key=ledger.key(partition),
                        value=topic_id.encode(),
                        headers=[],
                        partition=0,
                    )
                    entries[partition] = topic_id

        def on_committed(partitions: Collection[Partition]) -> None:
            entering = asyncio.create_task(enter(partitions))
            self._entering.add(entering)
            entering.add_done_callback(self._entered)

        return on_committed

    async def _finish_entering(self) -> None:
        """Let what the last commits have to enter reach the producer before that is closed."""
        await asyncio.sleep(0)  # the consumer's last word is on its way to the loop
        if self._entering:
            await asyncio.wait(self._entering, timeout=_ENTERING_SECONDS)

    def _entered(self, entering: asyncio.Task[None]) -> None:
        self._entering.discard(entering)
        if not entering.cancelled() and (error := entering.exception()) is not None:
            logger.warning(
                "a first commit could not be entered into %s: %s; it is at the next start",
                LEDGER_TOPIC,
                error,
            )

    async def _service_topics(self, declared: Iterable[Declared]) -> list[topics.TopicSpec]:
        specs: list[topics.TopicSpec] = []
        for item in declared:
            if isinstance(item.target, Operation):
                specs += topics.operation_topics(item.target.name, self.settings, self._kept)
            else:
                event = (await self.admin.describe([item.target.name])).get(item.target.name)
                partitions = event.partitions if event else self.settings.partitions
                specs += topics.subscription_topics(self._stem(item), self.settings, self._kept, partitions)
        return specs

    def _endpoint(self, item: Declared) -> Endpoint:
        target = item.target
        return Endpoint(
            name=target.name,
            stem=self._stem(item),
            decoder=self.catalog.subscribe(target)
            if isinstance(target, Event)
            else self.catalog.codec(target),
            ordering=item.ordering,
            retry=item.retry,
        )

    def _stem(self, item: Declared) -> str:
        if isinstance(item.target, Operation):
            return item.target.name
        return naming.subscription(self.service, self.version, item.target.name)

    # ── layers ────────────────────────────────────────────────────────────────────────────────────────────

    def _outbound(self) -> Step[Receipt]:
        layers = outbound.layers(
            trace=trace.outbound(self._tracer, client_id=self.client_id),
            deadline=deadline.layer(now_ms),
            validate=validate.outbound(lambda message: self.catalog.codec(message.target)),
            route=route.layer(lambda message: self.catalog.key_field(message.target), self._ensure_topic),
        )
        return outbound.pipeline(layers, self.producer)

    def _inbound(
        self,
        endpoints: Sequence[Endpoint],
        declared: Sequence[Declared],
        is_current: Callable[[Message], bool],
    ) -> Step[Outcome]:
        by_name = {endpoint.name: endpoint for endpoint in endpoints}
        handlers = {item.target.name: item for item in declared}
        settler = Settler(
            self.service,
            send_reply=outbound.pipeline(
                outbound.reply_layers(
                    trace=trace.outbound(self._tracer, client_id=self.client_id),
                    route=route.existing(self._ensure_reply_address),
                ),
                self.producer,
            ),
            producer=self.producer,
            dead_topic_of=lambda message: naming.dead_topic(by_name[message.operation].stem),
            is_current=is_current,
        )
        layers = inbound.layers(
            trace=trace.inbound(
                self._tracer, group=self.group, client_id=self.client_id, bind=message_context
            ),
            settle=settle.layer(
                lambda message: by_name[message.operation].retry, settler.carry_out, now_ms, random.random
            ),
            headers=headers.layer(),
            identity=identity.layer(),
            deadline=deadline.layer(now_ms),
            validate=validate.inbound(
                lambda message: by_name[message.operation].decoder,
                is_unknown_schema,
                self.catalog.read_registry,
            ),
        )

        async def handle(message: Message) -> Outcome:
            outcome: Outcome = await handlers[message.operation].invoke(message, self.client)
            return outcome

        return stack(layers, handle)

    # ── topics ────────────────────────────────────────────────────────────────────────────────────────────

    async def _ensure_topic(self, name: str) -> None:
        if name not in self._known_topics and not await outlast(lambda: self._exists(name)):
            raise await self.not_found(name)

    async def _ensure_reply_address(self, topic: str) -> None:
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
        spec = topics.reply_topic(self.service, self.settings, self._kept)
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
