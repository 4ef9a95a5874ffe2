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
    from collections.abc import Sequence

    from broker_mesh.cli.answering import Address, Urls
    from broker_mesh.cli.serving import Serving
    from broker_mesh.telemetry.prometheus import Source

EXAMPLES = examples(
    "mesh run demo.fleet:fleet",
    "mesh run demo.fleet:fleet --workers 4 --health-port 8080 --health-host 0.0.0.0",
    "mesh run demo.fleet:fleet --metrics-port 9464",
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
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            min=0,
            max=65535,
            help="Answer Prometheus at /metrics there; 0 takes a free port, that of --health-port serves both.",
            show_default=False,
        ),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", help="Where metrics are answered; 0.0.0.0 is everywhere.")
    ] = "127.0.0.1",
    log_level: LogLevel = "info",
    log_format: LogLayout = LogFormat.AUTO,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Serve the operations and subscriptions of a Mesh, until SIGTERM or Ctrl-C.

    It stops gracefully then: what is being handled is finished, what is not is handled by another instance.
    """
    from broker_mesh.cli.answering import Address
    from broker_mesh.telemetry.logs import configure

    if bootstrap_servers:
        os.environ["MESH_BOOTSTRAP_SERVERS"] = bootstrap_servers  # what the module's Mesh(…) reads
    configure(log_level, log_format.value)
    health = None if health_port is None else Address(health_host, health_port)
    metrics = None if metrics_port is None else Address(metrics_host, metrics_port)
    if workers == 1:
        try:
            _run_here(target, health, metrics, output)
        except KeyboardInterrupt:
            _leave(0)
    else:
        arguments = [target, "--log-level", log_level, "--log-format", log_format.value]
        if metrics is not None:
            arguments.append("--report-metrics")
        _run_workers(arguments, workers, health, metrics, output)


def work(
    target: Target,
    fd: Annotated[int, typer.Argument()],
    report_metrics: Annotated[bool, typer.Option("--report-metrics")] = False,
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
    asyncio.run(serve(load_mesh(target, Path.cwd()), fd, report_metrics=report_metrics))
    _leave(0)


def _run_here(target: str, health: Address | None, metrics: Address | None, output: OutputFormat) -> None:
    import asyncio
    from pathlib import Path

    from broker_mesh.cli.answering import answering
    from broker_mesh.cli.loading import load_mesh
    from broker_mesh.cli.serving import Serving

    # Until the mesh listens itself, while the module is imported: both signals end it as they do later.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    mesh = load_mesh(target, Path.cwd())

    async def serve() -> None:
        def ready(serving: Serving) -> None:
            _announce(f"{mesh.service} {mesh.version}", [os.getpid()], serving.topics, urls, output)

        def figures() -> list[Source]:
            from broker_mesh.telemetry.prometheus import Source

            return [Source({}, serving.metrics())]

        serving = Serving(mesh, ready)
        async with answering(health, metrics, serving.ask_health, figures) as urls:
            await serving.run()

    asyncio.run(serve())
    _leave(0)


def _run_workers(
    arguments: list[str],
    workers: int,
    health: Address | None,
    metrics: Address | None,
    output: OutputFormat,
) -> NoReturn:
    import asyncio

    from broker_mesh.cli.answering import answering
    from broker_mesh.cli.supervisor import Supervisor

    command = [sys.executable, "-m", "broker_mesh.cli", "run-worker", *arguments]

    async def supervise() -> int:
        def ready(pids: Sequence[int], topics: Sequence[str]) -> None:
            _announce(f"{arguments[0]} with {len(pids)} workers", pids, topics, urls, output)

        def figures() -> list[Source]:
            from broker_mesh.telemetry.prometheus import Source

            return [Source({"worker": str(number)}, told) for number, told in supervisor.metrics().items()]

        supervisor = Supervisor(command, workers, ready)
        async with answering(health, metrics, supervisor.health, figures) as urls:
            return await supervisor.run()

    raise typer.Exit(asyncio.run(supervise()))


def _announce(
    name: str, pids: Sequence[int], topics: Sequence[str], urls: Urls, output: OutputFormat
) -> None:
    if output is OutputFormat.JSON:
        told = {"serving": name, "pids": pids, "topics": topics, **urls._asdict()}
        print_json(told, compact=True)
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
