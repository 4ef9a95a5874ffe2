"""Services that call on: `python -m tests.support.relay relay|watcher BOOTSTRAP`.

`relay` answers by asking fleet, and publishes what it found; `watcher` subscribes to that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from pydantic import BaseModel

from broker_mesh import Context, Event, Mesh, Operation
from broker_mesh.telemetry import logs
from tests.support.fleet import FIND_AIRCRAFT, Aircraft, FindAircraft

LOOK_UP = Operation("relay.v1.look-up", request=FindAircraft, reply=Aircraft, key="tailnum")


class Found(BaseModel):
    tailnum: str


FOUND = Event("relay.v1.events.found", Found, key="tailnum")


def make(role: str, bootstrap_servers: str) -> Mesh:
    mesh = Mesh(role, bootstrap_servers=bootstrap_servers, schemas="no-such-folder")
    if role == "relay":

        @mesh.operation(LOOK_UP)
        async def look_up(request: FindAircraft, context: Context) -> Aircraft:
            logging.getLogger("relay").info("asking fleet")
            aircraft = await context.request(FIND_AIRCRAFT, request)
            await context.publish(FOUND, Found(tailnum=aircraft.tailnum))
            return aircraft
    else:

        @mesh.subscribe(FOUND)
        async def on_found(event: Found, context: Context) -> None:
            print(f"found {event.tailnum}", flush=True)

    return mesh


if __name__ == "__main__":
    logs.configure("INFO", "json")
    os.environ.pop("MESH_BOOTSTRAP_SERVERS", None)
    asyncio.run(make(sys.argv[1], sys.argv[2]).run(on_ready=lambda: print("ready", flush=True)))
