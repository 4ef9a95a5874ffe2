"""Adds the total to each order: JSON from one topic to another, with Quix Streams."""

import json
import os
from pathlib import Path
from typing import Any

from quixstreams import Application

from broker_mesh import Mesh
from broker_mesh_adapters.quixstreams import behind

KAFKA = os.environ.get("KAFKA", "localhost:9092")
ORDERS, TOTALS = os.environ.get("ORDERS", "orders"), os.environ.get("TOTALS", "order-totals")
PRICES = json.loads(Path(os.environ.get("PRICES", "examples/prices.json")).read_text())


def add_total(order: dict[str, Any]) -> dict[str, Any]:
    return order | {"total": order["quantity"] * PRICES[order["item"]]}


app = Application(
    broker_address=KAFKA,
    consumer_group="quix-orders",
    auto_offset_reset="earliest",
    commit_interval=1.0,
    consumer_extra_config={"session.timeout.ms": 6000},
    **behind(Mesh("pricing", bootstrap_servers=KAFKA)),
)
orders = app.topic(ORDERS, value_deserializer="json")
totals = app.topic(TOTALS, value_serializer="json")
app.dataframe(orders).apply(add_total).to_topic(totals)

if __name__ == "__main__":
    app.run()
