"""Metrics over OTLP against a collector: which variables lead to what, and what arrives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from broker_mesh.circuit import Cause, CircuitState
from broker_mesh.errors import NotFound, SettingsError, Unavailable
from broker_mesh.headers import Envelope
from broker_mesh.layers.measure import Attempt
from broker_mesh.message import Message, Record
from broker_mesh.outcome import Done, RetryLater
from broker_mesh.status import StatusCode
from broker_mesh.telemetry import instruments, otlp_metrics
from broker_mesh.telemetry.aggregation import Kind
from broker_mesh.telemetry.metrics import Backlog, Metrics, PartitionState
from broker_mesh.telemetry.otlp_metrics import export_metrics
from tests.support.otlp import CollectedPoint, CollectorStub, Histogram

FIND = "fleet.v1.find-aircraft"
RETRY = RetryLater(2000, Unavailable("away"))
Start = Callable[..., Callable[[], None]]


@pytest.fixture
def metrics() -> Metrics:
    """Something in every instrument."""
    metrics = Metrics("fleet")
    message = Message(
        FIND, FIND, Envelope(id="1", source="dispatch"), record=Record(FIND, 0, 1, 0, None, b"", [])
    )
    metrics.consumed(FIND, 3)
    metrics.begun(message, 1500)
    metrics.attempted(Attempt(message, Done(b"reply"), 1500, 0.02))
    metrics.attempted(Attempt(message, RETRY, 1500, 0.02))
    metrics.dead_lettered(message, NotFound("none"))
    metrics.circuit_turned(FIND, CircuitState.OPEN, Cause(StatusCode.UNAVAILABLE, "Unavailable"))
    metrics.audited(message)
    metrics.sent(message, None, 0.02)
    metrics.replied(FIND, StatusCode.OK, 0.02)
    metrics.timed_out(FIND)
    metrics.observe([Backlog(FIND, 0, 5, 2, None, PartitionState.RUNNING, window=200)])
    return metrics


@pytest.fixture
def start(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Export under exactly the given OTEL_* variables, in the process's environment too."""
    ends: list[Callable[[], None]] = []
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)

    def begin(**variables: str) -> Callable[[], None]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        end = export_metrics(metrics, service="fleet", version="v1", instance="fleet-7", environ=os.environ)
        ends.append(end)
        return end

    yield begin
    for end in ends:
        end()
    for thread in threading.enumerate():
        if thread.name == "mesh-metrics-push":
            thread.join(10)
            assert not thread.is_alive(), "it goes on after the end"


def of(points: list[CollectedPoint], name: str) -> CollectedPoint:
    (found,) = (point for point in points if point.name == name)
    return found


def test_everything_arrives_with_its_name_its_type_and_its_unit(start: Start, metrics: Metrics) -> None:
    began = metrics.exported_ns
    with CollectorStub() as collector:
        start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)()
        (points,) = collector.exports  # once, at the end: the interval is a minute
    kinds = {Kind.COUNTER: "sum", Kind.GAUGE: "gauge", Kind.HISTOGRAM: "histogram"}
    for instrument in instruments.ALL:
        told = [point for point in points if point.name == instrument.name]
        assert told, instrument.name
        assert {(point.kind, point.unit) for point in told} == {(kinds[instrument.kind], instrument.unit)}
        assert all(point.monotonic for point in told) is (instrument.kind is Kind.COUNTER)
    (processed, _) = (point for point in points if point.name == "messaging.process.duration")
    assert processed.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": FIND,
        "mesh.outcome": "done",
    }
    assert isinstance(processed.value, Histogram)
    assert processed.value.count == sum(processed.value.counts) == 1
    assert processed.value.counts[processed.value.bounds.index(0.025)] == 1
    assert processed.temporality == "CUMULATIVE"
    assert processed.start == began < processed.time
    assert processed.schema_url.endswith("/1.44.0")
    assert {"service.name": "fleet", "service.instance.id": "fleet-7"}.items() <= processed.resource.items()
    assert of(points, "messaging.client.consumed.messages").value == 3


def test_it_goes_on_at_intervals(start: Start, metrics: Metrics) -> None:
    with CollectorStub() as collector:
        start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_METRIC_EXPORT_INTERVAL="20")
        collector.wait_for_metrics(lambda _: len(collector.exports) >= 2)
        metrics.consumed(FIND, 4)
        name = "messaging.client.consumed.messages"
        collector.wait_for_metrics(lambda points: of(points, name).value == 7)


def test_a_delta_is_what_came_since_the_last_that_arrived(start: Start, metrics: Metrics) -> None:
    name = "messaging.client.consumed.messages"
    with CollectorStub() as collector:
        end = start(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_METRIC_EXPORT_INTERVAL="20",
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="Delta",
        )
        collector.wait_for_metrics(lambda points: bool(points))
        for _ in range(3):
            metrics.consumed(FIND, 5)
        end()
        told = [of(points, name) for points in collector.exports]
    assert sum(point.value for point in told) == 3 + 15
    assert {point.temporality for point in told} == {"DELTA"}
    assert [point.start for point in told[1:]] == [point.time for point in told[:-1]]


def test_two_connections_of_one_mesh_export_once_until_the_last_ends(start: Start, metrics: Metrics) -> None:
    with CollectorStub() as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }
        native, wrapped = start(**variables), start(**variables)
        native()
        native()
        assert collector.exports == []
        metrics.consumed(FIND, 4)
        wrapped()
        (export,) = collector.exports
    (consumed,) = [point for point in export if point.name == instruments.CONSUMED.name]
    assert consumed.value == 7


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_a_mesh_that_connects_again_tells_nothing_twice(
    start: Start, metrics: Metrics, temporality: str
) -> None:
    name = "messaging.client.consumed.messages"
    with CollectorStub() as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality,
        }
        start(**variables)()
        metrics.consumed(FIND, 4)
        start(**variables)()
        first, second = (of(points, name) for points in collector.exports)
    assert (first.value, second.value) == (3, 4)
    assert first.time <= second.start < second.time


@pytest.mark.parametrize(
    "variables",
    [{}, {"OTEL_METRICS_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true", "OTEL_METRICS_EXPORTER": "otlp"}],
    ids=["nothing is asked for", "none", "the SDK is disabled"],
)
def test_nothing_is_exported(start: Start, variables: dict[str, str]) -> None:
    start(**variables)
    assert not [thread for thread in threading.enumerate() if thread.name == "mesh-metrics-push"]


def test_the_console_exporter_writes_json_to_stderr(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    start(OTEL_METRICS_EXPORTER="console")()
    out, err = capsys.readouterr()
    assert out == ""
    (scope,) = json.loads(err)["resource_metrics"][0]["scope_metrics"]
    assert {metric["name"] for metric in scope["metrics"]} == {each.name for each in instruments.ALL}


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"OTEL_METRICS_EXPORTER": "otpl"},
            "OTEL_METRICS_EXPORTER='otpl': no exporter 'otpl': did you mean 'otlp'",
        ),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "Prometheus is answered by 'mesh run --metrics-port'"),
        (
            {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "1m"},
            "OTEL_METRIC_EXPORT_INTERVAL='1m'",
        ),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "0"}, "milliseconds from 1"),
        (
            {
                "OTEL_METRICS_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulativ",
            },
            "is unknown: did you mean 'cumulative'?",
        ),
        (
            {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL='http/json' is not supported",
        ),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "localhost:4318"},
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT='localhost:4318' is not a URL",
        ),
    ],
)
def test_a_wrong_variable_stops_the_start_with_its_name(
    start: Start, variables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        start(**variables)
    assert sentence in str(caught.value)


def test_a_collector_that_is_away_does_not_hold_up_the_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_metrics, "SHUTDOWN_SECONDS", 0.05)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed_port = listener.getsockname()[1]
    end = start(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{closed_port}", OTEL_EXPORTER_OTLP_TIMEOUT="3600"
    )
    end()  # it would try for long, but is told to give up: the fixture sees its thread end


def test_a_collector_that_refuses_gets_the_same_again(start: Start, metrics: Metrics) -> None:
    with CollectorStub(status=400) as collector:
        start(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_METRIC_EXPORT_INTERVAL="20",
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        )
        collector.wait_for_metric_requests(2)
        collector.heal()
        points = collector.wait_for_metrics(lambda points: bool(points))
    assert of(points, "messaging.client.consumed.messages").value == 3
    assert of(points, "messaging.client.consumed.messages").start == metrics.exported_ns


def test_an_application_s_own_provider_observes_them_until_the_end(
    start: Start, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(api, "get_meter_provider", lambda: provider)
    end = start(OTEL_EXPORTER_OTLP_ENDPOINT="not even looked at")
    told = observed(reader)
    assert told["messaging.client.consumed.messages", ()] == 3
    assert told["mesh.consumer.lag", ()] == 5
    assert told["mesh.queue.duration.count", ()] == 1
    assert told["mesh.queue.duration.sum", ()] == 1.5
    buckets = {key[1][0]: value for key, value in told.items() if key[0] == "mesh.queue.duration.bucket"}
    assert (buckets["1.0"], buckets["2.5"], buckets["+Inf"]) == (0, 1, 1)
    metrics.consumed(FIND, 1)
    assert observed(reader)["messaging.client.consumed.messages", ()] == 4
    end()
    assert observed(reader) == {}
    metrics.consumed(FIND, 2)
    # A second connection has a scope of its own, nothing warns of it, and it tells what came since.
    export_metrics(metrics, service="fleet", version="v1", instance="fleet-8", environ={})
    assert observed(reader)["messaging.client.consumed.messages", ()] == 2
    provider.shutdown()


def observed(reader: InMemoryMetricReader) -> dict[tuple[str, tuple[str, ...]], float]:
    data = reader.get_metrics_data()
    return {
        (
            metric.name,
            tuple(str(value) for name, value in point.attributes.items() if name == "le"),
        ): point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def test_the_sdk_is_imported_only_when_metrics_are_exported() -> None:
    program = (
        "import sys; from broker_mesh.telemetry.otlp_metrics import export_metrics;"
        "from broker_mesh.telemetry.metrics import Metrics;"
        "export_metrics(Metrics('a'), service='a', version='v1', instance='a-1', environ={});"
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', 'prometheus'))"
        " for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
