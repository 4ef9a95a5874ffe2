"""A collector for tests: takes spans and metrics over OTLP/HTTP as protobuf, and keeps them to be asserted on."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status


class CollectedSpan(NamedTuple):
    """A span as it arrived; ids in lower-case hex, `parent_span_id` empty for a root, times in epoch ns."""

    name: str
    kind: str  # INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER
    trace_id: str
    span_id: str
    parent_span_id: str
    attributes: dict[str, Any]
    status: str  # UNSET, OK, ERROR
    status_message: str
    start: int
    end: int
    resource: dict[str, Any]
    schema_url: str

    @property
    def service(self) -> str:
        """The resource's `service.name`."""
        return str(self.resource.get("service.name", ""))


class Histogram(NamedTuple):
    """A histogram's figures as they arrived; `counts` by bucket, not cumulative."""

    count: int
    total: float
    counts: tuple[int, ...]
    bounds: tuple[float, ...]


class CollectedPoint(NamedTuple):
    """One data point of a metric as it arrived, flattened; times in epoch ns."""

    name: str
    kind: str  # sum, gauge, histogram
    unit: str
    temporality: str  # CUMULATIVE, DELTA; empty for a gauge
    monotonic: bool
    attributes: dict[str, Any]
    value: float | Histogram
    start: int
    time: int
    resource: dict[str, Any]
    schema_url: str


class CollectorStub:
    """An OTLP/HTTP collector on a free loopback port, in a thread; use it as a context manager.

    Args:
        status: the HTTP status of its answers; what is sent to a collector that refuses is not kept.

    Attributes:
        requests: how many requests with spans came.
        metric_requests: how many with metrics.
    """

    def __init__(self, status: int = 200) -> None:
        self._spans: list[CollectedSpan] = []
        self._exports: list[list[CollectedPoint]] = []
        self._changed = threading.Condition()
        self._status = status
        self.requests = self.metric_requests = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> CollectorStub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[CollectedSpan]:
        """What has arrived so far, in the order of arrival."""
        with self._changed:
            return list(self._spans)

    @property
    def exports(self) -> list[list[CollectedPoint]]:
        """The data points of each export of metrics, in the order of arrival."""
        with self._changed:
            return list(self._exports)

    def wait_for_metrics(
        self, predicate: Callable[[list[CollectedPoint]], bool], timeout: float = 10.0
    ) -> list[CollectedPoint]:
        """Return the last export of metrics once the predicate holds for it."""
        with self._changed:
            if self._changed.wait_for(lambda: bool(self._exports) and predicate(self._exports[-1]), timeout):
                return self._exports[-1]
            names = sorted({point.name for points in self._exports for point in points})
        raise AssertionError(f"after {timeout} s the collector has only {names}")

    def wait_for(
        self, predicate: Callable[[list[CollectedSpan]], bool], timeout: float = 10.0
    ) -> list[CollectedSpan]:
        """Return all spans once the predicate holds for them; fail with their names after `timeout` seconds."""
        with self._changed:
            if self._changed.wait_for(lambda: predicate(self._spans), timeout):
                return list(self._spans)
            names = [f"{span.service}: {span.name}" for span in self._spans]
        raise AssertionError(f"after {timeout} s the collector has only {names}")

    def wait_for_metric_requests(self, count: int, timeout: float = 10.0) -> None:
        """Return once `count` requests with metrics have come, whatever they were answered."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.metric_requests >= count, timeout):
                raise AssertionError(f"after {timeout} s metrics came only {self.metric_requests} times")

    def heal(self) -> None:
        """Accept everything from now on."""
        self._status = 200

    def wait_for_requests(self, count: int, timeout: float = 10.0) -> None:
        """Return once `count` requests have come, whatever they were answered."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.requests >= count, timeout):
                raise AssertionError(f"after {timeout} s the collector was asked only {self.requests} times")

    def _take(self, path: str, body: bytes) -> bytes:
        with self._changed:
            if path == "/v1/metrics":
                metrics = ExportMetricsServiceRequest.FromString(body)
                if self._status == 200:
                    self._exports.append(list(_collected_points(metrics)))
                self.metric_requests += 1
                answer: bytes = ExportMetricsServiceResponse().SerializeToString()
            else:
                spans = ExportTraceServiceRequest.FromString(body)
                if self._status == 200:
                    self._spans.extend(_collected(spans))
                self.requests += 1
                answer = ExportTraceServiceResponse().SerializeToString()
            self._changed.notify_all()
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_protobuf = self.headers["Content-Type"] == "application/x-protobuf"
                if self.path not in ("/v1/traces", "/v1/metrics") or not is_protobuf:
                    self.send_error(404)
                    return
                try:
                    plain = _decompress(body, self.headers.get("Content-Encoding", ""))
                    answer = collector._take(self.path, plain)
                except (DecodeError, ValueError, OSError, zlib.error):
                    self.send_error(400)
                    return
                self.send_response(collector._status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
                """Say nothing: what matters is asserted."""

        return Handler


def assert_connected(spans: Iterable[CollectedSpan]) -> None:
    """Check that each trace among the spans is one tree: one root, every parent there, no span twice.

    Raises:
        AssertionError: a trace is torn; the sentence says which span hangs in the air.
    """
    traces: dict[str, list[CollectedSpan]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    assert traces, "there are no spans at all"
    for trace_id, members in traces.items():
        ids = {span.span_id for span in members}
        twice = [span_id for span_id, count in Counter(span.span_id for span in members).items() if count > 1]
        assert not twice, f"trace {trace_id}: spans {twice} came more than once"
        roots = [span.name for span in members if not span.parent_span_id]
        orphans = [span.name for span in members if span.parent_span_id and span.parent_span_id not in ids]
        assert not orphans, f"trace {trace_id}: the parents of {orphans} are missing"
        assert len(roots) == 1, f"trace {trace_id}: {len(roots)} roots: {roots}"


def _decompress(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "deflate":
        return zlib.decompress(body)
    if encoding in ("", "identity"):
        return body
    raise ValueError(encoding)


def _collected(request: ExportTraceServiceRequest) -> Iterable[CollectedSpan]:
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield CollectedSpan(
                    name=span.name,
                    kind=ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_span_id=span.parent_span_id.hex(),
                    attributes=_attributes(span.attributes),
                    status=Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                    status_message=span.status.message,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    resource=resource,
                    schema_url=scope_spans.schema_url,
                )


def _collected_points(request: ExportMetricsServiceRequest) -> Iterable[CollectedPoint]:
    for resource_metrics in request.resource_metrics:
        resource = _attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                yield from _points(metric, resource, scope_metrics.schema_url)


def _points(metric: Metric, resource: dict[str, Any], schema_url: str) -> Iterable[CollectedPoint]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    temporality = "" if kind == "gauge" else AggregationTemporality.Name(data.aggregation_temporality)
    for point in data.data_points:
        if kind == "histogram":
            assert not point.HasField("min")
            assert not point.HasField("max")
            value: Any = Histogram(
                point.count, point.sum, tuple(point.bucket_counts), tuple(point.explicit_bounds)
            )
        else:
            value = getattr(point, point.WhichOneof("value"))
        yield CollectedPoint(
            name=metric.name,
            kind=kind,
            unit=metric.unit,
            temporality=temporality.removeprefix("AGGREGATION_TEMPORALITY_"),
            monotonic=kind == "sum" and data.is_monotonic,
            attributes=_attributes(point.attributes),
            value=value,
            start=point.start_time_unix_nano,
            time=point.time_unix_nano,
            resource=resource,
            schema_url=schema_url,
        )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
