"""Confluent-kafka behind the mesh: the same program, with schemas, access, tracing, retries and metrics around it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from benchmarks.clients import GATE_ASKED, KEYS, Pace, Stopwatch, Task, take_tasks
from benchmarks.contenders.plain_client import SENDING, properties, receiving
from benchmarks.contracts import PARTITIONS, request_of
from broker_mesh import Mesh
from broker_mesh_adapters.confluent_kafka import Consumer, Producer


def producer(bootstrap_servers: str) -> None:
    """Take tasks from stdin until it ends."""
    client = Producer(
        properties(bootstrap_servers, **SENDING), mesh=mesh("gates", bootstrap_servers), declared=[GATE_ASKED]
    )

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


def consumer(bootstrap_servers: str) -> None:
    """Take tasks from stdin until it ends."""
    ground = mesh("ground", bootstrap_servers)

    def receive(task: Task) -> Pace:
        watch = Stopwatch()
        client = Consumer(
            properties(bootstrap_servers, **receiving(task)), mesh=ground, declared=[GATE_ASKED]
        )
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


def mesh(service: str, bootstrap_servers: str) -> Mesh:
    """Make a mesh that reads neither this machine's environment nor its mesh.toml or schema files."""
    here = Path(__file__).parent
    return Mesh(
        service, bootstrap_servers=bootstrap_servers, environ={}, directory=here, partitions=PARTITIONS
    )


if __name__ == "__main__":
    {"producer": producer, "consumer": consumer}[sys.argv[1]](sys.argv[2])
