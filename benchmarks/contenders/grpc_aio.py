"""grpc.aio: bytes to an echo and back, without a broker, and so without any durability."""

from __future__ import annotations

import asyncio
import sys

import grpc

from benchmarks.contracts import RAW_VALUE
from benchmarks.driving import Ask, take_orders
from benchmarks.load import ANSWER_PATIENCE_SECONDS, Order
from benchmarks.scene import Scene

_SERVICE, _METHOD = "benchmarks.Gates", "AssignGate"


async def callee(_: Scene) -> None:
    """Answer requests until stdin ends; says the address it listens at."""

    async def assign_gate(request: bytes, _: object) -> bytes:
        return request

    # Neither schema nor generated code: without a serializer, gRPC takes and gives bytes.
    handlers = {_METHOD: grpc.unary_unary_rpc_method_handler(assign_gate)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(grace=None)


async def caller(scene: Scene) -> None:
    """Do what stdin says until it ends."""
    async with grpc.aio.insecure_channel(scene.callee) as channel:
        assign_gate = channel.unary_unary(f"/{_SERVICE}/{_METHOD}")

        async def ask(_: int) -> None:
            await assign_gate(RAW_VALUE, timeout=ANSWER_PATIENCE_SECONDS)

        def ask_of(_: Order) -> Ask:
            return ask

        await take_orders(ask_of)


if __name__ == "__main__":
    asyncio.run({"callee": callee, "caller": caller}[sys.argv[1]](Scene.model_validate_json(sys.argv[2])))
