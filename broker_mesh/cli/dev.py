"""`mesh dev`: a real Kafka for development, with nothing but Python on the machine.

Exit codes: 0 fine, 1 it could not be done, 2 wrong usage, 3 Kafka does not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker_mesh.cli.output import Output, OutputFormat, fail, print_json, stdout
from broker_mesh.errors import MeshError, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from broker_mesh.dev.local import Status

NOT_RUNNING = 3

app = typer.Typer(
    name="dev",
    help="Run a real Apache Kafka on this machine, for development.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


@app.command(epilog=_examples("mesh dev up", "mesh dev up --brokers 3", "mesh dev up --ephemeral -o json"))
def up(
    brokers: Annotated[
        int | None,
        typer.Option(
            help="1, or 3 for replication factor 3. Default: what was there before, else 1.", metavar="1|3"
        ),
    ] = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Delete the data on `mesh dev down`.")
    ] = False,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Start Kafka in the background, and return once it accepts records.

    The first time downloads Kafka (44 MB) into the user's cache. Data and ports are kept between starts.
    """
    from broker_mesh.cli.progress import shown
    from broker_mesh.dev import local
    from broker_mesh.dev.cluster import SIZES

    if brokers is not None and brokers not in SIZES:
        raise typer.BadParameter(
            f"Kafka runs here with 1 broker or with 3, not with {brokers}.", param_hint="--brokers"
        )
    try:
        with shown() as progress:
            status, started = local.up(_home(), brokers, ephemeral, progress)
    except MeshError as error:
        fail(error)
    if output is OutputFormat.JSON:
        print_json({"started": started, **_as_json(status)})
        return
    _print_status("Kafka is running" if started else "Kafka was running already", status)


@app.command(
    short_help="Stop Kafka; its data is kept.",
    epilog=_examples("mesh dev down", "mesh dev down --delete-data"),
)
def down(
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete all topics and records that are kept.")
    ] = False,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Stop Kafka; its data is kept, unless it was started with --ephemeral."""
    from broker_mesh.cli.progress import shown
    from broker_mesh.dev import local

    try:
        with shown() as progress:
            stopped = local.down(_home(), delete_data, progress)
    except MeshError as error:
        fail(error)
    if output is OutputFormat.JSON:
        print_json({"stopped": stopped.cleanly, "killed": stopped.killed, "data_deleted": delete_data})
        return
    count = len(stopped.cleanly) + len(stopped.killed)
    sentence = f"Stopped {count} broker{'s' if count > 1 else ''}." if count else "No Kafka was running."
    if stopped.killed:
        names = ", ".join(str(number) for number in stopped.killed)
        sentence += f" Killed after waiting in vain for a clean stop: broker {names}."
    if delete_data:
        sentence += " Its data is deleted."
    stdout().print(sentence, highlight=False)


@app.command(
    short_help="Show whether Kafka runs, and where.",
    epilog=_examples("mesh dev status", "mesh dev status -o json | jq -r .bootstrap_servers"),
)
def status(output: Output = OutputFormat.TABLE) -> None:
    """Show whether Kafka runs and where; the exit code is 0 when it does, 3 when not."""
    from broker_mesh.dev import local

    found = local.status(_home())
    if output is OutputFormat.JSON:
        print_json(_as_json(found))
    else:
        _print_status(f"Kafka is {found.state}", found)
    if found.state not in ("running", "degraded"):
        raise typer.Exit(NOT_RUNNING)


@app.command(epilog=_examples("mesh dev logs", "mesh dev logs --follow --lines 0"))
def logs(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many last lines of each broker.")
    ] = 50,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print the brokers' logs; with `-o json` one object a line."""
    import json

    from broker_mesh.dev import local
    from broker_mesh.dev.logs import read

    files = local.log_files(_home())
    if not files:
        fail(NotFound("There are no logs, since no Kafka was started yet: run `mesh dev up`."), NOT_RUNNING)
    for broker, line in read(files, lines, follow=follow):
        if output is OutputFormat.JSON:
            typer.echo(json.dumps({"broker": broker, "line": line}, ensure_ascii=False))
        else:
            typer.echo(line if len(files) == 1 else f"broker {broker}: {line}")


def _home() -> Path:
    import os

    from broker_mesh.dev.paths import dev_directory

    return dev_directory(os.environ)


def _as_json(status: Status) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(status)


def _human(size: int) -> str:
    """A size in bytes for people, in decimal units."""
    amount = size / 1000
    for unit in ("kB", "MB"):
        if amount < 1000:
            return f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def _print_status(title: str, status: Status) -> None:
    from datetime import timedelta

    from rich.table import Table

    console = stdout()
    console.print(title, style="bold", highlight=False)
    if status.bootstrap_servers is None or status.directory is None:
        console.print("Start it with: mesh dev up", highlight=False)
        return
    facts = {
        "bootstrap servers": status.bootstrap_servers,
        "version": status.version,
        "data": f"{_human(status.data_bytes)} in {status.directory}"
        + (" (deleted on `mesh dev down`)" if status.ephemeral else ""),
    }
    if status.uptime_seconds is not None:
        facts["uptime"] = str(timedelta(seconds=int(status.uptime_seconds)))
    for broker in status.brokers:
        process = f", process {broker.pid}" if broker.pid is not None else ""
        facts[f"broker {broker.id}"] = f"{broker.state} on port {broker.port}{process}"
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(name, value)
    console.print(table)
    if status.state in ("crashed", "degraded"):
        console.print("Start it again with: mesh dev up   See why with: mesh dev logs", highlight=False)
