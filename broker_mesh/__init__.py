"""Broker Mesh: a durable service mesh on Apache Kafka.

What is named here is the public surface; `broker_mesh.errors` has the whole tree of errors. Names are imported
when they are first used (PEP 562), so that `mesh --help` and modules of declarations stay quick to load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker_mesh.client import Handle
    from broker_mesh.context import Context
    from broker_mesh.errors import MeshError
    from broker_mesh.layers.retry import Retry
    from broker_mesh.mesh import Mesh
    from broker_mesh.message import Receipt
    from broker_mesh.operation import Event, Operation
    from broker_mesh.status import StatusCode

__all__ = [
    "Context",
    "Event",
    "Handle",
    "Mesh",
    "MeshError",
    "Operation",
    "Receipt",
    "Retry",
    "StatusCode",
]

_HOMES = {
    "Context": "context",
    "Event": "operation",
    "Handle": "client",
    "Mesh": "mesh",
    "MeshError": "errors",
    "Operation": "operation",
    "Receipt": "message",
    "Retry": "layers.retry",
    "StatusCode": "status",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
