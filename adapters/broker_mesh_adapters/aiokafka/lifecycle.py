"""Joining a mesh and leaving it without holding up the program's event loop.

On the way of a message: before the first and after the last of a wrapped client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broker_mesh import Mesh
from broker_mesh.adapter import Connection, Declaration, connect


async def joined(mesh: Mesh, client: object, declared: Sequence[Declaration]) -> Connection:
    """Give the connection of a mesh to a wrapped client.

    Raises:
        Unavailable: Kafka can't be reached, or the access rules can't be read.
        SettingsError: a setting or a declaration is wrong.
        SchemaError: a declared model does not fit its schema.
    """
    connection = await asyncio.to_thread(connect, mesh, client)
    if declared:
        try:
            await asyncio.to_thread(connection.declare, declared)
        except BaseException:
            await left(connection, client)
            raise
    return connection


async def left(connection: Connection, client: object) -> None:
    """Let a wrapped client go; with the last of them the mesh is disconnected."""
    await asyncio.to_thread(connection.release, client)
