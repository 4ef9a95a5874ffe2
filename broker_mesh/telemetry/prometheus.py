"""Metrics as Prometheus scrapes them: the mesh's own figures in its text format, or in OpenMetrics where it asks so.

Beside the way of a message. Names follow OpenTelemetry's rules for Prometheus
(https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/): dots become underscores, units
are written out, counters end with `_total`. Labels are shorter: `operation` for `mesh.operation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from broker_mesh.telemetry.aggregation import Distribution, Family, Instrument, Kind
from broker_mesh.telemetry.metrics import Metrics

MetricFamily = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Source(NamedTuple):
    """Figures of one process.

    Args:
        labels: what tells it from others, added to each of its figures.
        families: the figures.
    """

    labels: Mapping[str, str]
    families: Sequence[Family]


Look = Callable[[], Sequence[Source]]
"""Gives the figures of one process or of several, with the same names of labels; called on the server's threads."""


class MeshCollector(Collector):
    """A mesh's metrics for a program's own registry: `REGISTRY.register(MeshCollector(fleet.metrics))`.

    Args:
        metrics: of a mesh.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[MetricFamily]:
        """Give the figures as they are now."""
        return families([Source({}, self._metrics.collect())])


class Exposition:
    """What is answered to a scrape: the figures, and those of this process itself (`process_…`, `python_…`).

    Args:
        look: gives the figures.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in (self, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    def collect(self) -> Iterator[MetricFamily]:
        """Give the figures as they are now, to the registry."""
        return families(self._look())

    def answer(self, accept: str) -> tuple[str, bytes]:
        """Give the content type and the body.

        Args:
            accept: the request's header of that name, by which Prometheus asks for OpenMetrics; empty for none.
        """
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)


def families(sources: Iterable[Source]) -> Iterator[MetricFamily]:
    """Give the figures as prometheus-client has them; one family of each instrument, for all sources together."""
    gathered: dict[str, MetricFamily] = {}
    for source in sources:
        for family in source.families:
            instrument = family.instrument
            if instrument.name not in gathered:
                names = [*source.labels, *(label.short for label in instrument.labels)]
                gathered[instrument.name] = _family(instrument, names)
            made = gathered[instrument.name]
            for labels, value in family.samples.items():
                _add(made, [*source.labels.values(), *labels], value, instrument.bounds)
    yield from gathered.values()


def metric_name(instrument: Instrument) -> str:
    """Give an instrument's name in Prometheus, without what its samples end with."""
    name = instrument.name.replace(".", "_")
    return f"{name}_seconds" if instrument.unit == "s" else name


def _family(instrument: Instrument, labels: Sequence[str]) -> MetricFamily:
    name, unit = metric_name(instrument), "seconds" if instrument.unit == "s" else ""
    match instrument.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(name, instrument.help, labels=labels, unit=unit)
        case Kind.GAUGE:
            return GaugeMetricFamily(name, instrument.help, labels=labels, unit=unit)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(name, instrument.help, labels=labels, unit=unit)


def _add(made: MetricFamily, labels: list[str], value: float | Distribution, bounds: Sequence[float]) -> None:
    if isinstance(made, HistogramMetricFamily):
        assert isinstance(value, Distribution)
        names = [*(str(float(bound)) for bound in bounds), "+Inf"]
        made.add_metric(labels, list(zip(names, accumulate(value.counts), strict=True)), value.total)
    else:
        assert not isinstance(value, Distribution)
        made.add_metric(labels, value)
