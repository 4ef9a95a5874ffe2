"""The tracing set-up: which variables lead to which tracer, and the real exporter against a collector."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracer, Tracer

from broker_mesh import headers
from broker_mesh.errors import SettingsError
from broker_mesh.headers import Envelope
from broker_mesh.layer import stack
from broker_mesh.layers import trace as layer
from broker_mesh.message import Message, Receipt, Record, received
from broker_mesh.outcome import Done, Outcome
from broker_mesh.telemetry import quiet, tracing
from broker_mesh.telemetry.contexts import ContextTracer
from broker_mesh.telemetry.tracing import tracer_for
from tests.support.otlp import CollectedSpan, CollectorStub, assert_connected

Env = Callable[..., tuple[Tracer, Callable[[], None]]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Env]:
    """Make tracers under exactly the given OTEL_* variables, in the process's environment too."""
    shutdowns: list[Callable[[], None]] = []
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)

    def make(service: str = "dispatch", **variables: str) -> tuple[Tracer, Callable[[], None]]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        tracer, shutdown = tracer_for(service, "v1", f"{service}-7", os.environ)
        shutdowns.append(shutdown)
        return tracer, shutdown

    yield make
    for shutdown in shutdowns:
        shutdown()
    for thread in threading.enumerate():
        if thread.name.startswith(("mesh-tracing", "OtelBatch")):
            thread.join(10)
            assert not thread.is_alive(), f"{thread.name} goes on after the shutdown"


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def provider_of(tracer: Tracer) -> str:
    return type(tracer).__module__


async def one_request(caller: Tracer, callee: Tracer, other: Tracer) -> None:
    """A request of one service, whose handler asks a second one, over the headers alone."""

    async def deliver(message: Message, tracer: Tracer, handler: Callable[[], object]) -> Receipt:
        async def handled(_: Message) -> Outcome:
            result = handler()
            if result is not None:
                await result  # type: ignore[misc]
            return Done()

        record = Record(message.topic, 0, 1, 0, None, b"", headers.write(message.envelope))
        way = stack([layer.inbound(tracer, group="g")], handled)
        await way(received(record, message.topic))
        return Receipt(message.topic, 0, 1)

    async def to_callee(message: Message) -> Receipt:
        return await deliver(message, callee, lambda: call(callee, "weather.v1.observe", to_other))

    async def to_other(message: Message) -> Receipt:
        return await deliver(message, other, lambda: None)

    async def call(tracer: Tracer, topic: str, wire: Callable[[Message], object]) -> None:
        envelope = Envelope(id="id-1", source="dispatch", type=topic)
        await stack([layer.outbound(tracer)], wire)(Message(topic, topic, envelope))  # type: ignore[arg-type]

    await call(caller, "fleet.v1.find-aircraft", to_callee)


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
async def test_a_trace_over_three_services_arrives_connected(start: Env, compression: str) -> None:
    with CollectorStub() as collector:
        tracers = [
            start(
                service,
                OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
                OTEL_EXPORTER_OTLP_COMPRESSION=compression,
            )
            for service in ("dispatch", "fleet", "weather")
        ]
        await one_request(*(tracer for tracer, _ in tracers))
        for _, shutdown in tracers:
            shutdown()
        spans = collector.wait_for(lambda spans: len(spans) == 4)
    assert_connected(spans)
    assert len({span.trace_id for span in spans}) == 1
    assert {(span.service, span.name, span.kind) for span in spans} == {
        ("dispatch", "send fleet.v1.find-aircraft", "PRODUCER"),
        ("fleet", "process fleet.v1.find-aircraft", "CONSUMER"),
        ("fleet", "send weather.v1.observe", "PRODUCER"),
        ("weather", "process weather.v1.observe", "CONSUMER"),
    }
    assert {span.schema_url for span in spans} == {layer.SCHEMA_URL}


async def test_without_any_variable_context_is_made_and_passed_on_but_nothing_recorded(start: Env) -> None:
    tracer, _ = start()
    assert isinstance(tracer, ContextTracer)
    span = tracer.start_span("x")
    assert span.get_span_context().is_valid
    assert span.get_span_context().trace_flags.sampled
    assert not span.is_recording()


def test_an_exporter_of_none_wins_over_an_endpoint(start: Env, closed_port: int) -> None:
    tracer, _ = start(
        OTEL_TRACES_EXPORTER="none", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{closed_port}"
    )
    assert isinstance(tracer, ContextTracer)


def test_the_exporter_alone_is_enough(start: Env) -> None:
    with CollectorStub() as collector:
        tracer, shutdown = start(
            OTEL_TRACES_EXPORTER="otlp", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.endpoint}/v1/traces"
        )
        tracer.start_span("x").end()
        shutdown()
        assert [span.name for span in collector.spans] == ["x"]


def test_a_disabled_sdk_gives_a_tracer_that_does_nothing(start: Env) -> None:
    tracer, _ = start(OTEL_SDK_DISABLED="true", OTEL_TRACES_EXPORTER="otlp")
    assert isinstance(tracer, NoOpTracer)


def test_the_application_s_own_provider_is_used_and_left_running(
    start: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setattr(provider, "shutdown", lambda: pytest.fail("it is not ours to shut down"))
    tracer, shutdown = start(OTEL_TRACES_EXPORTER="one that only the application knows")
    shutdown()
    span = tracer.start_span("x")
    assert span.resource is provider.resource  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"service.name": "dispatch", "service.version": "v1", "service.instance.id": "dispatch-7"}),
        ({"OTEL_SERVICE_NAME": "renamed"}, {"service.name": "renamed", "service.instance.id": "dispatch-7"}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=other,service.instance.id=42,deployment=blue"},
            {"service.name": "other", "service.instance.id": "42", "deployment": "blue"},
        ),
    ],
)
def test_the_resource_is_ours_unless_the_variables_say_otherwise(
    start: Env, variables: dict[str, str], expected: dict[str, str]
) -> None:
    with CollectorStub() as collector:
        tracer, shutdown = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **variables)
        tracer.start_span("x").end()
        shutdown()
        (span,) = collector.spans
    assert expected.items() <= span.resource.items()


@pytest.mark.parametrize(
    ("sampler", "argument", "sampled"),
    [
        ("always_on", "", True),
        ("always_off", "", False),
        ("traceidratio", "0", False),
        ("traceidratio", "", True),
        ("parentbased_traceidratio", "0.0", False),
        ("parentbased_traceidratio", "1", True),
        ("parentbased_always_on", "", True),
        ("parentbased_always_off", "", False),
    ],
)
@pytest.mark.parametrize("exporter", ["none", "otlp"])
def test_samplers_are_the_standard_s(
    start: Env, sampler: str, argument: str, sampled: bool, exporter: str, closed_port: int
) -> None:
    tracer, _ = start(
        OTEL_TRACES_EXPORTER=exporter,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{closed_port}",
        OTEL_TRACES_SAMPLER=sampler,
        OTEL_TRACES_SAMPLER_ARG=argument,
    )
    assert tracer.start_span("x").get_span_context().trace_flags.sampled is sampled


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "otpl"},
            "OTEL_TRACES_EXPORTER='otpl': no exporter 'otpl': did you mean 'otlp'",
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp,zipkin"}, "no exporter 'zipkin' (there are otlp, console, none)"),
        (
            {"OTEL_TRACES_SAMPLER": "allways_on"},
            "OTEL_TRACES_SAMPLER='allways_on' is unknown: did you mean 'always_on'",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "ten"},
            "OTEL_TRACES_SAMPLER_ARG='ten'",
        ),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"}, "a number from 0 to 1"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='grpc'",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL='http/json' is not supported",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"},
            "OTEL_EXPORTER_OTLP_ENDPOINT='localhost:4318' is not a URL",
        ),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "OTEL_BSP_*"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[::1"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT='http://[::1'",
        ),
    ],
)
def test_a_wrong_variable_stops_the_start_with_its_name(
    start: Env, variables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        start(**variables)
    assert sentence in str(caught.value)


def test_the_console_exporter_writes_spans(start: Env, capsys: pytest.CaptureFixture[str]) -> None:
    tracer, shutdown = start(OTEL_TRACES_EXPORTER="console")
    tracer.start_span("send fleet.v1.find-aircraft").end()
    shutdown()
    assert '"name": "send fleet.v1.find-aircraft"' in capsys.readouterr().err


def test_the_batch_processor_s_variables_are_respected(start: Env) -> None:
    with CollectorStub() as collector:
        tracer, _ = start(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_BSP_SCHEDULE_DELAY="3600000",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="2",
            OTEL_BSP_MAX_QUEUE_SIZE="8",
        )
        for number in range(2):
            tracer.start_span(f"span {number}").end()
        # Sent because a batch is full: nothing else would send it within the hour.
        spans: list[CollectedSpan] = collector.wait_for(lambda spans: len(spans) == 2)
    assert {span.name for span in spans} == {"span 0", "span 1"}


async def test_a_collector_that_is_away_neither_fails_delivery_nor_holds_up_the_end(
    start: Env, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "SHUTDOWN_SECONDS", 0.05)
    tracer, shutdown = start(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{closed_port}",
        OTEL_EXPORTER_OTLP_TIMEOUT="3600",
        OTEL_BSP_SCHEDULE_DELAY="10",
    )
    await one_request(tracer, tracer, tracer)
    complained = threading.Event()

    def note(_: logging.LogRecord) -> bool:
        complained.set()
        return True

    exporter_log = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    monkeypatch.setattr(exporter_log, "filters", [note])
    shutdown()
    # It would go on for half a minute, but is told to give up: the fixture sees its threads end.
    assert complained.wait(10)


def test_a_collector_that_refuses_spans_is_asked_once_for_them(start: Env) -> None:
    with CollectorStub(status=400) as collector:
        tracer, shutdown = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        tracer.start_span("x").end()
        shutdown()
        collector.wait_for_requests(1)
    assert (collector.requests, collector.spans) == (1, [])


def test_an_exporter_s_complaints_are_held_back_and_counted() -> None:
    now = [0.0]
    hold_back = quiet.HoldBack(60.0, lambda: now[0])
    records = []
    for moment in (0.0, 1.0, 59.0, 60.0):
        now[0] = moment
        record = logging.LogRecord("exporter", logging.ERROR, "", 0, "no %s", ("collector",), None)
        if hold_back.filter(record):
            records.append(record.getMessage())
    assert records == [
        "no collector (delivery of messages is not affected)",
        "no collector (delivery of messages is not affected; 2 more such lines since the last)",
    ]


def test_each_logger_is_held_back_on_its_own() -> None:
    hold_back = quiet.HoldBack(60.0, lambda: 0.0)
    passed = [hold_back.filter(logging.LogRecord(name, 30, "", 0, "x", (), None)) for name in ("a", "b", "a")]
    assert passed == [True, True, False]


@pytest.mark.parametrize("exporter", ["none", "console"])
def test_the_noisy_loggers_are_quietened_once(
    start: Env, exporter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loggers = [logging.getLogger(name) for name in quiet.NOISY_LOGGERS]
    for logger in loggers:
        monkeypatch.setattr(logger, "filters", [])
    start(OTEL_TRACES_EXPORTER=exporter)
    start(OTEL_TRACES_EXPORTER=exporter)
    held = [sum(isinstance(known, quiet.HoldBack) for known in logger.filters) for logger in loggers]
    assert set(held) == {1}


def test_the_sdk_is_imported_only_when_spans_are_recorded() -> None:
    program = (
        "import sys; from broker_mesh.telemetry.tracing import tracer_for; tracer_for('a', 'v1', 'a-1', {});"
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
