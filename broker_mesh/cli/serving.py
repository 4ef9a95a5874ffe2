"""Runs one mesh in this process: until it is told to stop, with its health known to others meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import TimeoutError as WaitTimeoutError

from broker_mesh.health import Health
from broker_mesh.mesh import Mesh
from broker_mesh.running import run_until
from broker_mesh.service import Service
from broker_mesh.telemetry.aggregation import Family

_ANSWER_SECONDS = 2.0


class Serving:
    """One mesh that is served by this process.

    Args:
        mesh: to be served.
        on_ready: called when it has joined its group.
    """

    def __init__(self, mesh: Mesh, on_ready: Callable[[Serving], None]) -> None:
        self._mesh = mesh
        self._on_ready = on_ready
        self._service: Service | None = None
        self._ready = False
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def topics(self) -> list[str]:
        """What is served."""
        return [] if self._service is None else self._service.topics

    def health(self) -> Health:
        """Tell how it is; on the event loop."""
        service = self._service
        facts = {
            "service": self._mesh.service,
            "version": self._mesh.version,
            "instance": f"{socket.gethostname()}-{os.getpid()}",
            "assigned_partitions": 0 if service is None else service.partitions,
            "in_flight": 0 if service is None else service.in_flight,
        }
        return Health(live=True, ready=self._ready, facts=facts)

    def metrics(self) -> list[Family]:
        """Give what it has measured; from any thread."""
        return self._mesh.metrics.collect()

    def ask_health(self) -> Health:
        """Tell how it is, from another thread; a loop that does not answer within 2 s is not live."""

        async def ask() -> Health:
            return self.health()

        answer = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        try:
            return answer.result(_ANSWER_SECONDS)
        except WaitTimeoutError:
            answer.cancel()
            return Health(live=False, ready=False, facts={"service": self._mesh.service})

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop gracefully; a second signal does not wait any longer.

        Raises:
            MeshError: it can't start, or can't go on.
        """
        serving = asyncio.create_task(self._serve())
        signals = 0

        def signalled() -> None:
            nonlocal signals
            signals += 1
            self._stop.set()
            if self._service is None or signals > 1:
                serving.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, signalled)
        try:
            await serving
        except asyncio.CancelledError:
            if not signals:
                raise

    async def _serve(self) -> None:
        async with self._mesh.serving() as service:
            self._service = service
            try:
                await run_until(self._stop, service, self._joined)
            finally:
                self._ready = False

    def _joined(self) -> None:
        self._ready = True
        self._on_ready(self)
