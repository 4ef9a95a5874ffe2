"""What OpenTelemetry's variables say about exporting, the same for spans and for metrics.

Beside the way of a message. Variables as in
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/; a wrong one stops the start.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from broker_mesh.errors import SettingsError
from broker_mesh.settings import nearest

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

_EXPORTERS = ("otlp", "console", "none")


class Signal(NamedTuple):
    """A kind of telemetry.

    Args:
        name: as in the variables' names.
        module: of its OTLP exporters, beneath those of the protocol.
        exporter: the class there.
    """

    name: str
    module: str
    exporter: str

    @property
    def endpoint_variables(self) -> tuple[str, str]:
        """The variables that say where to, the more specific one first."""
        return f"OTEL_EXPORTER_OTLP_{self.name}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"

    @property
    def protocol_variables(self) -> tuple[str, str]:
        """The variables that say how, the more specific one first."""
        return f"OTEL_EXPORTER_OTLP_{self.name}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"


TRACES: Final = Signal("TRACES", "trace_exporter", "OTLPSpanExporter")
METRICS: Final = Signal("METRICS", "metric_exporter", "OTLPMetricExporter")


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Tell whether OTEL_SDK_DISABLED turns all of it off."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def exporter_names(signal: Signal, environ: Mapping[str, str]) -> list[str]:
    """Tell which exporters are asked for; an endpoint alone asks for OTLP.

    Raises:
        SettingsError: there is no such exporter.
    """
    variable = f"OTEL_{signal.name}_EXPORTER"
    given = environ.get(variable, "").strip()
    if not given:
        return ["otlp"] if any(environ.get(name) for name in signal.endpoint_variables) else []
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in _EXPORTERS:
            hint = (
                ": Prometheus is answered by 'mesh run --metrics-port'"
                if signal is METRICS and name == "prometheus"
                else nearest(name, _EXPORTERS)
            )
            raise SettingsError(
                f"{variable}={given!r}: no exporter {name!r}{hint} (there are {', '.join(_EXPORTERS)})"
            )
    return [name for name in names if name != "none"]


def otlp_exporter(signal: Signal, environ: Mapping[str, str]) -> Any:
    """Make the exporter that the variables ask for: OpenTelemetry's own, for this signal.

    Raises:
        SettingsError: the protocol is not known or not installed, the endpoint is no URL, or a finer setting is wrong.
    """
    variables = signal.protocol_variables
    variable = next((name for name in variables if environ.get(name)), variables[-1])
    protocol = environ.get(variable) or "http/protobuf"
    if protocol == "http/protobuf":
        _check_endpoint(signal, environ)
        package = "opentelemetry.exporter.otlp.proto.http"
    elif protocol == "grpc":
        package = "opentelemetry.exporter.otlp.proto.grpc"
    else:
        raise SettingsError(f"{variable}={protocol!r} is not supported: write 'http/protobuf' or 'grpc'")
    try:
        return getattr(importlib.import_module(f"{package}.{signal.module}"), signal.exporter)()
    except ImportError as error:
        raise SettingsError(
            f"{variable}={protocol!r}: its exporter is not installed: install opentelemetry-exporter-otlp-proto-grpc, "
            "or write 'http/protobuf'"
        ) from error
    except ValueError as error:  # newer versions warn instead, and go on with a default
        raise SettingsError(f"an OTEL_EXPORTER_OTLP_* variable is wrong: {error}") from error


def resource(service: str, version: str, instance: str) -> Resource:
    """Say who tells: the service's own names, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say others."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {"service.name": service, "service.version": version, "service.instance.id": instance}
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in given})


def _check_endpoint(signal: Signal, environ: Mapping[str, str]) -> None:
    variable = next((name for name in signal.endpoint_variables if environ.get(name)), None)
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
