"""confluent_kafka's serializing producer behind the mesh.

On the way of a message: a program's `produce()` of objects; its serializers make bytes of them, which pass the mesh.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import confluent_kafka as plain

from broker_mesh import Mesh
from broker_mesh.adapter import Declaration
from broker_mesh_adapters.confluent_kafka.producer import Producer

K = TypeVar("K")
V = TypeVar("V")


class SerializingProducer(plain.SerializingProducer[K, V], Producer):  # type: ignore[misc]  # key and value change places
    """`confluent_kafka.SerializingProducer`, whose messages pass the mesh.

    Serializers and their errors are confluent_kafka's own (`KeySerializationError`, `ValueSerializationError`). Where
    the configuration names no serializer of values, a model or a mapping is encoded by the mesh.

    Args:
        conf: as for `confluent_kafka.SerializingProducer`.
        mesh, declared: as for `Producer`.

    Raises:
        ValueError: a serializer and its builder are both configured.
        MeshError: as `Producer`.
    """

    # The class before this in the order of inheritance serializes, and passes bytes on to `Producer.produce`.

    def __init__(self, conf: dict[str, Any], *, mesh: Mesh, declared: Iterable[Declaration] = ()) -> None:
        self._mesh_given = mesh, declared
        super().__init__(conf)
