"""A program that reads a topic through a wrapped consumer: `python -m tests.support.adopters SERVICE TOPIC COUNT`.

It prints a JSON line for each message, `[partition, offset, kind of its data]`, and ends once it has so many.
"""

from __future__ import annotations

import json
import sys
import time

from broker_mesh import Mesh
from broker_mesh_adapters.confluent_kafka import Consumer

_PATIENCE_SECONDS = 60.0


def main(service: str, topic: str, count: int) -> None:
    consumer = Consumer({"group.id": service, "auto.offset.reset": "earliest"}, mesh=Mesh(service))
    consumer.subscribe([topic])
    deadline = time.monotonic() + _PATIENCE_SECONDS
    got = 0
    while got < count and time.monotonic() < deadline:
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


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
