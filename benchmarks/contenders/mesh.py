"""Broker Mesh with its default settings and all its layers: Avro, validation, headers, trace context, settlement.

No exporter is set, so that trace context is made and passed on, but no span is recorded.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path

from benchmarks.contracts import ASSIGN_GATE, PARTITIONS, AssignGate, GateAssigned, reply_to, request_of
from benchmarks.load import ANSWER_PATIENCE_SECONDS, Load, Measurement, Window, cpu_seconds
from broker_mesh import Context, Mesh


async def callee(bootstrap_servers: str) -> None:
    """Answer requests until stdin ends."""
    gates = _mesh("gates", bootstrap_servers)

    @gates.operation(ASSIGN_GATE)
    async def assign_gate(request: AssignGate, context: Context) -> GateAssigned:  # noqa: ARG001 - see Mesh.operation
        return reply_to(request)

    async with gates.serving() as service:
        print("ready", flush=True)
        failure = asyncio.create_task(service.failure())
        stop = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait([failure, stop], return_when=asyncio.FIRST_COMPLETED)
        if failure.done():
            failure.result()
        failure.cancel()


async def caller(bootstrap_servers: str) -> None:
    """Take loads from stdin until it ends."""
    async with _mesh("ground", bootstrap_servers) as ground:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            measured = await _drive(Load.model_validate_json(line), ground)
            print(measured.model_dump_json(), flush=True)


async def _drive(load: Load, ground: Mesh) -> Measurement:
    window = Window(load, time.perf_counter, cpu_seconds)
    numbers = itertools.count()

    async def ask() -> None:
        while not window.closed:
            request = request_of(next(numbers))
            sent_at = time.perf_counter()
            await ground.request(ASSIGN_GATE, request, timeout=ANSWER_PATIENCE_SECONDS)
            window.answered(sent_at, time.perf_counter())

    async with asyncio.TaskGroup() as asking:
        for _ in range(load.in_flight):
            asking.create_task(ask())
    return window.measurement()


def _mesh(service: str, bootstrap_servers: str) -> Mesh:
    # Neither this machine's environment nor its mesh.toml or schema files: the same for whoever runs it.
    here = Path(__file__).parent
    return Mesh(
        service, bootstrap_servers=bootstrap_servers, environ={}, directory=here, partitions=PARTITIONS
    )


if __name__ == "__main__":
    asyncio.run({"callee": callee, "caller": caller}[sys.argv[1]](sys.argv[2]))
