"""What a process tells over HTTP: `/livez`, whether its event loop turns, `/readyz`, whether it has joined its group.

Beside the way of a message. Threads of their own answer, so that a loop that hangs is told of rather than shared. The
paths and their meaning follow Kubernetes' API health endpoints
(https://kubernetes.io/docs/reference/using-api/health-checks/). `mesh run` lets the same server answer `/metrics`.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeAlias

from broker_mesh.errors import SettingsError

logger = logging.getLogger(__name__)

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


class Answer(NamedTuple):
    """What a path answers: an HTTP status, and the content with its type."""

    status: int
    content_type: str
    body: bytes


Route: TypeAlias = Callable[[str], Answer]
"""Answers a path, given the request's Accept header; called on the server's threads."""


def health_routes(look: Callable[[], Health]) -> dict[str, Route]:
    """Give what answers health checks, with 200 or 503 and a small JSON object.

    Args:
        look: tells how the process is.
    """

    def livez(_: str) -> Answer:
        health = look()
        return _told(health, good=health.live)

    def readyz(_: str) -> Answer:
        health = look()
        return _told(health, good=health.live and health.ready)

    return {"/livez": livez, "/readyz": readyz}


def _told(health: Health, *, good: bool) -> Answer:
    return _json(200 if good else 503, {"live": health.live, "ready": health.ready, **health.facts})


def _json(status: int, content: Mapping[str, Any]) -> Answer:
    return Answer(status, "application/json", json.dumps(content).encode() + b"\n")


class StatusServer:
    """Answers GET and HEAD on a few paths.

    Args:
        what: is answered, for errors: "health checks".
        option: the options' name for it, for errors: "health".
        host: where to listen.
        port: where to listen; 0 takes a free one.
        routes: by path.

    Raises:
        SettingsError: it can't listen there.
    """

    def __init__(self, what: str, option: str, host: str, port: int, routes: Mapping[str, Route]) -> None:
        try:
            self._server = (_Server6 if ":" in host else _Server)((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"{what} can't be answered at {host}:{port}: {error}; "
                f"choose another --{option}-host or --{option}-port"
            ) from error
        self._server.routes = routes
        self._host = host
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.2},
            name=f"mesh-{option}",
            daemon=True,
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
    routes: Mapping[str, Route]
    # A request that hangs must not keep the process from ending.
    daemon_threads = True
    block_on_close = False

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Log why a question could not be answered; that its client did not wait is nobody's fault here."""
        error = sys.exception()
        if isinstance(error, OSError):
            logger.debug("%s went before its answer: %s", client_address, error)
        else:
            logger.error("a question of %s could not be answered", client_address, exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_SECONDS
    protocol_version = "HTTP/1.1"
    server_version = "broker-mesh"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer what is asked for."""
        routes = self.server.routes
        route = routes.get(self.path.partition("?")[0])
        if route is None:
            self._send(_json(404, {"error": f"there is only {', '.join(routes)}"}))
        else:
            self._send(route(self.headers.get("Accept", "")))

    do_HEAD = do_GET  # noqa: N815 - http.server looks for this name

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Log nothing: questions come every few seconds."""

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
