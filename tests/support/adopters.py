"""A program that reads a topic through a wrapped consumer: `python -m tests.support.adopters SERVICE TOPIC COUNT`.

It prints a JSON line for each message, `[partition, offset, kind of its data]`, and ends once it has so many and all
that it did not get is dealt with too: what is refused behind the last of them never comes.
"""

from __future__ import annotations

import json
import sys
import time

from broker_mesh import Mesh
from broker_mesh_adapters.confluent_kafka import Consumer

_PATIENCE_SECONDS = 60.0


def main(service: str, topic: str, count: int) -> None:
    consumer = Consumer(
        {"group.id": service, "auto.offset.reset": "earliest", "auto.commit.interval.ms": 100},
        mesh=Mesh(service),
    )
    consumer.subscribe([topic])
    deadline = time.monotonic() + _PATIENCE_SECONDS
    got = 0
    while (got < count or not is_settled(consumer)) and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is None:
            continue
        if (error := message.error()) is not None:
            raise SystemExit(str(error))
        sys.stdout.write(
            json.dumps([message.partition(), message.offset(), type(message.data).__name__]) + "\n"
        )
        got += 1
    consumer.close()


def is_settled(consumer: Consumer) -> bool:
    """Whether everything in the assigned partitions is committed."""
    return all(
        place.offset == consumer.get_watermark_offsets(place)[1]
        for place in consumer.committed(consumer.assignment(), timeout=10)
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
