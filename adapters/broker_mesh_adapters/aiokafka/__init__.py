"""aiokafka's clients behind the mesh: `from broker_mesh_adapters.aiokafka import AIOKafkaProducer, AIOKafkaConsumer`.

On the way of a message: around the program's own aiokafka client, on the program's own event loop. Both classes have
the methods of aiokafka's, with the same meaning, and take `mesh=` beside its arguments; docs/guide/wrapped-aiokafka.md
says what they add. All other public names are aiokafka's own, so that one changed import serves.
"""

from __future__ import annotations

from aiokafka import (
    AIOKafkaClient,
    ConsumerRebalanceListener,
    ConsumerRecord,
    ConsumerStoppedError,
    IllegalOperation,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    TopicPartition,
    abc,
    errors,
    helpers,
    structs,
)

from broker_mesh_adapters.aiokafka.consumer import AIOKafkaConsumer
from broker_mesh_adapters.aiokafka.producer import AIOKafkaProducer

__all__ = [
    "AIOKafkaClient",
    "AIOKafkaConsumer",
    "AIOKafkaProducer",
    "ConsumerRebalanceListener",
    "ConsumerRecord",
    "ConsumerStoppedError",
    "IllegalOperation",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "TopicPartition",
    "abc",
    "errors",
    "helpers",
    "structs",
]
