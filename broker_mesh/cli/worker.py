"""A worker's end of its link to the supervisor: it tells how it is, and does not outlive who started it.

The link is one half of a socket pair. The worker writes a JSON line a second; the supervisor writes nothing, so that
the only thing to be read is the end, which comes even where the supervisor was killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress

from broker_mesh.cli.serving import Serving
from broker_mesh.mesh import Mesh

REPORT_SECONDS = 1.0

# What a graceful stop may take beyond the grace period: the last commit and the producer's flush, 10 s each.
LEAVE_SECONDS = 25.0


class Link:
    """The worker's end.

    Args:
        fd: of the socket, inherited.
        grace: how long a graceful stop lets handlers finish, seconds.
    """

    def __init__(self, fd: int, grace: float) -> None:
        self._socket = socket.socket(fileno=fd)
        self._grace = grace
        threading.Thread(target=self._watch, name="mesh-supervisor", daemon=True).start()

    async def report(self, serving: Serving) -> None:
        """Tell how it is, again and again; by the event loop, so that silence means that the loop hangs."""
        while True:
            self.tell(serving)
            await asyncio.sleep(REPORT_SECONDS)

    def tell(self, serving: Serving) -> None:
        """Tell how it is once."""
        health = serving.health()
        report = {
            "ready": health.ready,
            "facts": health.facts,
            "topics": serving.topics,
            "grace": self._grace,
        }
        # A supervisor that does not read misses this report; one that is gone is noticed by _watch.
        with suppress(BlockingIOError, BrokenPipeError, ConnectionError):
            self._socket.send(json.dumps(report).encode() + b"\n", socket.MSG_DONTWAIT)

    def _watch(self) -> None:
        with suppress(ConnectionError):
            while self._socket.recv(64):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace + LEAVE_SECONDS)
        os._exit(1)  # a handler that never returns must not keep a worker that nobody looks after


async def work(mesh: Mesh, fd: int) -> None:
    """Serve a mesh as a worker.

    Raises:
        MeshError: it can't start, or can't go on.
    """
    link = Link(fd, mesh.settings.grace_seconds)
    serving = Serving(mesh, link.tell)
    reports = asyncio.create_task(link.report(serving))
    try:
        await serving.run()
    finally:
        reports.cancel()
