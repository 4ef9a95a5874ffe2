"""Health over HTTP: `/livez` says whether the event loop turns, `/readyz` whether the service has joined its group.

Beside the way of a message. A thread of its own answers, so that a loop that hangs is told of rather than shared.
The paths and their meaning follow Kubernetes' API health endpoints
(https://kubernetes.io/docs/reference/using-api/health-checks/).
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from broker_mesh.errors import SettingsError

_REQUEST_SECONDS = 5.0


class Health(NamedTuple):
    """How a process is.

    Args:
        live: its event loop turns.
        ready: it has joined its group.
        facts: what else is told, as JSON values.
    """

    live: bool
    ready: bool
    facts: Mapping[str, Any]


class HealthServer:
    """Answers `/livez` and `/readyz` with 200 or 503 and a small JSON object.

    Args:
        host: where to listen.
        port: where to listen; 0 takes a free one.
        look: tells how the process is; called on the server's threads.

    Raises:
        SettingsError: it can't listen there.
    """

    def __init__(self, host: str, port: int, look: Callable[[], Health]) -> None:
        try:
            self._server = (_Server6 if ":" in host else _Server)((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"health checks can't be answered at {host}:{port}: {error}; "
                "choose another --health-host or --health-port"
            ) from error
        self._server.look = look
        self._host = host
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="mesh-health", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._host, self._server.server_address[1]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    look: Callable[[], Health]
    # A request that hangs must not keep the process from ending.
    daemon_threads = True
    block_on_close = False


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_SECONDS
    protocol_version = "HTTP/1.1"
    server_version = "broker-mesh"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a check."""
        path = self.path.partition("?")[0]
        if path not in ("/livez", "/readyz"):
            self._answer(404, {"error": "there are /livez and /readyz"})
            return
        health = self.server.look()
        good = health.live and (path == "/livez" or health.ready)
        self._answer(200 if good else 503, {"live": health.live, "ready": health.ready, **health.facts})

    do_HEAD = do_GET  # noqa: N815 - http.server looks for this name

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Log nothing: checks come every few seconds."""

    def _answer(self, status: int, content: Mapping[str, Any]) -> None:
        body = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
