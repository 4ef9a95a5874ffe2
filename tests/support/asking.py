"""Asks several questions about topics and groups at once, with clients that know nothing yet, and ends at once.

`python -m tests.support.asking SERVERS TOPIC…`
"""

from __future__ import annotations

import asyncio
import sys

from broker_mesh.kafka.groups import Groups
from broker_mesh.settings import Settings

ROUNDS = 5


async def main() -> None:
    servers, *topics = sys.argv[1:]
    partitions = [(topic, number) for topic in topics for number in range(2)]
    for number in range(ROUNDS):
        groups = Groups(Settings(bootstrap_servers=servers), "asking")
        asked = [
            asyncio.create_task(question)
            for question in (
                groups.bounds(partitions),
                groups.bounds(partitions[:1]),
                groups.committed(f"group-{number}", partitions),
                groups.describe([f"group-{number}"]),
                groups.names(),
            )
        ]
        await asyncio.gather(*(asked if number % 2 else asked[:1]))
        for question in asked:
            question.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
