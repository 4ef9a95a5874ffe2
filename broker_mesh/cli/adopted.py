"""What is said of adopted topics, for the commands: by resources that were applied, else by mesh.toml."""

from __future__ import annotations

import asyncio

from broker_mesh.adoption import Adoption
from broker_mesh.cli.connection import Connection
from broker_mesh.control.apply import PolicyStore
from broker_mesh.control.resources import adoptions


async def read_adopted(connection: Connection) -> dict[str, Adoption]:
    """Give what is said of adopted topics now, by topic.

    Raises:
        MeshError: Kafka can't be asked.
    """
    stored = await asyncio.to_thread(PolicyStore(connection.settings, connection.client_id).read)
    return {
        **connection.settings.topics,
        **adoptions(applied.resource for applied in stored.applied.values()),
    }
