"""Adds the total to each order: JSON from one topic to another, with FastStream."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from faststream import FastStream
from faststream.confluent import KafkaBroker, KafkaMessage, KafkaResponse

from broker_mesh import Mesh
from broker_mesh_adapters.faststream import MeshMiddleware

KAFKA = os.environ.get("KAFKA", "localhost:9092")
ORDERS, TOTALS = os.environ.get("ORDERS", "orders"), os.environ.get("TOTALS", "order-totals")
PRICES = json.loads(Path(os.environ.get("PRICES", "examples/prices.json")).read_text())

broker = KafkaBroker(KAFKA, middlewares=[MeshMiddleware(Mesh("pricing", bootstrap_servers=KAFKA))])


@broker.subscriber(
    ORDERS, group_id="faststream-orders", auto_offset_reset="earliest", session_timeout_ms=6000
)
@broker.publisher(TOTALS)
async def add_total(order: dict[str, Any], message: KafkaMessage) -> KafkaResponse:
    total = order["quantity"] * PRICES[order["item"]]
    return KafkaResponse(order | {"total": total}, key=message.raw_message.key())


if __name__ == "__main__":
    asyncio.run(FastStream(broker).run())
