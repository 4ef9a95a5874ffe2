"""Metrics over OTLP: the mesh's own figures, as the SDK's data points, pushed at intervals by a thread.

Beside the way of a message. The SDK's exporters are used, its instruments and readers are not: it has no histogram that
is observed, and recording each message costs a quarter of a service's throughput. Variables as in
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. A collector that is away costs
figures of the minute, never messages.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from broker_mesh.errors import SettingsError
from broker_mesh.layers.trace import SCHEMA_URL
from broker_mesh.settings import nearest
from broker_mesh.telemetry import application, otlp
from broker_mesh.telemetry.aggregation import Distribution, Family, Kind, Labels, Value, since
from broker_mesh.telemetry.metrics import Metrics, samples_of
from broker_mesh.telemetry.quiet import quieten

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import (
        Gauge,
        Histogram,
        HistogramDataPoint,
        Metric,
        MetricExporter,
        MetricsData,
        NumberDataPoint,
        Sum,
    )
    from opentelemetry.sdk.resources import Resource

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 2.0
SCOPE: Final = "broker_mesh"

_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
_DEFAULT_INTERVAL_MS = "60000"
_TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
_TEMPORALITIES = ("cumulative", "delta", "lowmemory")


def export_metrics(
    metrics: Metrics, *, service: str, version: str, instance: str, environ: Mapping[str, str]
) -> Callable[[], None]:
    """Export the metrics of a service's process, from now on; once, by however many connections of one mesh.

    A meter provider that the application has set observes them, and is the application's to shut down. Otherwise
    OTEL_* variables decide; without an exporter, nothing is exported.

    Args:
        metrics: to be collected.
        service, version, instance: who tells, unless OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say otherwise.
        environ: decides whether, how and how often; finer settings (headers, time-outs, certificates) are read from
            the process's environment by the SDK itself.

    Returns:
        A function that exports for the last time and returns after 2 seconds at most; it blocks.

    Raises:
        SettingsError: a variable is wrong; the sentence names it and what it may be.
    """
    with _starting:
        exported = _exported.get(metrics)
        if exported is None:
            end = _begin(metrics, service=service, version=version, instance=instance, environ=environ)
            exported = _exported[metrics] = _Exported(end)
        user = object()
        exported.users.add(user)
    return lambda: _leave(metrics, exported, user)


class _Exported:
    """The export of one mesh's metrics, which ends with the last connection that has them exported."""

    def __init__(self, end: Callable[[], None]) -> None:
        self.end = end
        self.users: set[object] = set()


_exported: WeakKeyDictionary[Metrics, _Exported] = WeakKeyDictionary()
_starting = threading.Lock()


def _leave(metrics: Metrics, exported: _Exported, user: object) -> None:
    with _starting:
        exported.users.discard(user)
        if exported.users or _exported.get(metrics) is not exported:
            return
        del _exported[metrics]
    exported.end()


def _begin(
    metrics: Metrics, *, service: str, version: str, instance: str, environ: Mapping[str, str]
) -> Callable[[], None]:
    if application.has_meter_provider():
        return _ending(metrics, application.observe(metrics, instance))
    if otlp.is_disabled(environ):
        return _nothing
    names = otlp.exporter_names(otlp.METRICS, environ)
    if not names:
        return _nothing
    interval, delta = _interval_seconds(environ), _wants_delta(environ)
    who = otlp.resource(service, version, instance)
    pushes = [
        _Push(
            metrics,
            _console() if name == "console" else otlp.otlp_exporter(otlp.METRICS, environ),
            who,
            interval=interval,
            delta=delta and name == "otlp",
        )
        for name in names
    ]
    quieten()
    for push in pushes:
        push.start()
    return _ending(metrics, lambda: _stop(pushes))


class _Push:
    """Exports to one exporter, on a thread of its own."""

    def __init__(
        self, metrics: Metrics, exporter: MetricExporter, who: Resource, *, interval: float, delta: bool
    ) -> None:
        self._metrics = metrics
        self._exporter = exporter
        self._resource = who
        self._interval = interval
        self._delta = delta
        self._told, self._told_at = (
            metrics.exported,
            metrics.exported_ns,
        )  # what is told is the difference to it
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mesh-metrics-push", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Have it export for the last time, soon."""
        self._ending.set()

    def wait(self, seconds: float) -> None:
        """Wait until it has; then give up what is under way."""
        self._thread.join(seconds)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._ending.wait(self._interval):
            self._export()
        self._export()

    def _export(self) -> None:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        families, now = self._metrics.collect(), time.time_ns()
        told = since(families, self._told)
        data = metrics_data(told, self._resource, start=self._told_at, now=now, delta=self._delta)
        try:
            result = self._exporter.export(data)
        except Exception as error:  # noqa: BLE001 - whatever an exporter meets, the next interval is another try
            logger.warning("metrics could not be exported: %s; they are exported again later", error)
            return
        if self._delta and result is MetricExportResult.SUCCESS:
            # Only then: what was not told is in the next difference.
            self._told, self._told_at = samples_of(families), now


def metrics_data(
    families: Iterable[Family], who: Resource, *, start: int, now: int, delta: bool
) -> MetricsData:
    """Give figures as the SDK's exporters take them.

    Args:
        families: the figures.
        who: tells.
        start, now: what they cover, epoch ns.
        delta: whether the next ones begin where these end.
    """
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Gauge,
        Histogram,
        Metric,
        MetricsData,
        ResourceMetrics,
        ScopeMetrics,
        Sum,
    )
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE

    def data(family: Family) -> Sum | Gauge | Histogram:
        if family.instrument.kind is Kind.HISTOGRAM:
            points = [
                _distribution_point(family, labels, value, start, now)
                for labels, value in family.samples.items()
            ]
            return Histogram(points, temporality)
        numbers = [
            _number_point(family, labels, value, start, now) for labels, value in family.samples.items()
        ]
        if family.instrument.kind is Kind.GAUGE:
            return Gauge(numbers)
        return Sum(numbers, temporality, is_monotonic=True)

    metrics: list[Metric] = [
        Metric(family.instrument.name, family.instrument.help, family.instrument.unit, data(family))
        for family in families
        if family.samples
    ]
    scope = ScopeMetrics(InstrumentationScope(SCOPE, schema_url=SCHEMA_URL), metrics, SCHEMA_URL)
    return MetricsData([ResourceMetrics(who, [scope], SCHEMA_URL)])


def _number_point(family: Family, labels: Labels, value: Value, start: int, now: int) -> NumberDataPoint:
    from opentelemetry.sdk.metrics.export import NumberDataPoint

    assert not isinstance(value, Distribution)
    return NumberDataPoint(family.instrument.attributes(labels), start, now, value)


def _distribution_point(
    family: Family, labels: Labels, value: Value, start: int, now: int
) -> HistogramDataPoint:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    assert isinstance(value, Distribution)
    bounds = family.instrument.bounds
    return HistogramDataPoint(
        family.instrument.attributes(labels),
        start,
        now,
        value.count,
        value.total,
        value.counts,
        bounds,
        # Not known; the protocol may leave them out, though the SDK's own data never do.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
    )


def _interval_seconds(environ: Mapping[str, str]) -> float:
    given = environ.get(_INTERVAL, "").strip() or _DEFAULT_INTERVAL_MS
    if not (given.isascii() and given.isdigit() and 0 < int(given) <= 86_400_000):
        raise SettingsError(f"{_INTERVAL}={given!r}: give milliseconds from 1 to 86400000 (a day)")
    return int(given) / 1000


def _wants_delta(environ: Mapping[str, str]) -> bool:
    given = environ.get(_TEMPORALITY, "").strip().lower() or "cumulative"
    if given not in _TEMPORALITIES:
        raise SettingsError(
            f"{_TEMPORALITY}={given!r} is unknown{nearest(given, _TEMPORALITIES)} "
            f"(there are {', '.join(_TEMPORALITIES)})"
        )
    return given != "cumulative"


def _console() -> MetricExporter:
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

    # Results alone go to stdout.
    return ConsoleMetricExporter(out=sys.stderr, formatter=lambda data: f"{data.to_json(indent=None)}\n")


def _ending(metrics: Metrics, end: Callable[[], None]) -> Callable[[], None]:
    def end_for_good() -> None:
        end()
        metrics.end_export()

    return end_for_good


def _stop(pushes: Sequence[_Push]) -> None:
    patience = time.monotonic() + SHUTDOWN_SECONDS
    for push in pushes:
        push.end()
    for push in pushes:
        push.wait(max(0.0, patience - time.monotonic()))


def _nothing() -> None:
    """Shut down nothing: there is nothing of ours."""
