"""The callee's half of a connected mesh: from declared handlers to a running service.

On the way of a message: before it, at a service's start. It makes the topics that the handlers need, hands each inbound
layer what that layer needs (their order stands in `inbound.py`), joins the group, and keeps its ledger.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from broker_mesh import agreement, inbound, naming, newcomers, outbound, parked, turn
from broker_mesh.client import Client
from broker_mesh.contracts.catalog import is_unknown_schema
from broker_mesh.endpoint import Endpoint, Ordering
from broker_mesh.errors import MeshError
from broker_mesh.guard import OutageGuard
from broker_mesh.idempotency import Results
from broker_mesh.kafka import topics
from broker_mesh.kafka.consumer import GroupConsumer, Partition
from broker_mesh.kafka.groups import Member
from broker_mesh.kafka.ledger import LEDGER_TOPIC, GroupLedger, Held, refuse_lost_offsets
from broker_mesh.layer import stack
from broker_mesh.layers import (
    authorize,
    crashes,
    deadline,
    dedupe,
    headers,
    idempotency,
    identity,
    measure,
    park,
    route,
    settle,
    trace,
    validate,
)
from broker_mesh.layers.retry import Retry
from broker_mesh.message import Message, now_ms
from broker_mesh.operation import Event, Operation
from broker_mesh.outcome import Outcome
from broker_mesh.repeats import Repeats
from broker_mesh.runtime import Runtime
from broker_mesh.service import Inbound, Service
from broker_mesh.settle import Settler
from broker_mesh.telemetry.access_log import AccessLog
from broker_mesh.telemetry.backlog import BacklogWatch, Seen
from broker_mesh.telemetry.logs import message_context

logger = logging.getLogger(__name__)

_ASSIGNMENT_SECONDS = 2.0
_ASK_GROUP_SECONDS = 0.5
_ENTERING_SECONDS = 2.0


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


class Serving:
    """The declared handlers of one connected mesh.

    Args:
        runtime: connected.
        declared: what is handled.
    """

    def __init__(self, runtime: Runtime, declared: Sequence[Declared]) -> None:
        self._runtime = runtime
        self._declared = declared
        self._entering: set[asyncio.Task[None]] = set()

    async def start(self) -> Service:
        """Make what the handlers need, join the group, and begin to handle.

        Raises:
            SchemaError: a declaration does not fit its schema, or a schema breaks compatibility.
            MeshError: Kafka refuses something.
        """
        runtime = self._runtime
        operations = [item.target for item in self._declared if isinstance(item.target, Operation)]
        # Schemas first: an operation exists for callers once its topic does, and must be callable then.
        await runtime.catalog.own(operations)
        await runtime.admin.create(await self._service_topics())
        endpoints = [self._endpoint(item) for item in self._declared]
        consumed = [topic for endpoint in endpoints for topic in endpoint.topics]

        settings = runtime.settings
        guard = OutageGuard(
            endpoints, settings.outage_keys, settings.concurrency, runtime.metrics.circuit_turned
        )

        survey = newcomers.survey(
            runtime.settings,
            client_id=runtime.client_id,
            group=runtime.group,
            admin=runtime.admin,
            groups=runtime.groups,
            retry_topics={each.name: naming.retry_topic(each.stem) for each in endpoints},
        )
        ledger = await self._keep_ledger(consumed)
        service = Service(
            settings,
            endpoints,
            lambda service: self._inbound(endpoints, guard, service),
            ledger,
            survey,
            parked.survey(
                settings,
                client_id=runtime.client_id,
                group=runtime.group,
                admin=runtime.admin,
                groups=runtime.groups,
            ),
            guard,
        )
        consumer = GroupConsumer(
            runtime.settings,
            client_id=runtime.client_id,
            group=runtime.group,
            topics=consumed,
            listener=service,
        )
        service.start(consumer)
        self._watching = asyncio.create_task(self._watch_backlog(service, consumer).run())
        runtime.exit.callback(self._watching.cancel)
        self._agreeing = asyncio.create_task(
            agreement.watch(lambda: service.taken().keys(), self._member, consumer.subscription.renew)
        )
        runtime.exit.callback(self._agreeing.cancel)
        self._confirming = asyncio.create_task(self._confirm_joining(service))
        runtime.exit.callback(self._confirming.cancel)
        runtime.exit.push_async_callback(self._finish_entering)
        return service

    def _watch_backlog(self, service: Service, consumer: GroupConsumer) -> BacklogWatch:
        runtime, watch = self._runtime, consumer.watch

        async def ask_ends(partitions: Collection[Partition]) -> dict[Partition, int]:
            return {key: bounds.end for key, bounds in (await runtime.groups.bounds(partitions)).items()}

        return BacklogWatch(
            runtime.metrics,
            service.taken,
            lambda: Seen(watch.ends, watch.paused, consumer.delivered, watch.firsts, consumer.flow.windows),
            ask_ends,
        )

    async def _member(self) -> Member | None:
        """Ask how the group sees this instance; None where it is no member."""
        runtime = self._runtime
        members = (await runtime.groups.describe([runtime.group]))[runtime.group].members
        return next((member for member in members if member.client_id == runtime.client_id), None)

    async def _confirm_joining(self, service: Service) -> None:
        """Tell the service that it has joined where the consumer hears nothing of it.

        An instance without partitions (there are fewer than instances, or an event has not been published yet) gets
        no assignment: then the group is asked.
        """
        try:
            async with asyncio.timeout(_ASSIGNMENT_SECONDS):
                await service.joined()
        except TimeoutError:
            while not service.has_joined:
                try:
                    if await self._member() is not None:
                        service.assigned({})
                except MeshError as error:
                    logger.debug("the group can't be asked now: %s", error)
                await asyncio.sleep(_ASK_GROUP_SECONDS)

    async def _keep_ledger(self, names: Sequence[str]) -> Callable[[Collection[Partition]], None]:
        """Refuse to start a group whose offsets are lost; give what enters first commits into the ledger.

        Raises:
            DataLoss: they are.
        """
        runtime = self._runtime
        ledger = GroupLedger(runtime.settings, runtime.group, client_id=runtime.client_id)
        entries = await asyncio.to_thread(ledger.entries)
        suspects = sorted({topic for topic, _ in entries} & set(names))
        if suspects:
            described = await runtime.admin.describe(suspects)
            partitions = [
                (name, number) for name, info in described.items() for number in range(info.partitions)
            ]
            held = {
                key: Held(described[key[0]].id, bounds.first, bounds.end)
                for key, bounds in (await runtime.groups.bounds(partitions)).items()
            }
            committed = await runtime.groups.committed(runtime.group, partitions)
            refuse_lost_offsets(runtime.group, entries, committed, held)

        async def enter(partitions: Collection[Partition]) -> None:
            described = await runtime.admin.describe(sorted({topic for topic, _ in partitions}))
            for partition in partitions:
                topic_id = described[partition[0]].id
                if entries.get(partition) != topic_id:
                    await runtime.producer.send(
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

    async def _service_topics(self) -> list[topics.TopicSpec]:
        runtime = self._runtime
        specs: list[topics.TopicSpec] = []
        for item in self._declared:
            if isinstance(item.target, Operation):
                specs += topics.operation_topics(item.target.name, runtime.settings, runtime.kept)
            else:
                event = (await runtime.admin.describe([item.target.name])).get(item.target.name)
                partitions = event.partitions if event else runtime.settings.partitions
                specs += topics.subscription_topics(
                    self._stem(item), runtime.settings, runtime.kept, partitions
                )
        return specs

    def _endpoint(self, item: Declared) -> Endpoint:
        target = item.target
        return Endpoint(
            name=target.name,
            stem=self._stem(item),
            decoder=self._runtime.catalog.subscribe(target)
            if isinstance(target, Event)
            else self._runtime.catalog.codec(target),
            ordering=item.ordering,
            retry=item.retry,
        )

    def _stem(self, item: Declared) -> str:
        if isinstance(item.target, Operation):
            return item.target.name
        return naming.subscription(self._runtime.service, self._runtime.version, item.target.name)

    def _told_of_attempts(self) -> list[Callable[[measure.Attempt], None]]:
        runtime = self._runtime
        if not runtime.settings.access_log:
            return [runtime.metrics.attempted]
        return [runtime.metrics.attempted, AccessLog(runtime.service).ended]

    async def _ensure_results(self, operation: str) -> None:
        """Make the topic of an operation's results by idempotency key where it is missing."""
        runtime = self._runtime
        partitions = (await runtime.admin.describe([operation]))[operation].partitions
        await runtime.admin.create(
            [topics.idempotency_topic(operation, runtime.settings, runtime.kept, partitions)]
        )

    def _inbound(
        self,
        endpoints: Sequence[Endpoint],
        guard: OutageGuard,
        service: Service,
    ) -> Inbound:
        runtime, sidings = self._runtime, service.sidings
        by_name = {endpoint.name: endpoint for endpoint in endpoints}
        handlers = {item.target.name: item for item in self._declared}
        settler = Settler(
            runtime.service,
            send_reply=outbound.pipeline(
                outbound.reply_layers(
                    trace=trace.outbound(runtime.tracer, client_id=runtime.client_id),
                    measure=runtime.measure_sends(),
                    route=route.existing(runtime.ensure_reply_address),
                ),
                runtime.producer,
            ),
            producer=runtime.producer,
            dead_topic_of=lambda message: naming.dead_topic(by_name[message.operation].stem),
            retry_topic_of=lambda message: naming.retry_topic(by_name[message.operation].stem),
            is_current=service.is_current,
            dead_lettered=runtime.metrics.dead_lettered,
            keeps_order=lambda message: by_name[message.operation].ordering != "none",
            certain=service.certain,
        )
        results = Results(
            runtime.service,
            runtime.settings,
            client_id=runtime.client_id,
            producer=runtime.producer,
            ensure_topic=self._ensure_results,
            settler=settler,
            is_current=service.is_current,
        )
        repeats = Repeats(
            runtime.settings,
            client_id=runtime.client_id,
            settled_below=service.settled_below,
            is_current=service.is_current,
        )
        carry_out = repeats.settling(results.settling(sidings.settling(settler.carry_out)))
        layers = inbound.layers(
            trace=trace.inbound(
                runtime.tracer, group=runtime.group, client_id=runtime.client_id, bind=message_context
            ),
            measure=measure.inbound(
                runtime.metrics.begun, self._told_of_attempts(), clock=now_ms, timer=time.perf_counter
            ),
            settle=settle.layer(
                lambda message: by_name[message.operation].retry,
                carry_out,
                now_ms,
                random.random,
                parks=sidings.parks,
                guard=guard.decide,
            ),
            headers=headers.layer(),
            identity=identity.layer(),
            dedupe=dedupe.layer(repeats.is_repeat),
            crashes=crashes.layer(lambda message: by_name[message.operation].retry.attempts),
            deadline=deadline.layer(now_ms),
            park=park.layer(sidings.is_parked),
            authorize=authorize.inbound(runtime.service, lambda: runtime.policy.rules, runtime.audit),
            validate=validate.inbound(
                lambda message: by_name[message.operation].decoder,
                is_unknown_schema,
                runtime.catalog.read_registry,
            ),
            idempotency=idempotency.layer(results.begin),
        )

        async def handle(message: Message) -> Outcome:
            if (its_turn := turn.current()) is not None:
                its_turn.begin()  # a check may have given the place away meanwhile, while it waited
            guard.handling(message)
            outcome: Outcome = await handlers[message.operation].invoke(message, runtime.client)
            return outcome

        return Inbound(stack(layers, handle), settler.put_back, carry_out)
