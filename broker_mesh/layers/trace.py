"""Tracing: one span for each send and for each attempt to process, joined by W3C trace context in the headers.

On the way of a message: outermost in both directions, so that a span covers every check, its refusal too.
Names and attributes are those of OpenTelemetry's messaging conventions, version 1.44
(https://github.com/open-telemetry/semantic-conventions/tree/v1.44.0/docs/messaging): a send span is the
message's creation context, and the parent of the span that processes it. Trace Context and Baggage are W3C's
(https://www.w3.org/TR/trace-context/, https://www.w3.org/TR/baggage/); by the
former's processing model a malformed `traceparent` begins a new trace and is no error.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from opentelemetry import baggage, context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from broker_mesh import headers
from broker_mesh.errors import MeshError
from broker_mesh.layer import Layer, Step
from broker_mesh.message import Message, Receipt
from broker_mesh.outcome import OUTCOME_NAMES, Done, Outcome

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the conventions that the attributes below are named by; a collector may translate them."""

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
PARTITION: Final = "messaging.destination.partition.id"
OFFSET: Final = "messaging.kafka.offset"
KEY: Final = "messaging.kafka.message.key"
TOMBSTONE: Final = "messaging.kafka.message.tombstone"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
BODY_SIZE: Final = "messaging.message.body.size"
GROUP: Final = "messaging.consumer.group.name"
CLIENT_ID: Final = "messaging.client.id"
ERROR_TYPE: Final = "error.type"
# The mesh's own.
OUTCOME: Final = "mesh.outcome"
STATUS: Final = "mesh.status"
ATTEMPT: Final = "mesh.attempt"
REPLAY_ID: Final = "mesh.replay.id"

_trace_context = TraceContextTextMapPropagator()
_baggage = W3CBaggagePropagator()
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

Bind = Callable[[Message], AbstractContextManager[None]]
"""Makes a message known to whoever asks for "the message being handled" while it is; logs do."""


def injected(message: Message, current: Context) -> Message:
    """Write a context into a message's envelope, in place of what it said: the span in it, and its baggage."""
    carrier: dict[str, str] = {}
    if baggage.get_all(current):
        _baggage.inject(carrier, current)
    span = get_current_span(current).get_span_context()
    if span.is_valid:
        # As the propagator writes it, without its carrier: this is done for every message.
        carrier[headers.TRACEPARENT] = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
        if span.trace_state:
            carrier[headers.TRACESTATE] = span.trace_state.to_header()
    return message.with_envelope(
        traceparent=carrier.get(headers.TRACEPARENT),
        tracestate=carrier.get(headers.TRACESTATE),
        baggage=carrier.get(headers.BAGGAGE),
    )


def extracted(message: Message) -> Context:
    """Read the context of a message's sender; what is malformed in it is left out."""
    envelope = message.envelope
    remote = Context()
    if envelope.traceparent:
        remote = _remote(envelope.traceparent, envelope.tracestate, remote)
    if envelope.baggage:
        remote = _baggage.extract({headers.BAGGAGE: envelope.baggage}, remote)
    return remote


def _remote(traceparent: str, tracestate: str | None, into: Context) -> Context:
    usual = None if tracestate else _TRACEPARENT.fullmatch(traceparent)
    if usual is not None:
        # All that the propagator does where there is nothing unusual to decide on.
        trace_id, span_id, flags = (int(part, 16) for part in usual.groups())
        span = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
        if span.is_valid:
            return set_span_in_context(NonRecordingSpan(span), into)
    carrier = {headers.TRACEPARENT: traceparent}
    if tracestate:
        carrier[headers.TRACESTATE] = tracestate
    return _trace_context.extract(carrier, into)


def outbound(tracer: Tracer, *, client_id: str = "") -> Layer[Receipt]:
    """Make the outbound layer: a span "send <topic>" that ends when Kafka has acknowledged the message.

    Args:
        tracer: of `telemetry/tracing.py`.
        client_id: the producer's `client.id`.
    """

    def around(rest: Step[Receipt]) -> Step[Receipt]:
        async def step(message: Message) -> Receipt:
            parent = context.get_current()
            if message.envelope.traceparent and not get_current_span(parent).get_span_context().is_valid:
                parent = extracted(message)  # a program that passes its trace on by itself
            span = tracer.start_span(
                f"send {message.topic}",
                parent,
                kind=SpanKind.PRODUCER,
                attributes={
                    SYSTEM: "kafka",
                    OPERATION_NAME: "send",
                    OPERATION_TYPE: "send",
                    DESTINATION: message.topic,
                },
            )
            try:
                if span.is_recording():
                    span.set_attributes(_facts(message, client_id))
                receipt = await rest(injected(message, set_span_in_context(span, parent)))
            except BaseException as error:
                _fail(span, error)
                raise
            else:
                if span.is_recording():
                    span.set_attributes({PARTITION: str(receipt.partition), OFFSET: receipt.offset})
                return receipt
            finally:
                span.end()

        return step

    return Layer("trace", around)


def replayed(tracer: Tracer, message: Message) -> tuple[Message, Callable[[MeshError | None], None]]:
    """Begin a span "replay <topic>" in the trace of a message that is put back, so that the story stays one.

    Args:
        tracer: of `telemetry/tracing.py`.
        message: the copy, with the context of the first sending; it may have none.

    Returns:
        The message with the span's context in its envelope; and what ends the span once the message is put back, or
        was not, for the reason it is given.
    """
    remote = extracted(message)
    span = tracer.start_span(
        f"replay {message.topic}",
        remote,
        kind=SpanKind.PRODUCER,
        attributes={
            SYSTEM: "kafka",
            OPERATION_NAME: "replay",
            OPERATION_TYPE: "send",
            DESTINATION: message.topic,
        },
    )
    if span.is_recording():
        span.set_attributes(_facts(message, ""))
        span.set_attribute(REPLAY_ID, message.envelope.replay_id or "")

    def end(error: MeshError | None) -> None:
        if span.is_recording():  # the first reason counts
            if error is not None:
                _fail(span, error)
            span.end()

    return injected(message, set_span_in_context(span, remote)), end


def inbound(
    tracer: Tracer, *, group: str, client_id: str = "", bind: Bind = lambda _: nullcontext()
) -> Layer[Outcome]:
    """Make the inbound layer: a span "process <operation>" for each attempt, current while the rest goes on.

    What a handler sends is therefore a child of its span, and carries its caller's baggage on.

    Args:
        tracer: of `telemetry/tracing.py`.
        group: the consumer group.
        client_id: the consumer's `client.id`.
        bind: entered with the message once its span is current.
    """

    def around(rest: Step[Outcome]) -> Step[Outcome]:
        async def step(message: Message) -> Outcome:
            remote = extracted(message)
            span = tracer.start_span(
                f"process {message.operation}",
                remote,
                kind=SpanKind.CONSUMER,
                attributes={
                    SYSTEM: "kafka",
                    OPERATION_NAME: "process",
                    OPERATION_TYPE: "process",
                    DESTINATION: message.topic,
                    PARTITION: str(message.partition),
                },
            )
            token = context.attach(set_span_in_context(span, remote))
            collected = False
            try:
                if span.is_recording():
                    span.set_attributes(_record_facts(message, group, client_id))
                with bind(message):
                    outcome = await rest(message)
            except BaseException as error:
                # What nobody goes on with ends in whatever context garbage is collected: its own is gone with it.
                collected = isinstance(error, GeneratorExit)
                _fail(span, error)
                raise
            else:
                if span.is_recording():
                    _conclude(span, outcome)
                return outcome
            finally:
                if not collected:
                    context.detach(token)
                span.end()

        return step

    return Layer("trace", around)


@contextmanager
def current_as_in(variables: contextvars.Context) -> Iterator[None]:
    """Have the span be current within the block that is current in another context, with its baggage."""
    token = context.attach(variables.copy().run(context.get_current))  # a copy: another thread may be in it
    try:
        yield
    finally:
        context.detach(token)


def _facts(message: Message, client_id: str) -> dict[str, AttributeValue]:
    envelope = message.envelope
    facts: dict[str, AttributeValue] = {MESSAGE_ID: envelope.id}
    conversation = envelope.correlation_id or (envelope.id if message.expects_reply else None)
    if conversation:
        facts[CONVERSATION_ID] = conversation
    if message.value is not None:
        facts[BODY_SIZE] = len(message.value)
    if message.key is not None and (key := _canonical(message.key)) is not None:
        facts[KEY] = key
    if client_id:
        facts[CLIENT_ID] = client_id
    return facts


def _record_facts(message: Message, group: str, client_id: str) -> dict[str, AttributeValue]:
    facts = _facts(message, client_id)
    facts[GROUP] = group
    facts[ATTEMPT] = message.envelope.attempt
    if message.record is not None:
        facts[OFFSET] = message.record.offset
        if message.record.value is None:
            facts[TOMBSTONE] = True
    return facts


def _conclude(span: Span, outcome: Outcome) -> None:
    span.set_attribute(OUTCOME, OUTCOME_NAMES[type(outcome)])
    if outcome.error is None:
        return
    span.set_attribute(STATUS, outcome.error.status.name)
    if not isinstance(outcome, Done):  # an answer such as NOT_FOUND is a result of the work, not its failure
        _fail(span, outcome.error)


def _fail(span: Span, error: BaseException) -> None:
    if isinstance(error, MeshError):
        span.set_attribute(ERROR_TYPE, error.status.name)
        span.set_status(Status(StatusCode.ERROR, error.message))
    else:
        span.set_attribute(ERROR_TYPE, type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR, str(error)))


def _canonical(key: bytes) -> str | None:
    """Give the one text of a key; None for bytes that have none, which the conventions want left out."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None
