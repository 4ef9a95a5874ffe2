"""confluent_kafka.aio behind the mesh: its names.

On the way of a message: as the package beside it, for programs with an event loop.
"""

from __future__ import annotations

from broker_mesh_adapters.confluent_kafka.aio_consumer import AIOConsumer
from broker_mesh_adapters.confluent_kafka.aio_producer import AIOProducer
from broker_mesh_adapters.confluent_kafka.refused import AsyncDeserializingConsumer, AsyncSerializingProducer

__all__ = ["AIOConsumer", "AIOProducer", "AsyncDeserializingConsumer", "AsyncSerializingProducer"]
