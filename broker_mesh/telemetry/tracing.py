"""Where spans go: the application's own tracer provider, one made of the OTEL_* variables, or nowhere.

On the way of a message: before it; `mesh.py` asks for one tracer and hands it to the trace layers. Variables
as in https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. Spans leave in
batches, from a thread of their own: a collector that is away costs spans, never messages.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import Tracer

from broker_mesh.errors import SettingsError
from broker_mesh.layers.trace import SCHEMA_URL
from broker_mesh.settings import nearest
from broker_mesh.telemetry import otlp
from broker_mesh.telemetry.contexts import ContextTracer
from broker_mesh.telemetry.quiet import quieten

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

SHUTDOWN_SECONDS = 2.0

_SCOPE = "broker_mesh"
_RATIO_SAMPLERS = ("traceidratio", "parentbased_traceidratio")
_SAMPLERS = ("always_on", "always_off", "parentbased_always_on", "parentbased_always_off", *_RATIO_SAMPLERS)


def tracer_for(
    service: str, version: str, instance: str, environ: Mapping[str, str]
) -> tuple[Tracer, Callable[[], None]]:
    """Make the tracer of a service's process.

    A tracer provider that the application has set is used as it is, and is the application's to shut down.
    Otherwise OTEL_* variables decide; without an exporter, trace context is made and passed on, not recorded.

    Args:
        service: `service.name`; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
        version: `service.version`; OTEL_RESOURCE_ATTRIBUTES wins.
        instance: `service.instance.id`; OTEL_RESOURCE_ATTRIBUTES wins.
        environ: decides whether and how spans are sampled and exported. The SDK reads its finer settings
            (headers, time-outs, certificates, resource, OTEL_BSP_*) from the process's environment itself.

    Returns:
        The tracer, and a function that sends what is left and returns after 2 seconds at most; it blocks.

    Raises:
        SettingsError: a variable is wrong; the sentence names it and what it may be.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, trace.ProxyTracerProvider):
        return provider.get_tracer(_SCOPE, schema_url=SCHEMA_URL), _nothing
    if otlp.is_disabled(environ):
        return trace.NoOpTracer(), _nothing
    names = otlp.exporter_names(otlp.TRACES, environ)
    sampler = _sampler_name(environ)
    if not names and sampler is None:
        quieten()
        return ContextTracer(), _nothing
    exporters = [
        _console() if name == "console" else otlp.otlp_exporter(otlp.TRACES, environ) for name in names
    ]
    own = _provider(otlp.resource(service, version, instance), _sampler(sampler, environ), exporters)
    quieten()
    return own.get_tracer(_SCOPE, schema_url=SCHEMA_URL), lambda: _shut_down(own, exporters)


def _sampler_name(environ: Mapping[str, str]) -> str | None:
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if name and name not in _SAMPLERS:
        raise SettingsError(
            f"OTEL_TRACES_SAMPLER={name!r} is unknown{nearest(name, _SAMPLERS)} (there are {', '.join(_SAMPLERS)})"
        )
    return name or None


def _sampler(name: str | None, environ: Mapping[str, str]) -> Sampler:
    from opentelemetry.sdk.trace import sampling

    if name in _RATIO_SAMPLERS:
        rate = _rate(environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1.0")
        ratio = sampling.TraceIdRatioBased(rate)
        return ratio if name == "traceidratio" else sampling.ParentBased(ratio)
    samplers = {
        "always_on": sampling.ALWAYS_ON,
        "always_off": sampling.ALWAYS_OFF,
        "parentbased_always_off": sampling.DEFAULT_OFF,
    }
    return samplers.get(name or "", sampling.DEFAULT_ON)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1.0:
        raise SettingsError(f"OTEL_TRACES_SAMPLER_ARG={text!r}: give a number from 0 to 1")
    return rate


def _provider(resource: Resource, sampler: Sampler, exporters: Sequence[SpanExporter]) -> TracerProvider:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Not at exit: Python would wait there for a collector that is away, up to 30 seconds.
    provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        try:
            provider.add_span_processor(BatchSpanProcessor(exporter))
        except ValueError as error:
            raise SettingsError(f"an OTEL_BSP_* variable is wrong: {error}") from error
    return provider


def _console() -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return ConsoleSpanExporter(out=sys.stderr)  # results alone go to stdout


def _shut_down(provider: TracerProvider, exporters: Sequence[SpanExporter]) -> None:
    # The SDK's own shutdown waits up to 30 seconds for an export that is under way, and takes no time limit.
    ending = threading.Thread(target=provider.shutdown, name="mesh-tracing-shutdown", daemon=True)
    ending.start()
    ending.join(SHUTDOWN_SECONDS)
    if ending.is_alive():
        for exporter in exporters:
            exporter.shutdown()  # ends the pauses between its tries, and with them the SDK's shutdown


def _nothing() -> None:
    """Shut down nothing: there is nothing of ours."""
