"""FastStream with either of its Kafka back ends: JSON from and to pydantic models, each message confirmed.

It has no request and reply for Kafka of its own: a reply goes where its request says, and finds it by correlation id.
Run with the back end before the role: `confluent` or `aiokafka`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from typing import Any

from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.contracts import AssignGate, GateAssigned, reply_to, request_of
from benchmarks.driving import Ask, take_orders
from benchmarks.load import ANSWER_PATIENCE_SECONDS, Order
from benchmarks.scene import Scene

_WORKERS = 100  # as many handlers at once as the mesh has by default
_PROBE_SECONDS = 1.0


async def callee(backend: str, scene: Scene) -> None:
    """Answer requests until stdin ends."""
    requests, _ = _topics(backend, scene)
    await asyncio.to_thread(_make_topics, backend, scene)
    broker = _broker(backend, scene)

    async def assign_gate(request: AssignGate) -> GateAssigned:
        return reply_to(request)

    broker.subscriber(
        requests,
        group_id=f"{backend}-{scene.group}",
        auto_offset_reset="earliest",
        max_workers=_WORKERS,
    )(assign_gate)
    async with broker:
        await broker.start()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def caller(backend: str, scene: Scene) -> None:
    """Do what stdin says until it ends."""
    requests, replies = _topics(backend, scene)
    broker = _broker(backend, scene)
    waiting: dict[str, asyncio.Future[GateAssigned]] = {}
    ids = itertools.count()

    async def assigned(reply: GateAssigned, message: Any) -> None:
        answer = waiting.pop(message.correlation_id, None)
        if answer is not None:
            answer.set_result(reply)

    assigned.__annotations__["message"] = _message_type(backend)  # FastStream injects by annotation
    broker.subscriber(
        replies, group_id=f"{backend}-callers-{scene.name}-{os.getpid()}", auto_offset_reset="latest"
    )(assigned)

    async def ask(number: int) -> GateAssigned:
        request, identity = request_of(number), str(next(ids))
        answer: asyncio.Future[GateAssigned] = asyncio.get_running_loop().create_future()
        waiting[identity] = answer
        await broker.publish(
            request,
            requests,
            key=request.tailnum.encode(),
            reply_to=replies,
            correlation_id=identity,
        )
        return await answer

    def ask_of(_: Order) -> Ask:
        return ask

    async with broker:
        await broker.start()
        async with asyncio.timeout(ANSWER_PATIENCE_SECONDS):
            while True:  # until both groups have their partitions: nothing else tells
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ask(0), _PROBE_SECONDS)
                    break
        await take_orders(ask_of)


def _broker(backend: str, scene: Scene) -> Any:
    # The two back ends have no common class.
    if backend == "confluent":
        from faststream.confluent import KafkaBroker as ConfluentBroker

        return ConfluentBroker(scene.bootstrap_servers, acks="all", logger=None)
    from faststream.kafka import KafkaBroker

    return KafkaBroker(scene.bootstrap_servers, acks="all", logger=None)


def _message_type(backend: str) -> Any:
    if backend == "confluent":
        from faststream.confluent.annotations import KafkaMessage as ConfluentMessage

        return ConfluentMessage
    from faststream.kafka.annotations import KafkaMessage

    return KafkaMessage


def _topics(backend: str, scene: Scene) -> tuple[str, str]:
    return f"faststream-{backend}-{scene.name}.requests", f"faststream-{backend}-{scene.name}.replies"


def _make_topics(backend: str, scene: Scene) -> None:
    admin = AdminClient({"bootstrap.servers": scene.bootstrap_servers})  # kept: its futures end with it
    topics = [NewTopic(name, scene.partitions, 1) for name in _topics(backend, scene)]
    for made in admin.create_topics(topics).values():
        made.result()


if __name__ == "__main__":
    asyncio.run(
        {"callee": callee, "caller": caller}[sys.argv[2]](sys.argv[1], Scene.model_validate_json(sys.argv[3]))
    )
