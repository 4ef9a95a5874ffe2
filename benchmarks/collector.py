"""Where the mesh's spans and metrics go while it is measured: an OTLP endpoint that takes all and keeps nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # exporters keep their connections

    def do_POST(self) -> None:
        """Read what comes, and say that it has arrived; an empty answer is OTLP's for complete success."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of single requests."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def collecting() -> Iterator[str]:
    """Collect while a block runs; gives the address, as OTEL_EXPORTER_OTLP_ENDPOINT wants it."""
    server = _Server(("127.0.0.1", 0), _Sink)
    thread = threading.Thread(target=server.serve_forever, name="collector", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
