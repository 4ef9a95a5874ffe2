"""`mesh dead-letters list|show|export`: what failed for good, by cause, one by one, and as a file.

`replay` and `drop`, which change something, stand in `replaying.py`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from broker_mesh.cli import replaying
from broker_mesh.cli.options import (
    BootstrapServers,
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
from broker_mesh.cli.output import (
    Output,
    OutputFormat,
    json_text,
    print_json,
    print_line,
    print_note,
    print_table,
)
from broker_mesh.cli.selecting import select
from broker_mesh.errors import FailedPrecondition

if TYPE_CHECKING:
    from broker_mesh.dead_letters import Cause, Claim, DeadLetter, Selection

app = typer.Typer(
    name="dead-letters",
    help="Look at what failed for good, by cause; put it back, once, or drop it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(
    "list",
    short_help="List dead letters, by cause.",
    epilog=examples(
        "mesh dead-letters list",
        "mesh dead-letters list fleet --status UNAVAILABLE --since 1d",
        "mesh dead-letters list fleet.v1.find-aircraft --each --limit 20",
        "mesh dead-letters list --where \"carrier == 'UA'\" -o json",
    ),
)
def list_letters(
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
    each: Annotated[bool, typer.Option("--each", help="List them one by one, a line each.")] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help="With --each: end after so many.", show_default=False),
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List dead letters that are neither replayed nor dropped, grouped by cause.

    A cause is an operation, a status, an exception and the shape of its message. Of several filters all have to
    fit. With --each -o json, one object a line.
    """
    from broker_mesh.cli import letters
    from broker_mesh.cli.connection import run

    chosen = select(failed, service, operation, status, exception, since, until, key, ids, where)
    if limit is not None and not each:
        raise typer.BadParameter("it counts single dead letters: add --each", param_hint="--limit")
    if each:
        run(_list_each(chosen, limit, bootstrap_servers, output))
        return
    causes = run(_list_causes(chosen, bootstrap_servers))
    if output is OutputFormat.JSON:
        print_json([letters.cause_as_json(cause) for cause in causes])
        return
    if not causes:
        print_note("There are no such dead letters.")
        return
    print_table(letters.CAUSE_HEADINGS, map(letters.cause_row, causes), right=["COUNT"])


@app.command(
    short_help="Show all about one dead letter.",
    epilog=examples(
        "mesh dead-letters show 01936b2e-7c1f-7a40-9d3b-2f6f0c1a5e77",
        "mesh dead-letters show fleet.v1.find-aircraft.dead/3/17 -o json",
    ),
)
def show(
    letter: Annotated[
        str,
        typer.Argument(
            metavar="ID|PLACE",
            help="A message's id, or a place: of the dead letter, or where the message first stood.",
        ),
    ],
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show all about the dead letters of one message: why and where it failed, its headers and body, what was done.

    A message that failed again after a replay has several.
    """
    from broker_mesh.cli import letters
    from broker_mesh.cli.connection import run

    found = run(_find(letter, bootstrap_servers))
    if output is OutputFormat.JSON:
        print_json(
            [{**letters.letter_as_json(one), "settled": letters.claim_as_json(claim)} for one, claim in found]
        )
        return
    for number, (one, claim) in enumerate(found):
        if number:
            print_line("")
        for line in letters.letter_page(one, claim):
            print_line(line)


app.command("replay", short_help="Put dead letters back, once.", epilog=replaying.REPLAY_EXAMPLES)(
    replaying.replay
)
app.command("drop", short_help="Drop dead letters for good.", epilog=replaying.DROP_EXAMPLES)(replaying.drop)


@app.command(
    short_help="Write dead letters as JSON lines.",
    epilog=examples(
        "mesh dead-letters export fleet > letters.jsonl",
        "mesh dead-letters export --status INVALID_ARGUMENT --to-file letters.jsonl",
    ),
)
def export(
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
    to_file: Annotated[
        Path | None,
        typer.Option("--to-file", metavar="FILE", help="A new file. Default: stdout.", show_default=False),
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.JSON,  # noqa: ARG001 - every command takes it; here there is one form
) -> None:
    """Write dead letters that are neither replayed nor dropped as JSON, one object a line, whatever -o says.

    Each has its original bytes (base64), key and headers, what is known of its failure, and its decoded body.
    """
    from broker_mesh.cli.connection import run

    chosen = select(failed, service, operation, status, exception, since, until, key, ids, where)
    run(_export(chosen, to_file, bootstrap_servers))


async def _list_causes(selection: Selection, bootstrap_servers: str | None) -> list[Cause]:
    from broker_mesh.cli.connection import connected
    from broker_mesh.cli.progress import counting
    from broker_mesh.dead_letters import DeadLetters

    async with connected(bootstrap_servers) as connection:
        with counting("reading dead letters") as count:
            dead_letters = DeadLetters(connection.settings, client_id=connection.client_id)
            return await dead_letters.causes(selection, on_progress=count)


async def _list_each(
    selection: Selection, limit: int | None, bootstrap_servers: str | None, output: OutputFormat
) -> None:
    from broker_mesh.cli import letters

    shown = 0
    async with aclosing(_letters(selection, bootstrap_servers)) as batches:
        async for batch in batches:
            for letter in batch:
                if output is OutputFormat.JSON:
                    print_json(letters.letter_as_json(letter), compact=True)
                else:
                    print_line(letters.letter_line(letter))
                shown += 1
                if shown == limit:
                    return
    if not shown and output is OutputFormat.TABLE:
        print_note("There are no such dead letters.")


async def _export(selection: Selection, to_file: Path | None, bootstrap_servers: str | None) -> None:
    if to_file is None:
        await _write(selection, bootstrap_servers, None)
        return
    try:
        with to_file.open("x", encoding="utf-8") as file:
            written = await _write(selection, bootstrap_servers, file)
    except OSError as error:
        reason = "it exists already" if isinstance(error, FileExistsError) else error.strerror or str(error)
        raise FailedPrecondition(f"{to_file} can't be written: {reason}") from error
    print_note(f"{written} dead letters are written to {to_file}")


async def _write(selection: Selection, bootstrap_servers: str | None, file: TextIO | None) -> int:
    from broker_mesh.cli import letters

    written = 0
    async with aclosing(_letters(selection, bootstrap_servers)) as batches:
        async for batch in batches:
            for letter in batch:
                described = letters.letter_as_json(letter)
                if file is None:
                    print_json(described, compact=True)
                else:
                    file.write(json_text(described) + "\n")
                written += 1
    if file is not None:
        file.flush()
        os.fsync(file.fileno())
    return written


async def _letters(
    selection: Selection, bootstrap_servers: str | None
) -> AsyncGenerator[list[DeadLetter], None]:
    from broker_mesh.cli.connection import connected
    from broker_mesh.cli.progress import counting
    from broker_mesh.dead_letters import DeadLetters

    async with connected(bootstrap_servers) as connection:
        dead_letters = DeadLetters(connection.settings, client_id=connection.client_id)
        with counting("reading dead letters") as count:
            async with aclosing(dead_letters.letters(selection, on_progress=count)) as batches:
                async for batch in batches:
                    yield batch


async def _find(name: str, bootstrap_servers: str | None) -> list[tuple[DeadLetter, Claim | None]]:
    from broker_mesh.cli.connection import connected
    from broker_mesh.cli.progress import counting
    from broker_mesh.dead_letters import DeadLetters

    async with connected(bootstrap_servers) as connection:
        with counting("reading dead letters") as count:
            dead_letters = DeadLetters(connection.settings, client_id=connection.client_id)
            return await dead_letters.find(name, on_progress=count)
