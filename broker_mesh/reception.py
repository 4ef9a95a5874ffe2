"""The receiving half of a connection: what hands the inbound layers of one wrapped consumer what they need.

On the way of a message: as `serving.py` is for native services. It makes the retry and dead-letter topics of what the
program subscribes to, tells which retry topic belongs to which of the program's topics, and makes the `Intake`.
"""

from __future__ import annotations

import contextvars
import random
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import suppress
from typing import cast

from broker_mesh import inbound, naming, outbound
from broker_mesh.client import Client
from broker_mesh.connection import Connection
from broker_mesh.context import Context
from broker_mesh.contracts.catalog import is_unknown_schema
from broker_mesh.contracts.topic_contracts import Validation
from broker_mesh.delivery import Tools
from broker_mesh.endpoint import Ordering
from broker_mesh.errors import FailedPrecondition, SettingsError, Unavailable
from broker_mesh.idempotency import Results
from broker_mesh.intake import Intake
from broker_mesh.kafka import topics
from broker_mesh.kafka.groups import Groups
from broker_mesh.layer import Layer, Step, stack
from broker_mesh.layers import (
    authorize,
    deadline,
    headers,
    idempotency,
    identity,
    measure,
    route,
    settle,
    trace,
    validate,
)
from broker_mesh.layers.idempotency import has_key
from broker_mesh.layers.retry import Retry
from broker_mesh.message import Message, Record, is_for, now_ms
from broker_mesh.outcome import Done, Drop, Outcome, RetryLater
from broker_mesh.runtime import outlast
from broker_mesh.settle import CarryOut, Settler
from broker_mesh.stepping import elsewhere, hand_over
from broker_mesh.sync import SyncContext
from broker_mesh.telemetry.access_log import AccessLog
from broker_mesh.telemetry.logs import message_context
from broker_mesh.turn import HandedBack
from broker_mesh.waiting import longest_kept_ms
from broker_mesh.work_in_hand import WorkInHand

_ORDERINGS = ("key", "partition", "none")


class Reception:
    """What one wrapped consumer receives with.

    Args:
        connection: the mesh's.
        group: the program's consumer group; None for a consumer without one.
        ordering: which records wait for each other while one is retried or held; "none" parks retries.
        retry: what follows a failed attempt.
        client_id: the consumer's `client.id`.
        woken: called, from any thread, when the intake may have something new; None where the adapter looks again by
            itself, as `Intake.next_in` says. A bound method of the client is to be referred to weakly, or the client
            is never collected.

    Attributes:
        group: the program's consumer group; None without one.
        intake: to be given the client's records.

    Raises:
        SettingsError: an option is wrong.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        group: str | None,
        ordering: Ordering = "key",
        retry: Retry | None = None,
        client_id: str = "",
        woken: Callable[[], None] | None = None,
    ) -> None:
        if ordering not in _ORDERINGS:
            raise SettingsError(f"ordering {ordering!r} is unknown (there are {', '.join(_ORDERINGS)})")
        if retry is not None and not isinstance(retry, Retry):
            raise SettingsError(f"retry is {retry!r}: give a Retry(…)")
        self._connection = connection
        self.group = group
        self._ordering = ordering
        self._parks = self._may_park = ordering == "none" and group is not None
        self._retry = retry or Retry()
        self._client_id = client_id
        self._failure_topics: set[str] = set()  # of which topics they are known to exist
        # The group of a service's own name is the service's: its records carry no other.
        self._foreign_group = None if group == naming.group(connection.service) else group
        settings = connection.runtime.settings
        settler = self._settler(lambda message: self.intake.is_current(message))
        self.intake = Intake(
            self._steps(settler, lambda message: self.intake.is_current(message)),
            connection.background,
            operation_of=self.operation_of,
            lane_of=self._lane_of,
            is_mine=lambda message: is_for(message, self._foreign_group),
            put_back=settler.put_back,
            tools=Tools(self._context, connection.encode_reply_of),
            limit=settings.max_in_flight,
            longest_kept_ms=longest_kept_ms(settings),
            woken=woken,
        )

    def may_park(self, reads_retries: bool) -> None:
        """Say whether the client reads the retry topics: otherwise messages wait in place for their next attempt."""
        self._parks = self._may_park and reads_retries

    # ── topics ────────────────────────────────────────────────────────────────────────────────────────────

    def stem(self, topic: str) -> str:
        """Tell what the retry and dead-letter topics of one of the program's topics are named after."""
        if naming.is_target(topic) and not naming.is_event(topic):
            return topic
        return naming.subscription(self._connection.service, self._connection.version, topic)

    def retry_topic(self, topic: str) -> str:
        """Name the topic where records of one of the program's topics wait for their next attempt."""
        return naming.retry_topic(self.stem(topic))

    def operation_of(self, topic: str) -> str:
        """Tell which of the program's topics a record's topic belongs to: itself, or that of a retry topic of ours."""
        if not topic.endswith(".retry"):
            return topic
        stem = topic.removesuffix(".retry")
        prefix = f"{self._connection.service}.{self._connection.version}.from."
        if stem.startswith(prefix):
            return stem.removeprefix(prefix)
        if naming.owner(stem) == self._connection.service and naming.is_target(stem):
            return stem
        return topic

    async def prepare(self, subscribed: Collection[str]) -> Mapping[str, int]:
        """Make the retry and dead-letter topics of topics that exist; on the mesh's loop.

        Args:
            subscribed: the program's topics; those that don't exist yet are left out, as Kafka itself waits for them.

        Returns:
            How many partitions each existing topic has.

        Raises:
            FailedPrecondition: an operation of another service: only its own service handles its requests.
            MeshError: Kafka refuses something.
        """
        for topic in subscribed:
            if naming.is_target(topic) and not naming.is_event(topic):
                owner = naming.owner(topic)
                if owner != self._connection.service:
                    raise FailedPrecondition(
                        f"{topic!r} is an operation of {owner!r}: only that service handles its requests"
                    )
        runtime = self._connection.runtime
        described = await outlast(lambda: runtime.admin.describe(sorted(subscribed)))
        for topic, info in described.items():
            await self._make_failure_topics(topic, info.partitions)
            await self._connection.ready(topic)
        return {topic: info.partitions for topic, info in described.items()}

    async def subscribed_to_retries(self, subscribed: Collection[str]) -> list[str]:
        """Tell which members of the group have retry topics by subscription, by their client ids; on the mesh's loop.

        Args:
            subscribed: the program's topics.

        Raises:
            MeshError: Kafka can't be asked.
        """
        if self.group is None:
            return []
        retries = {self.retry_topic(topic) for topic in subscribed}
        groups = Groups(self._connection.runtime.settings, self._connection.runtime.client_id)
        group = (await groups.describe([self.group]))[self.group]
        return sorted(
            {
                each.client_id
                for each in group.members
                if any(topic in retries for topic, _ in each.partitions)
            }
        )

    async def _make_failure_topics(self, topic: str, partitions: int) -> None:
        if topic in self._failure_topics:
            return
        runtime = self._connection.runtime
        await outlast(
            lambda: runtime.admin.create(
                topics.subscription_topics(self.stem(topic), runtime.settings, runtime.kept, partitions)
            )
        )
        self._failure_topics.add(topic)

    # ── layers ────────────────────────────────────────────────────────────────────────────────────────────

    def _settler(self, is_current: Callable[[Message], bool]) -> Settler:
        connection, runtime = self._connection, self._connection.runtime
        return Settler(
            runtime.service,
            send_reply=outbound.pipeline(
                outbound.reply_layers(
                    trace=trace.outbound(runtime.tracer, client_id=runtime.client_id),
                    measure=measure.outbound(
                        connection.measured(runtime.metrics.sent), timer=time.perf_counter
                    ),
                    route=route.existing(runtime.ensure_reply_address),
                ),
                runtime.producer,
            ),
            producer=runtime.producer,
            dead_topic_of=lambda message: naming.dead_topic(self.stem(message.operation)),
            retry_topic_of=lambda message: self.retry_topic(message.operation),
            is_current=is_current,
            dead_lettered=connection.measured(runtime.metrics.dead_lettered),
            group=self._foreign_group,
        )

    def _steps(self, settler: Settler, is_current: Callable[[Message], bool]) -> Step[Outcome]:
        connection, runtime = self._connection, self._connection.runtime
        results = Results(
            runtime.service,
            runtime.settings,
            client_id=runtime.client_id,
            producer=runtime.producer,
            ensure_topic=self._ensure_results,
            settler=settler,
            is_current=is_current,
            group=self._foreign_group,
        )
        work = WorkInHand(is_current)
        attempted = [connection.measured(runtime.metrics.attempted)]
        if runtime.settings.access_log:
            attempted.append(AccessLog(runtime.service).ended)
        layers = inbound.client_layers(
            trace=trace.inbound(
                runtime.tracer,
                group=self.group or "",
                client_id=self._client_id,
                bind=message_context,
            ),
            measure=measure.inbound(
                connection.measured(runtime.metrics.begun), attempted, clock=now_ms, timer=time.perf_counter
            ),
            settle=settle.layer(
                lambda _: self._retry,
                self._settling(work.settling(results.settling(settler.carry_out))),
                now_ms,
                random.random,
                parks=lambda _, __: self._parks,
            ),
            headers=self._where_enforced(headers.layer()),
            identity=identity.layer(),
            deadline=deadline.layer(now_ms),
            authorize=authorize.inbound(
                runtime.service,
                lambda: runtime.policy.rules,
                runtime.audit,
                lambda message: connection.contract_of(message.operation),
            ),
            validate=self._once_ready(
                validate.values_inbound(
                    lambda message: connection.contract_of(message.operation),
                    is_unknown_schema,
                    connection.read_registry,
                    connection.audited,
                )
            ),
            idempotency=idempotency.layer(
                lambda message: elsewhere(lambda: work.begin(message, results.begin))
            ),
        )

        async def to_program(message: Message) -> Outcome:
            try:
                outcome: Outcome = await hand_over(message)
            except HandedBack:
                if has_key(message):
                    with suppress(Unavailable):  # disconnected: nobody waits for its key any more
                        connection.background.begin(work.let_go, contextvars.Context(), lambda _: None)
                raise
            return outcome

        return stack(layers, to_program)

    def _settling(self, carry_out: CarryOut) -> CarryOut:
        """Carry out what needs Kafka on the mesh's loop, and all else at once."""

        async def carry_out_with_topics(message: Message, outcome: Outcome) -> Outcome:
            if message.operation not in self._failure_topics:
                # A topic that came after the subscription, or that a pattern has found.
                described = await outlast(
                    lambda: self._connection.runtime.admin.describe([message.operation])
                )
                count = described[message.operation].partitions if message.operation in described else 1
                await self._make_failure_topics(message.operation, count)
            return await carry_out(message, outcome)

        async def settle_message(message: Message, outcome: Outcome) -> Outcome:
            if _is_carried_out(message, outcome):
                return outcome
            return await elsewhere(lambda: carry_out_with_topics(message, outcome))

        return settle_message

    def _where_enforced(self, layer: Layer[Outcome]) -> Layer[Outcome]:
        """Refuse malformed headers of the mesh's own topics, and of enforced ones: elsewhere they may be another's."""

        def around(rest: Step[Outcome]) -> Step[Outcome]:
            strict = layer.around(rest)

            async def step(message: Message) -> Outcome:
                if message.fault is None:
                    return await rest(message)
                contract = self._connection.contract_of(message.operation)
                if contract.is_of_the_mesh or contract.validation is Validation.ENFORCE:
                    return await strict(message)
                return await rest(message._replace(fault=None))

            return step

        return Layer(layer.name, around)

    def _once_ready(self, layer: Layer[Outcome]) -> Layer[Outcome]:
        """Learn the topic's contract first, where it is not known yet."""

        def around(rest: Step[Outcome]) -> Step[Outcome]:
            known = layer.around(rest)

            async def step(message: Message) -> Outcome:
                if not self._connection.is_ready(message.operation):
                    await elsewhere(lambda: self._connection.ready(message.operation))
                return await known(message)

            return step

        return Layer(layer.name, around)

    async def _ensure_results(self, operation: str) -> None:
        runtime = self._connection.runtime
        partitions = (await runtime.admin.describe([operation]))[operation].partitions
        await runtime.admin.create(
            [topics.idempotency_topic(operation, runtime.settings, runtime.kept, partitions)]
        )

    # ── what deliveries need ──────────────────────────────────────────────────────────────────────────────

    def _context(self, message: Message) -> Context:
        connection = self._connection
        client = cast("Client", connection.client)  # the same methods, from any loop
        return Context(message, client, lambda context: SyncContext(connection.loop, context))

    def _lane_of(self, operation: str, record: Record) -> Hashable:
        match self._ordering:
            case "partition":
                return operation, record.partition
            case "key" if record.key is not None:
                return operation, record.key
            case _:
                return None


def _is_carried_out(message: Message, outcome: Outcome) -> bool:
    """Tell whether an outcome needs nothing to be written: nobody waits for it, and no result is kept."""
    if has_key(message):
        return False
    match outcome:
        case Done() | Drop():
            return not message.expects_reply
        case RetryLater(parked=False):
            return True
        case _:
            return False
