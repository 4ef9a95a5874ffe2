"""Metrics in an application's own meter provider: observed there, in instruments that cost nothing by message.

Beside the way of a message. OpenTelemetry has no histogram that is observed: each of the mesh's is three counters
there, `<name>.count`, `<name>.sum`, and `<name>.bucket` with the attribute `le` (how many were at most that), from
which the same quantiles are computed as from a histogram of Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate

from opentelemetry import metrics as api
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from broker_mesh.layers.trace import SCHEMA_URL
from broker_mesh.telemetry import instruments
from broker_mesh.telemetry.aggregation import Distribution, Instrument, Kind, Samples, since
from broker_mesh.telemetry.metrics import Metrics

_SCOPE = "broker_mesh"


def has_meter_provider() -> bool:
    """Tell whether the application has set a meter provider; what stands for none has no public name."""
    return not type(api.get_meter_provider()).__name__.startswith("_Proxy")


def observe(metrics: Metrics, instance: str) -> Callable[[], None]:
    """Have the application's meter provider observe metrics.

    Args:
        metrics: to be observed.
        instance: tells this mesh from others of the same process: an attribute of the scope.

    Returns:
        A function that ends it; instruments can't be taken back, but observe nothing from then on.
    """
    meter = api.get_meter_provider().get_meter(
        _SCOPE, schema_url=SCHEMA_URL, attributes={"service.instance.id": instance}
    )
    observed = _Observed(metrics)
    for instrument in instruments.ALL:
        _make(meter, instrument, observed)
    return observed.end


class _Observed:
    """Metrics as long as they are observed."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics: Metrics | None = metrics

    def end(self) -> None:
        """Observe nothing from now on."""
        self._metrics = None

    def samples(self, instrument: Instrument) -> Samples:
        """Give an instrument's figures."""
        metrics = self._metrics
        if metrics is None:
            return {}
        return next(
            family.samples
            for family in since(metrics.collect(), metrics.exported)
            if family.instrument.name == instrument.name
        )


def _make(meter: Meter, instrument: Instrument, observed: _Observed) -> None:
    name, unit, text = instrument.name, instrument.unit, instrument.help

    def numbers(_: CallbackOptions) -> Iterable[Observation]:
        for labels, value in observed.samples(instrument).items():
            assert not isinstance(value, Distribution)
            yield Observation(value, instrument.attributes(labels))

    def distributions(figure: Callable[[Distribution], float]) -> Callable[..., Iterable[Observation]]:
        def observations(_: CallbackOptions) -> Iterable[Observation]:
            for labels, value in observed.samples(instrument).items():
                assert isinstance(value, Distribution)
                yield Observation(figure(value), instrument.attributes(labels))

        return observations

    def buckets(_: CallbackOptions) -> Iterable[Observation]:
        for labels, value in observed.samples(instrument).items():
            assert isinstance(value, Distribution)
            given = instrument.attributes(labels)
            for bound, count in zip((*instrument.bounds, "+Inf"), accumulate(value.counts), strict=True):
                yield Observation(count, {**given, "le": str(bound)})

    match instrument.kind:
        case Kind.COUNTER:
            meter.create_observable_counter(name, [numbers], unit, text)
        case Kind.GAUGE:
            meter.create_observable_gauge(name, [numbers], unit, text)
        case Kind.HISTOGRAM:
            count, total = distributions(lambda value: value.count), distributions(lambda value: value.total)
            meter.create_observable_counter(f"{name}.count", [count], "1", f"{text} How many.")
            meter.create_observable_counter(f"{name}.sum", [total], unit, f"{text} Their sum.")
            meter.create_observable_counter(
                f"{name}.bucket", [buckets], "1", f"{text} How many at most `le`."
            )
