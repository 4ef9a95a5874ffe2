"""Clients of confluent_kafka that the mesh does not wrap: making one says so, and what to use.

On the way of a message: nowhere. A program that took the plain class for a wrapped one would go round every layer.
"""

from __future__ import annotations

from typing import Any, NoReturn

from broker_mesh.errors import Unimplemented


class _Refused:
    instead = ""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._refuse()

    @classmethod
    def _refuse(cls) -> NoReturn:
        raise Unimplemented(
            f"{cls.__name__} is not wrapped: {cls.instead}, or import it from confluent_kafka to go without the mesh"
        )


class ShareConsumer(_Refused):
    """Refused: a share group keeps neither order nor attempts, which the mesh's retries rest on."""

    instead = (
        "use Consumer with ordering='none', which spreads work over its members as far as partitions allow"
    )


class DeserializingShareConsumer(_Refused):
    """Refused, as `ShareConsumer`."""

    instead = "use DeserializingConsumer with ordering='none'"


class AsyncSerializingProducer(_Refused):
    """Refused: its constructor is a coroutine of confluent_kafka's own."""

    instead = "await the serializer, and give AIOProducer the bytes"


class AsyncDeserializingConsumer(_Refused):
    """Refused, as `AsyncSerializingProducer`."""

    instead = "use AIOConsumer, and await the deserializer or take a message's .data"
