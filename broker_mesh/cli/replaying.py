"""`mesh dead-letters replay|drop`: what changes something of dead letters, each exactly once."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from broker_mesh.cli.exits import ExitCode
from broker_mesh.cli.options import (
    BootstrapServers,
    ExpiresIn,
    Failed,
    FailedSince,
    FailedUntil,
    Ids,
    Key,
    OfOperation,
    Raised,
    Service,
    Statuses,
    Where,
    examples,
)
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line, print_note
from broker_mesh.cli.selecting import select
from broker_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from broker_mesh.dead_letters import Selection
    from broker_mesh.replay import Report

REPLAY_EXAMPLES = examples(
    "mesh dead-letters replay fleet.v1.find-aircraft --status UNAVAILABLE",
    "mesh dead-letters replay fleet --dry-run",
    "mesh dead-letters replay --all --rate 100",
    "mesh dead-letters replay --id 01936b2e-7c1f-7a40-9d3b-2f6f0c1a5e77 --edit",
    "mesh dead-letters replay fleet.v1.find-aircraft --to fleet.v2.find-aircraft",
)
DROP_EXAMPLES = examples(
    "mesh dead-letters drop --id 01936b2e-7c1f-7a40-9d3b-2f6f0c1a5e77",
    "mesh dead-letters drop fleet --until 30d --yes",
)

All = Annotated[bool, typer.Option("--all", help="All of them, without any filter.")]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help="At most so many.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]


def replay(
    failed: Failed = None,
    service: Service = None,
    operation: OfOperation = None,
    status: Statuses = None,
    exception: Raised = None,
    since: FailedSince = None,
    until: FailedUntil = None,
    key: Key = None,
    ids: Ids = None,
    where: Where = None,
    everything: All = False,
    limit: Limit = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.001, help="At most so many a second.", show_default=False),
    ] = None,
    edit: Annotated[
        bool,
        typer.Option(
            "--edit",
            help="Change each body in $VISUAL or $EDITOR first; one that is left as it is is not put back.",
        ),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="OPERATION",
            help="Another operation or version to put them back to. Default: where they failed.",
            show_default=False,
        ),
    ] = None,
    expires_in: ExpiresIn = None,
    dry_run: DryRun = False,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Put dead letters back to where they failed, each exactly once, however many replays run.

    They keep their id, key and reply address: a caller that still waits gets the new reply. What does not fit the
    present schema is refused and stays; the exit code is 1 then.
    """
    from broker_mesh.cli.connection import run

    chosen = select(failed, service, operation, status, exception, since, until, key, ids, where)
    _require_filters(chosen, everything)
    report = run(_replay(chosen, to, rate, limit, dry_run, expires_in, edit, bootstrap_servers))
    _print_report(report, output, dry_run=dry_run, done="replayed")


def drop(
    failed: Failed = None,
    service: Service = None,
    operation: OfOperation = None,
    status: Statuses = None,
    exception: Raised = None,
    since: FailedSince = None,
    until: FailedUntil = None,
    key: Key = None,
    ids: Ids = None,
    where: Where = None,
    everything: All = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Drop dead letters for good: they are listed and replayed no more. Their records stay in their topic."""
    from dataclasses import replace

    from broker_mesh.cli.connection import run
    from broker_mesh.message import now_ms

    chosen = select(failed, service, operation, status, exception, since, until, key, ids, where)
    _require_filters(chosen, everything)
    if not dry_run and not yes:
        if not sys.stdin.isatty():
            raise InvalidArgument(
                "dead letters are dropped only after a confirmation: add --yes where nobody can be asked"
            )
        if not chosen.ids and chosen.until is None:
            chosen = replace(chosen, until=now_ms())  # what fails while the question stands was not asked for
        count = run(_drop(chosen, limit, True, bootstrap_servers)).selected
        if not typer.confirm(f"Drop {count} dead letters for good?", err=True):
            print_note("Nothing was done.")
            raise typer.Exit(ExitCode.FAILED)
    report = run(_drop(chosen, limit, dry_run, bootstrap_servers))
    _print_report(report, output, dry_run=dry_run, done="dropped")


def _require_filters(selection: Selection, everything: bool) -> None:
    from broker_mesh.dead_letters import Selection

    if everything and selection != Selection():
        raise typer.BadParameter("it means all, without a filter: leave one out", param_hint="--all")
    if not everything and selection == Selection():
        raise typer.BadParameter(
            "say which: give a service, an operation, --id or another filter, or --all", param_hint="--all"
        )


def _print_report(report: Report, output: OutputFormat, *, dry_run: bool, done: str) -> None:
    from broker_mesh.cli import letters

    if output is OutputFormat.JSON:
        print_json(letters.report_as_json(report, dry_run=dry_run))
    else:
        for line in letters.report_lines(report, dry_run=dry_run, done=done):
            print_line(line)
        for line in letters.refusal_lines(report):
            print_note(line)
    if report.refused:
        raise typer.Exit(ExitCode.FAILED)


async def _replay(
    selection: Selection,
    to: str | None,
    rate: float | None,
    limit: int | None,
    dry_run: bool,
    expires_in: float | None,
    edit: bool,
    bootstrap_servers: str | None,
) -> Report:
    import asyncio

    from broker_mesh.cli.connection import connected
    from broker_mesh.cli.editing import Editor
    from broker_mesh.cli.progress import counting
    from broker_mesh.replay import Replayer

    task = asyncio.current_task()
    assert task is not None  # within a coroutine there is one
    async with _interruptible(), connected(bootstrap_servers) as connection:
        editor = Editor(connection.registry, to, lambda: task.cancelling() > 0) if edit else None
        async with Replayer(connection.settings, client_id=connection.client_id) as replayer:
            with counting("replaying", shown=editor is None) as count:
                return await replayer.replay(
                    selection,
                    to=to,
                    rate=rate,
                    limit=limit,
                    dry_run=dry_run,
                    expires_in=expires_in,
                    edit=editor,
                    on_progress=count,
                )


async def _drop(
    selection: Selection, limit: int | None, dry_run: bool, bootstrap_servers: str | None
) -> Report:
    from broker_mesh.cli.connection import connected
    from broker_mesh.cli.progress import counting
    from broker_mesh.replay import Replayer

    async with _interruptible(), connected(bootstrap_servers) as connection:
        replayer = Replayer(connection.settings, client_id=connection.client_id)
        with counting("counting" if dry_run else "dropping") as count:
            return await replayer.drop(selection, limit=limit, dry_run=dry_run, on_progress=count)


@asynccontextmanager
async def _interruptible() -> AsyncIterator[None]:
    """Say what holds where an interruption ends the block."""
    import asyncio

    try:
        yield
    except asyncio.CancelledError:
        print_note(
            "Interrupted: what was done until now stays done, and running it again goes on with the others."
        )
        raise
