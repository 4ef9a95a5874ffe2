"""Where spans go: the application's own tracer provider, one made of the OTEL_* variables, or nowhere.

On the way of a message: before it; `mesh.py` asks for one tracer and hands it to the trace layers. Variables
as in https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. Spans leave in
batches, from a thread of their own: a collector that is away costs spans, never messages.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import Tracer

from broker_mesh.errors import SettingsError
from broker_mesh.layers.trace import SCHEMA_URL
from broker_mesh.settings import nearest
from broker_mesh.telemetry.contexts import ContextTracer
from broker_mesh.telemetry.quiet import quieten

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

SHUTDOWN_SECONDS = 2.0

_SCOPE = "broker_mesh"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = ("otlp", "console", "none")
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
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return trace.NoOpTracer(), _nothing
    names = _exporter_names(environ)
    sampler = _sampler_name(environ)
    if not names and sampler is None:
        quieten()
        return ContextTracer(), _nothing
    exporters = [_console() if name == "console" else _otlp(environ) for name in names]
    own = _provider(_resource(service, version, instance), _sampler(sampler, environ), exporters)
    quieten()
    return own.get_tracer(_SCOPE, schema_url=SCHEMA_URL), lambda: _shut_down(own, exporters)


def _exporter_names(environ: Mapping[str, str]) -> list[str]:
    given = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not given:
        return ["otlp"] if any(environ.get(name) for name in _ENDPOINTS) else []
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in _EXPORTERS:
            raise SettingsError(
                f"OTEL_TRACES_EXPORTER={given!r}: no exporter {name!r}{nearest(name, _EXPORTERS)} "
                f"(there are {', '.join(_EXPORTERS)})"
            )
    return [name for name in names if name != "none"]


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


def _resource(service: str, version: str, instance: str) -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {"service.name": service, "service.version": version, "service.instance.id": instance}
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in given})


def _console() -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return ConsoleSpanExporter(out=sys.stderr)  # results alone go to stdout


def _otlp(environ: Mapping[str, str]) -> SpanExporter:
    variable = next((name for name in _PROTOCOLS if environ.get(name)), _PROTOCOLS[-1])
    protocol = environ.get(variable) or "http/protobuf"
    if protocol == "http/protobuf":
        _check_endpoint(environ)
        module = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    elif protocol == "grpc":
        module = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
    else:
        raise SettingsError(f"{variable}={protocol!r} is not supported: write 'http/protobuf' or 'grpc'")
    try:
        exporter: SpanExporter = importlib.import_module(module).OTLPSpanExporter()
    except ImportError as error:
        raise SettingsError(
            f"{variable}={protocol!r}: its exporter is not installed: install opentelemetry-exporter-otlp-proto-grpc, "
            "or write 'http/protobuf'"
        ) from error
    return exporter


def _check_endpoint(environ: Mapping[str, str]) -> None:
    variable = next((name for name in _ENDPOINTS if environ.get(name)), None)
    if variable is None:
        return
    try:
        endpoint = urlsplit(environ[variable])
        is_url = endpoint.scheme in ("http", "https") and bool(endpoint.hostname)
    except ValueError:
        is_url = False
    if not is_url:
        raise SettingsError(
            f"{variable}={environ[variable]!r} is not a URL: write it as in 'http://localhost:4318'"
        )


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
