"""A program that reads a topic through a wrapped aiokafka consumer, as a process of its own; to be killed.

    python -m tests.support.aio_worker BOOTSTRAP SERVICE TOPIC GROUP EFFECTS ORDERING

Each message that was worked on is a line of EFFECTS: value, attempt. What ends with 7 fails at its first attempt.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from broker_mesh import Retry
from broker_mesh_adapters.aiokafka import AIOKafkaConsumer
from tests.support.fleet import append_to, make_mesh


async def main() -> None:
    servers, service, topic, group, effects, ordering = sys.argv[1:]
    record = append_to(Path(effects))
    async with AIOKafkaConsumer(
        topic,
        mesh=make_mesh(service, servers),
        ordering=ordering,  # type: ignore[arg-type]
        retry=Retry(attempts=3, backoff=0.05, max_backoff=0.1),
        group_id=group,
        auto_offset_reset="earliest",
        auto_commit_interval_ms=50,
        group_instance_id="worker",  # who is started anew has its partitions at once, not when a session ends
        heartbeat_interval_ms=200,
        fetch_max_wait_ms=50,
    ) as consumer:
        print("ready", flush=True)
        async for message in consumer:
            async with message.settling():
                await asyncio.sleep(0.002)
                if message.value.endswith(b"7") and message.attempt == 1:
                    raise ValueError("not at the first attempt")
                record(f"{message.key.decode()} {message.value.decode()} {message.attempt}")


if __name__ == "__main__":
    asyncio.run(main())
