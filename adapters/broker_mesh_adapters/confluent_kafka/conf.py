"""The configuration of a wrapped client: the program's own, with the mesh's addresses and security where it has none.

On the way of a message: before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker_mesh import Mesh
from broker_mesh.errors import SettingsError

_ADDRESSES = ("bootstrap.servers", "metadata.broker.list")  # two names of one property

# How a client proves who it is, and whom it believes. It is taken from one place: the program, or the mesh.
_SECURITY = ("security.", "sasl.", "ssl.", "enable.ssl.", "enable.sasl.", "https.", "oauth_cb")


def given(args: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Join what a program hands to a constructor, as confluent_kafka does: a dict, properties by name, or both.

    Raises:
        TypeError: it is no such thing; with the words of confluent_kafka.
    """
    if len(args) > 1:
        raise TypeError("expected tuple containing single dict")
    if (args and not isinstance(args[0], dict)) or not (args or named):
        raise TypeError("expected configuration dict")
    return {**(args[0] if args else {}), **named}


def completed(conf: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Add what a client's configuration leaves to the mesh.

    Args:
        conf: the program's; nothing in it is changed.
        mesh: whose Kafka it is.

    Raises:
        SettingsError: `mesh` is no mesh.
        Unavailable: neither the program nor the mesh has an address of Kafka.
    """
    if not isinstance(mesh, Mesh):
        raise SettingsError(f"mesh is {mesh!r}: give a Mesh(…), as in Producer(conf, mesh=Mesh('orders'))")
    added: dict[str, Any] = {}
    if not any(conf.get(name) for name in _ADDRESSES):
        added["bootstrap.servers"] = mesh.reachable_settings().bootstrap_servers
    if not any(name.startswith(_SECURITY) for name in conf):
        added |= {name: value for name, value in mesh.settings.kafka.items() if name.startswith(_SECURITY)}
    return {**conf, **added}
