"""Plain confluent-kafka with Avro and validation by hand: what a program has before it is wrapped."""

from __future__ import annotations

import io
import struct
import sys
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaException, Producer

from benchmarks.clients import GATE_ASKED, KEYS, PLAIN_TOPIC, Pace, Stopwatch, Task, take_tasks
from benchmarks.contracts import AssignGate, request_of
from benchmarks.scene import Scene

_HEADER = struct.Struct(">bI")  # Confluent's wire format: magic byte, schema id
SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "AssignGate",
        "fields": [
            {"name": "tailnum", "type": "string"},
            {"name": "flight", "type": "string"},
            {"name": "origin", "type": "string"},
            {"name": "destination", "type": "string"},
            {"name": "scheduled_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "passengers", "type": "long"},
            {"name": "crew", "type": {"type": "array", "items": "string"}},
            {"name": "remarks", "type": "string"},
        ],
    }
)


def encoded(request: AssignGate) -> bytes:
    """Write a model as a program does that knows its schema's id."""
    data = io.BytesIO()
    data.write(_HEADER.pack(0, 1))
    fastavro.schemaless_writer(data, SCHEMA, request.model_dump())
    return data.getvalue()


def decoded(value: bytes) -> AssignGate:
    """Read a model by the schema that it was written by."""
    return AssignGate.model_validate(fastavro.schemaless_reader(io.BytesIO(value[5:]), SCHEMA, None))


def producer(scene: Scene) -> None:
    """Take tasks from stdin until it ends."""
    client = Producer(properties(scene, **SENDING))

    def failed(error: Any, _: Any) -> None:
        if error is not None:
            raise KafkaException(error)

    def send(task: Task) -> Pace:
        watch = Stopwatch()
        watch.start()
        for number in range(task.messages):
            request = request_of(number % KEYS)
            client.produce(PLAIN_TOPIC, encoded(request), request.tailnum, on_delivery=failed)
            client.poll(0)
        client.flush()
        return watch.pace()

    take_tasks(send)


def consumer(scene: Scene) -> None:
    """Take tasks from stdin until it ends."""

    def receive(task: Task) -> Pace:
        client, watch = Consumer(properties(scene, **receiving(task))), Stopwatch()
        client.subscribe([GATE_ASKED.name])
        taken = 0
        while taken < task.messages:
            message = client.poll(1.0)
            if message is None:
                continue
            if message.error() is not None:
                raise KafkaException(message.error())
            watch.start()
            value = message.value()
            assert value is not None  # nobody writes others
            assert decoded(value).passengers
            taken += 1
        pace = watch.pace()
        client.close()
        return pace

    take_tasks(receive)


_COMMIT_INTERVAL_MS = 200  # as often as services of the mesh commit

SENDING = {"enable.idempotence": True, "linger.ms": 5}


def receiving(task: Task) -> dict[str, Any]:
    """Give the properties of a consumer, wrapped or not."""
    return {
        "group.id": task.group,
        "auto.offset.reset": "earliest",
        "auto.commit.interval.ms": _COMMIT_INTERVAL_MS,
    }


def properties(scene: Scene, **more: Any) -> dict[str, Any]:
    """Give the properties of a client, wrapped or not."""
    return {"bootstrap.servers": scene.bootstrap_servers, "log_level": 0, **more}


if __name__ == "__main__":
    {"producer": producer, "consumer": consumer}[sys.argv[1]](Scene.model_validate_json(sys.argv[2]))
