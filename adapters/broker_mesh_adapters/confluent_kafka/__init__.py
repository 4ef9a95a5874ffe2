"""confluent_kafka behind the mesh: its names, with producers and consumers that go through every layer.

On the way of a message: between a program and its own client of Kafka. One changed line is enough:
``from broker_mesh_adapters.confluent_kafka import Producer, Consumer`` instead of ``from confluent_kafka import …``.
What is not a client (`KafkaError`, `TopicPartition`, `admin`, …) is confluent_kafka's own, passed on as it is.
"""

from __future__ import annotations

import types
from importlib import import_module
from typing import TYPE_CHECKING, Any

import confluent_kafka as plain

if TYPE_CHECKING:
    from broker_mesh_adapters.confluent_kafka.aio_consumer import AIOConsumer
    from broker_mesh_adapters.confluent_kafka.aio_producer import AIOProducer
    from broker_mesh_adapters.confluent_kafka.consumer import Consumer
    from broker_mesh_adapters.confluent_kafka.deserializing_consumer import DeserializingConsumer
    from broker_mesh_adapters.confluent_kafka.instrumentation import instrument
    from broker_mesh_adapters.confluent_kafka.message import Message
    from broker_mesh_adapters.confluent_kafka.producer import Producer
    from broker_mesh_adapters.confluent_kafka.refused import DeserializingShareConsumer, ShareConsumer
    from broker_mesh_adapters.confluent_kafka.serializing_producer import SerializingProducer
    from broker_mesh_adapters.confluent_kafka.wrap import wrap

__all__ = [
    "AIOConsumer",
    "AIOProducer",
    "Consumer",
    "DeserializingConsumer",
    "DeserializingShareConsumer",
    "Message",
    "Producer",
    "SerializingProducer",
    "ShareConsumer",
    "instrument",
    "wrap",
]

_HOMES = {
    "AIOConsumer": "aio_consumer",
    "AIOProducer": "aio_producer",
    "Consumer": "consumer",
    "DeserializingConsumer": "deserializing_consumer",
    "DeserializingShareConsumer": "refused",
    "Message": "message",
    "Producer": "producer",
    "SerializingProducer": "serializing_producer",
    "ShareConsumer": "refused",
    "instrument": "instrumentation",
    "wrap": "wrap",
}


def __getattr__(name: str) -> Any:
    """Give a wrapped client, or what confluent_kafka has under this name; its modules as well."""
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    elif not hasattr(plain, name) or isinstance(getattr(plain, name), types.ModuleType):
        value = _module(name)
    else:
        value = getattr(plain, name)
    globals()[name] = value
    return value


def _module(name: str) -> types.ModuleType:
    for package in (__name__, plain.__name__):  # what is not wrapped is the plain one
        try:
            return import_module(f"{package}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{package}.{name}":
                raise  # something that the module itself needs
    raise AttributeError(f"neither {__name__} nor confluent_kafka has {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *(name for name in dir(plain) if not name.startswith("_"))})
