"""Adds the total to each order: JSON from one topic to another, with aiokafka."""

import asyncio
import json
import os
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

KAFKA = os.environ.get("KAFKA", "localhost:9092")
ORDERS, TOTALS = os.environ.get("ORDERS", "orders"), os.environ.get("TOTALS", "order-totals")
PRICES = json.loads(Path(os.environ.get("PRICES", "examples/prices.json")).read_text())


async def main() -> None:
    consumer = AIOKafkaConsumer(
        ORDERS,
        bootstrap_servers=KAFKA,
        group_id="aiokafka-orders",
        auto_offset_reset="earliest",
        session_timeout_ms=6000,
    )
    async with AIOKafkaProducer(bootstrap_servers=KAFKA) as producer, consumer:
        async for message in consumer:
            order = json.loads(message.value)
            total = order["quantity"] * PRICES[order["item"]]
            value = json.dumps(order | {"total": total}).encode()
            await producer.send_and_wait(TOTALS, value, key=message.key)


if __name__ == "__main__":
    asyncio.run(main())
