"""`mesh run`: serve a mesh, in this process or in several."""

from __future__ import annotations

import os
import signal
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from broker_mesh.cli.options import BootstrapServers, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker_mesh.cli.serving import Serving
    from broker_mesh.health import Health, HealthServer

EXAMPLES = examples(
    "mesh run demo.fleet:fleet",
    "mesh run demo.fleet:fleet --workers 4 --health-port 8080 --health-host 0.0.0.0",
    "mesh run demo.fleet:fleet --log-level debug --log-format json",
)


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


Target = Annotated[
    str, typer.Argument(metavar="MODULE:NAME", help="Where the Mesh is, as in package.module:name.")
]
LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning, error or critical.")]
LogLayout = Annotated[
    LogFormat, typer.Option("--log-format", help="auto is text on a terminal, JSON lines elsewhere.")
]


def run(
    target: Target,
    workers: Annotated[int, typer.Option("--workers", min=1, max=256, help="How many processes.")] = 1,
    health_port: Annotated[
        int | None,
        typer.Option(
            "--health-port",
            min=0,
            max=65535,
            help="Answer /livez and /readyz there; 0 takes a free port.",
            show_default=False,
        ),
    ] = None,
    health_host: Annotated[
        str, typer.Option("--health-host", help="Where health checks are answered; 0.0.0.0 is everywhere.")
    ] = "127.0.0.1",
    log_level: LogLevel = "info",
    log_format: LogLayout = LogFormat.AUTO,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Serve the operations and subscriptions of a Mesh, until SIGTERM or Ctrl-C.

    It stops gracefully then: what is being handled is finished, what is not is handled by another instance.
    """
    from broker_mesh.telemetry.logs import configure

    if bootstrap_servers:
        os.environ["MESH_BOOTSTRAP_SERVERS"] = bootstrap_servers  # what the module's Mesh(…) reads
    configure(log_level, log_format.value)
    if workers == 1:
        try:
            _run_here(target, health_host, health_port, output)
        except KeyboardInterrupt:
            _leave(0)
    else:
        arguments = [target, "--log-level", log_level, "--log-format", log_format.value]
        _run_workers(arguments, workers, health_host, health_port, output)


def work(
    target: Target,
    fd: Annotated[int, typer.Argument()],
    log_level: LogLevel = "info",
    log_format: LogLayout = LogFormat.AUTO,
) -> None:
    """Serve as a worker of `mesh run --workers`, which starts this."""
    import asyncio
    from pathlib import Path

    from broker_mesh.cli.loading import load_mesh
    from broker_mesh.cli.worker import work as serve
    from broker_mesh.telemetry.logs import configure

    configure(log_level, log_format.value)
    asyncio.run(serve(load_mesh(target, Path.cwd()), fd))
    _leave(0)


def _run_here(target: str, health_host: str, health_port: int | None, output: OutputFormat) -> None:
    import asyncio
    from pathlib import Path

    from broker_mesh.cli.loading import load_mesh
    from broker_mesh.cli.serving import Serving

    # Until the mesh listens itself, while the module is imported: both signals end it as they do later.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    mesh = load_mesh(target, Path.cwd())

    async def serve() -> None:
        health: HealthServer | None = None

        def ready(serving: Serving) -> None:
            _announce(f"{mesh.service} {mesh.version}", [os.getpid()], serving.topics, health, output)

        serving = Serving(mesh, ready)
        health = _answer_checks(health_host, health_port, serving.ask_health)
        try:
            await serving.run()
        finally:
            if health is not None:
                await asyncio.to_thread(health.close)

    asyncio.run(serve())
    _leave(0)


def _run_workers(
    arguments: list[str], workers: int, health_host: str, health_port: int | None, output: OutputFormat
) -> NoReturn:
    import asyncio

    from broker_mesh.cli.supervisor import Supervisor

    command = [sys.executable, "-m", "broker_mesh.cli", "run-worker", *arguments]

    async def supervise() -> int:
        health: HealthServer | None = None

        def ready(pids: Sequence[int], topics: Sequence[str]) -> None:
            _announce(f"{arguments[0]} with {len(pids)} workers", pids, topics, health, output)

        supervisor = Supervisor(command, workers, ready)
        health = _answer_checks(health_host, health_port, supervisor.health)
        try:
            return await supervisor.run()
        finally:
            if health is not None:
                await asyncio.to_thread(health.close)

    raise typer.Exit(asyncio.run(supervise()))


def _answer_checks(host: str, port: int | None, look: Callable[[], Health]) -> HealthServer | None:
    from broker_mesh.cli.output import print_note
    from broker_mesh.health import HealthServer

    if port is None:
        return None
    server = HealthServer(host, port, look)
    print_note(f"health: {server.url}/readyz")
    return server


def _announce(
    name: str, pids: Sequence[int], topics: Sequence[str], health: HealthServer | None, output: OutputFormat
) -> None:
    if output is OutputFormat.JSON:
        url = health.url if health is not None else None
        print_json({"serving": name, "pids": pids, "topics": topics, "health": url}, compact=True)
    else:
        processes = ", ".join(str(pid) for pid in pids)
        print_line(f"{name} serves {', '.join(topics)} (process {processes}); Ctrl-C stops it")


def _leave(code: int) -> None:
    """End the process though a handler's thread never returns, which Python would wait for."""
    import logging
    import threading

    waits = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    if any(thread.is_alive() for thread in waits):
        logging.getLogger(__name__).warning(
            "%d handlers have not returned; their records come again", len(waits)
        )
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
