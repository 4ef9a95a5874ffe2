"""Confluent-kafka behind the mesh: the same program, with schemas, access, tracing, retries and metrics around it."""

from __future__ import annotations

import sys
from typing import Any

from confluent_kafka import KafkaException

from benchmarks.clients import GATE_ASKED, KEYS, Pace, Stopwatch, Task, take_tasks
from benchmarks.contenders.mesh import mesh
from benchmarks.contenders.plain_client import SENDING, properties, receiving
from benchmarks.contracts import request_of
from benchmarks.scene import Scene
from broker_mesh_adapters.confluent_kafka import Consumer, Producer


def producer(scene: Scene) -> None:
    """Take tasks from stdin until it ends."""
    client = Producer(properties(scene, **SENDING), mesh=mesh("gates", scene), declared=[GATE_ASKED])

    def failed(error: Any, _: Any) -> None:
        if error is not None:
            raise KafkaException(error)

    def send(task: Task) -> Pace:
        watch = Stopwatch()
        watch.start()
        for number in range(task.messages):
            request = request_of(number % KEYS)
            client.produce(GATE_ASKED.name, request, request.tailnum, on_delivery=failed)
            client.poll(0)
        client.flush()
        return watch.pace()

    take_tasks(send)
    client.close()


def consumer(scene: Scene) -> None:
    """Take tasks from stdin until it ends."""
    ground = mesh("ground", scene)

    def receive(task: Task) -> Pace:
        watch = Stopwatch()
        client = Consumer(properties(scene, **receiving(task)), mesh=ground, declared=[GATE_ASKED])
        client.subscribe([GATE_ASKED.name])
        taken = 0
        while taken < task.messages:
            message = client.poll(1.0)
            if message is None:
                continue
            if message.error() is not None:
                raise KafkaException(message.error())
            watch.start()
            assert message.data.passengers
            taken += 1
        pace = watch.pace()
        client.close()
        return pace

    take_tasks(receive)


if __name__ == "__main__":
    {"producer": producer, "consumer": consumer}[sys.argv[1]](Scene.model_validate_json(sys.argv[2]))
