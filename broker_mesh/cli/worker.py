"""A worker's end of its link to the supervisor: it tells how it is, and does not outlive who started it.

The link is one half of a socket pair. Once a second the worker writes a JSON line about its health and, where asked
to, one with its metrics; the supervisor writes nothing, so that the only thing to be read is the end, which comes even
where the supervisor was killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from broker_mesh.cli.serving import Serving
from broker_mesh.mesh import Mesh
from broker_mesh.telemetry import transport

REPORT_SECONDS = 1.0

# What a supervisor takes to read what is on the link.
_READ_SECONDS = 0.02

# What a graceful stop may take beyond the grace period: the last commit and the producer's flush, 10 s each.
LEAVE_SECONDS = 25.0


class Link:
    """The worker's end.

    Args:
        fd: of the socket, inherited.
        grace: how long a graceful stop lets handlers finish, seconds.
        report_metrics: whether to tell metrics too.
    """

    def __init__(self, fd: int, grace: float, *, report_metrics: bool) -> None:
        self._socket = socket.socket(fileno=fd)
        self._grace = grace
        self._report_metrics = report_metrics
        self._unsent = b""

    def watch(self) -> None:
        """End this process when the supervisor is gone."""
        threading.Thread(target=self._watch, name="mesh-supervisor", daemon=True).start()

    async def report(self, serving: Serving) -> None:
        """Tell how it is, again and again; by the event loop, so that silence means that the loop hangs."""
        while True:
            self.tell(serving)
            while self._unsent:  # a report may be larger than what the link takes at once
                await asyncio.sleep(_READ_SECONDS)
                self._send()
            await asyncio.sleep(REPORT_SECONDS)

    def tell(self, serving: Serving) -> None:
        """Tell how it is once; nothing while the supervisor has not read what was told before."""
        if self._unsent:
            return
        health = serving.health()
        report = {
            "ready": health.ready,
            "facts": health.facts,
            "topics": serving.topics,
            "grace": self._grace,
        }
        self._unsent = _line(report)
        if self._report_metrics:
            self._unsent += _line({"metrics": transport.dump(serving.metrics())})
        self._send()

    def _send(self) -> None:
        # Never waits: a supervisor that does not read misses reports, one that is gone is noticed by _watch.
        with suppress(BlockingIOError, BrokenPipeError, ConnectionError):
            sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
            self._unsent = self._unsent[sent:]

    def _watch(self) -> None:
        with suppress(ConnectionError):
            while self._socket.recv(64):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace + LEAVE_SECONDS)
        os._exit(1)  # a handler that never returns must not keep a worker that nobody looks after


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


async def work(mesh: Mesh, fd: int, *, report_metrics: bool) -> None:
    """Serve a mesh as a worker.

    Args:
        mesh: to be served.
        fd: of the link's socket.
        report_metrics: whether the supervisor is to be told metrics.

    Raises:
        MeshError: it can't start, or can't go on.
    """
    link = Link(fd, mesh.settings.grace_seconds, report_metrics=report_metrics)
    link.watch()
    serving = Serving(mesh, link.tell)
    reports = asyncio.create_task(link.report(serving))
    try:
        await serving.run()
    finally:
        reports.cancel()
