"""The trace layers: what spans say, and how context travels."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer, SpanKind, StatusCode, Tracer

from broker_mesh import headers
from broker_mesh.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable, UnknownError
from broker_mesh.headers import Envelope, ReplyTo
from broker_mesh.layer import stack
from broker_mesh.layers import trace as layer
from broker_mesh.message import Message, Receipt, Record, received
from broker_mesh.outcome import DeadLetter, Done, Drop, Outcome, RetryLater
from broker_mesh.telemetry.contexts import ContextTracer

TOPIC = "fleet.v1.find-aircraft"
REMOTE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REMOTE_TRACE = int("4bf92f3577b34da6a3ce929d0e0e4736", 16)
RECEIPT = Receipt(TOPIC, 3, 41)


class Spans(InMemorySpanExporter):
    """Finished spans, and the tracer that makes them."""

    def __init__(self) -> None:
        super().__init__()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self))
        self.tracer = provider.get_tracer("test")

    def only(self) -> ReadableSpan:
        (span,) = self.get_finished_spans()
        return span


@pytest.fixture
def spans() -> Spans:
    return Spans()


def request(**envelope: object) -> Message:
    fields = {"id": "id-1", "source": "dispatch", "type": TOPIC, **envelope}
    return Message(TOPIC, TOPIC, Envelope(**fields))  # type: ignore[arg-type]


def record_of(message: Message, value: bytes | None = b"\x00avro", key: bytes | None = b"N14228") -> Record:
    return Record(TOPIC, 3, 41, 0, key, value, headers.write(message.envelope))


def arrived(value: bytes | None = b"\x00avro", key: bytes | None = b"N14228", **envelope: object) -> Message:
    return received(record_of(request(**envelope), value, key), TOPIC)


async def send(tracer: Tracer, message: Message) -> Message:
    """Send through the layer; give what reached the end of the way."""
    sent: list[Message] = []

    async def acknowledged(message: Message) -> Receipt:
        sent.append(message)
        return RECEIPT

    assert await stack([layer.outbound(tracer, client_id="dispatch-1")], acknowledged)(message) == RECEIPT
    return sent[0]


async def process(tracer: Tracer, message: Message, outcome: Outcome) -> None:
    async def handled(_: Message) -> Outcome:
        return outcome

    assert await stack([layer.inbound(tracer, group="fleet.v1")], handled)(message) == outcome


async def test_a_send_span_says_where_kafka_has_put_the_message(spans: Spans) -> None:
    message = request(reply_to=ReplyTo("dispatch.replies", 2))._replace(key=b"N14228", value=b"12345")
    await send(spans.tracer, message)
    span = spans.only()
    assert (span.name, span.kind) == (f"send {TOPIC}", SpanKind.PRODUCER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": TOPIC,
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 41,
        "messaging.kafka.message.key": "N14228",
        "messaging.message.id": "id-1",
        "messaging.message.conversation_id": "id-1",
        "messaging.message.body.size": 5,
        "messaging.client.id": "dispatch-1",
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_a_process_span_says_which_record_it_handled_and_how_it_ended(spans: Spans) -> None:
    await process(spans.tracer, arrived(attempt=2, correlation_id="id-0"), Done(b"reply"))
    span = spans.only()
    assert (span.name, span.kind) == (f"process {TOPIC}", SpanKind.CONSUMER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": TOPIC,
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 41,
        "messaging.kafka.message.key": "N14228",
        "messaging.message.id": "id-1",
        "messaging.message.conversation_id": "id-0",
        "messaging.message.body.size": 5,
        "messaging.consumer.group.name": "fleet.v1",
        "mesh.attempt": 2,
        "mesh.outcome": "done",
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("outcome", "name", "status", "failed"),
    [
        (Done(), "done", None, False),
        (Done(error=NotFound("no such aircraft")), "done", "NOT_FOUND", False),
        (RetryLater(5, Unavailable("weather is away")), "retry-later", "UNAVAILABLE", True),
        (DeadLetter(UnknownError("KeyError: 'x'")), "dead-letter", "UNKNOWN", True),
        (Drop(DeadlineExceeded("late")), "drop", "DEADLINE_EXCEEDED", True),
    ],
    ids=["done", "answer", "retry", "dead letter", "drop"],
)
async def test_an_answer_is_no_failure_of_the_span_but_every_other_error_is(
    spans: Spans, outcome: Outcome, name: str, status: str | None, failed: bool
) -> None:
    await process(spans.tracer, arrived(), outcome)
    span = spans.only()
    attributes = span.attributes or {}
    assert attributes["mesh.outcome"] == name
    assert attributes.get("mesh.status") == status
    assert attributes.get("error.type") == (status if failed else None)
    assert (span.status.status_code is StatusCode.ERROR) == failed
    if failed:
        assert outcome.error is not None
        assert span.status.description == outcome.error.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidArgument("body does not fit"), "INVALID_ARGUMENT"),
        (KeyError("x"), "KeyError"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
async def test_what_is_raised_ends_the_span_as_failed_and_goes_on(
    spans: Spans, error: BaseException, kind: str
) -> None:
    async def fails(_: Message) -> Receipt:
        raise error

    async def fails_inbound(_: Message) -> Outcome:
        raise error

    with pytest.raises(type(error)):
        await stack([layer.outbound(spans.tracer)], fails)(request())
    with pytest.raises(type(error)):
        await stack([layer.inbound(spans.tracer, group="g")], fails_inbound)(arrived())
    finished = spans.get_finished_spans()
    assert [(span.attributes or {})["error.type"] for span in finished] == [kind, kind]
    assert {span.status.status_code for span in finished} == {StatusCode.ERROR}


async def test_a_key_without_a_text_and_a_null_key_are_left_out_and_a_null_value_is_a_tombstone(
    spans: Spans,
) -> None:
    await process(spans.tracer, arrived(key=b"\xff\xfe"), Done())
    await process(spans.tracer, arrived(key=None, value=None), Done())
    binary, tombstone = (dict(span.attributes or {}) for span in spans.get_finished_spans())
    assert layer.KEY not in binary
    assert layer.KEY not in tombstone
    assert layer.TOMBSTONE not in binary
    assert tombstone[layer.TOMBSTONE] is True


async def test_the_process_span_is_a_child_of_the_send_span(spans: Spans) -> None:
    sent = await send(spans.tracer, request())
    await process(spans.tracer, received(record_of(sent), TOPIC), Done())
    producer, consumer = spans.get_finished_spans()
    assert consumer.parent is not None
    assert producer.context is not None
    assert consumer.parent.span_id == producer.context.span_id
    assert consumer.parent.is_remote
    ids = f"{producer.context.trace_id:032x}-{producer.context.span_id:016x}"
    assert str(sent.envelope.traceparent).startswith(f"00-{ids}-")


@pytest.mark.parametrize("tracer", [None, ContextTracer()], ids=["recording", "context only"])
async def test_what_a_handler_sends_continues_its_trace_and_carries_its_baggage(
    spans: Spans, tracer: Tracer | None
) -> None:
    tracer = tracer or spans.tracer
    nested: list[Message] = []

    async def handler(_: Message) -> Outcome:
        nested.append(await send(tracer, request(id="id-2")))
        return Done()

    message = arrived(traceparent=REMOTE, tracestate="vendor=1", baggage="tenant=blue%20sky")
    await stack([layer.inbound(tracer, group="g")], handler)(message)
    envelope = nested[0].envelope
    assert envelope.traceparent is not None
    assert envelope.traceparent.split("-")[1] == f"{REMOTE_TRACE:032x}"
    assert envelope.traceparent != REMOTE
    assert envelope.traceparent.endswith("-01")
    assert envelope.tracestate == "vendor=1"
    assert envelope.baggage == "tenant=blue+sky"


async def test_an_unsampled_trace_stays_unsampled(spans: Spans) -> None:
    unsampled = REMOTE[:-2] + "00"
    for tracer in (spans.tracer, ContextTracer()):
        with_context = context.attach(layer.extracted(arrived(traceparent=unsampled)))
        try:
            sent = await send(tracer, request())
        finally:
            context.detach(with_context)
        assert str(sent.envelope.traceparent).endswith("-00")
    assert not spans.get_finished_spans()


async def test_the_handler_s_context_ends_with_it(spans: Spans) -> None:
    await process(spans.tracer, arrived(traceparent=REMOTE, baggage="a=b"), Done())
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert not baggage.get_all()


async def test_a_message_without_context_begins_a_trace_even_inside_another_span(spans: Spans) -> None:
    with spans.tracer.start_as_current_span("the program's start"):
        await process(spans.tracer, arrived(), Done())
    consumer = next(span for span in spans.get_finished_spans() if span.kind is SpanKind.CONSUMER)
    assert consumer.parent is None


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "garbage",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        REMOTE.upper(),
        REMOTE + "-more",
        "x" * 600,
    ],
)
async def test_a_malformed_traceparent_begins_a_new_trace(spans: Spans, traceparent: str) -> None:
    message = arrived(traceparent=traceparent, tracestate="vendor=1")
    assert message.fault is None
    await process(spans.tracer, message, Done())
    assert spans.only().parent is None


async def test_a_later_version_of_traceparent_is_read_as_far_as_it_is_known(spans: Spans) -> None:
    await process(spans.tracer, arrived(traceparent="cc" + REMOTE[2:] + "-more"), Done())
    parent = spans.only().parent
    assert parent is not None
    assert parent.trace_id == REMOTE_TRACE


@settings(max_examples=40)
@given(traceparent=st.text(), tracestate=st.text(), baggage=st.text())
def test_no_text_in_the_trace_headers_is_an_error(traceparent: str, tracestate: str, baggage: str) -> None:
    message = request(traceparent=traceparent, tracestate=tracestate, baggage=baggage)
    layer.extracted(message)
    layer.extracted(message.with_envelope(traceparent=REMOTE))


async def test_a_disabled_sdk_passes_the_caller_s_context_on_and_invents_none() -> None:
    nested: list[Message] = []

    async def handler(_: Message) -> Outcome:
        nested.append(await send(NoOpTracer(), request(id="id-2")))
        return Done()

    way = stack([layer.inbound(NoOpTracer(), group="g")], handler)
    await way(arrived(traceparent=REMOTE))
    await way(arrived())
    assert [message.envelope.traceparent for message in nested] == [REMOTE, None]


async def test_the_message_is_bound_while_its_span_is_current(spans: Spans) -> None:
    seen: list[str] = []

    @contextmanager
    def bind(message: Message) -> Iterator[None]:
        assert trace.get_current_span().is_recording()
        seen.append(f"bound {message.envelope.id}")
        yield
        seen.append("released")

    async def handler(_: Message) -> Outcome:
        seen.append("handled")
        return Done()

    await stack([layer.inbound(spans.tracer, group="g", bind=bind)], handler)(arrived())
    assert seen == ["bound id-1", "handled", "released"]


async def test_concurrent_messages_keep_their_own_contexts(spans: Spans) -> None:
    both_inside = asyncio.Barrier(2)
    nested: dict[str, str] = {}

    async def handler(message: Message) -> Outcome:
        await both_inside.wait()
        sent = await send(spans.tracer, request())
        nested[message.envelope.id] = str(sent.envelope.traceparent).split("-")[1]
        return Done()

    way = stack([layer.inbound(spans.tracer, group="g")], handler)
    other = REMOTE.replace("4bf92f", "aaaaaa")
    await asyncio.gather(
        way(arrived(id="one", traceparent=REMOTE)), way(arrived(id="two", traceparent=other))
    )
    assert nested == {"one": REMOTE.split("-")[1], "two": other.split("-")[1]}


async def test_a_context_only_span_works_as_a_current_span_too() -> None:
    with ContextTracer().start_as_current_span("outer") as outer:
        inner = ContextTracer().start_span("inner")
        assert inner.get_span_context().trace_id == outer.get_span_context().trace_id
        assert inner.get_span_context().span_id != outer.get_span_context().span_id
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("error", [None, Unavailable("a rival took over")])
def test_a_replay_is_part_of_the_first_sending_s_trace(spans: Spans, error: Unavailable | None) -> None:
    again = request(traceparent=REMOTE, baggage="tenant=blue", replay_id="replay-1")
    sent, end = layer.replayed(spans.tracer, again)
    end(error)
    end(None)  # the first word counts
    span = spans.only()
    assert (span.name, span.kind) == (f"replay {TOPIC}", SpanKind.PRODUCER)
    assert span.context is not None
    assert span.context.trace_id == REMOTE_TRACE
    assert span.attributes is not None
    assert span.attributes["mesh.replay.id"] == "replay-1"
    assert sent.envelope.traceparent == f"00-{REMOTE_TRACE:032x}-{span.context.span_id:016x}-01"
    assert sent.envelope.baggage == "tenant=blue"
    assert span.status.status_code is (StatusCode.UNSET if error is None else StatusCode.ERROR)
