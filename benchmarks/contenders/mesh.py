"""Broker Mesh with its default settings and all its layers: Avro, validation, access rules, headers, metrics,
retries, settlement. Traces are sampled, recorded and exported as the scene says.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path

from benchmarks.contracts import (
    AssignGate,
    GateAssigned,
    assign_gate,
    gate_asked,
    reply_to,
    request_of,
)
from benchmarks.contracts import callee as callee_of
from benchmarks.contracts import caller as caller_of
from benchmarks.driving import Ask, take_orders
from benchmarks.load import ANSWER_PATIENCE_SECONDS, Held, Hold, Load, Order, resident_bytes
from benchmarks.scene import Scene
from broker_mesh import Context, Mesh

_SENDING_AT_ONCE = 500


async def callee(scene: Scene) -> None:
    """Answer requests until stdin ends."""
    gates = mesh(callee_of(scene.name), scene)

    @gates.operation(assign_gate(scene.name))
    async def assign(request: AssignGate, context: Context) -> GateAssigned:  # noqa: ARG001 - see Mesh.operation
        return reply_to(request)

    async with gates.serving() as service:
        print("ready", flush=True)
        failure = asyncio.create_task(service.failure())
        stop = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait([failure, stop], return_when=asyncio.FIRST_COMPLETED)
        if failure.done():
            failure.result()
        failure.cancel()


async def caller(scene: Scene) -> None:
    """Do what stdin says until it ends."""
    operation, event = assign_gate(scene.name), gate_asked(scene.name)
    waiting: list[asyncio.Task[GateAssigned]] = []
    async with mesh(caller_of(scene.name), scene) as ground:

        def ask_of(order: Order) -> Ask:
            extra = order.extra_bytes if isinstance(order, Load) else 0
            if isinstance(order, Load) and order.way == "message":
                return lambda number: ground.publish(event, request_of(number, extra))
            return lambda number: ground.request(
                operation, request_of(number, extra), timeout=ANSWER_PATIENCE_SECONDS
            )

        async def hold(order: Hold) -> str:
            for first in range(0, order.calls, _SENDING_AT_ONCE):
                numbers = range(first, min(first + _SENDING_AT_ONCE, order.calls))
                handles = await asyncio.gather(
                    *(ground.call(operation, request_of(each)) for each in numbers)
                )
                waiting.extend(asyncio.create_task(handle.reply()) for handle in handles)
            await asyncio.sleep(0)  # all of them have begun to wait
            gc.collect()
            return Held(resident_bytes=resident_bytes()).model_dump_json()

        await take_orders(ask_of, hold)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def mesh(service: str, scene: Scene) -> Mesh:
    """Make a mesh that reads neither this machine's environment nor its mesh.toml: the same for whoever runs it."""
    here = Path(__file__).parent
    telemetry = _telemetry(scene)
    os.environ.update(telemetry)  # OpenTelemetry's exporters read their settings from there alone
    return Mesh(
        service,
        bootstrap_servers=scene.bootstrap_servers,
        environ=telemetry,
        directory=here,
        partitions=scene.partitions,
        policy=here.parent / "policy",
    )


def _telemetry(scene: Scene) -> dict[str, str]:
    if scene.sampled is None:
        return {}
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": scene.collector,  # of spans and metrics
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(scene.sampled),
    }


if __name__ == "__main__":
    asyncio.run({"callee": callee, "caller": caller}[sys.argv[1]](Scene.model_validate_json(sys.argv[2])))
