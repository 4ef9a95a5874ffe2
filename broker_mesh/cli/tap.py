"""`mesh tap`: watch records as they come, decoded, without disturbing anybody."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from broker_mesh.cli.options import BootstrapServers, duration, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line

EXAMPLES = examples(
    "mesh tap fleet.v1.find-aircraft",
    "mesh tap fleet --since 10m",
    "mesh tap dispatch.v1.events.flight-departed --from-beginning --limit 10 -o json",
)


def tap(
    name: Annotated[
        str,
        typer.Argument(
            metavar="OPERATION|EVENT|SERVICE|TOPIC",
            help="An operation with its replies, retries and dead letters; an event; all of a service; a topic.",
        ),
    ],
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with all that is kept.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help="End after so many records.", show_default=False),
    ] = None,
    since: Annotated[
        float | None,
        typer.Option(
            "--since",
            parser=duration,
            metavar="DURATION",
            help="Begin with what came within this time, as in 10m.",
            show_default=False,
        ),
    ] = None,
    headers: Annotated[bool, typer.Option("--headers", help="Show all headers.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Show values as bytes, not decoded.")] = False,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Follow records live, one line each; with -o json one object a line. Ctrl-C ends it.

    It joins no group and commits nothing. What can't be decoded is shown as bytes, with the reason.
    """
    from broker_mesh.cli.connection import run

    if from_beginning and since is not None:
        raise typer.BadParameter("give either --from-beginning or --since", param_hint="--since")
    start = 0 if from_beginning else None if since is None else round((time.time() - since) * 1000)
    run(_tap(name, start, limit, headers, raw, bootstrap_servers, output))


async def _tap(
    name: str,
    since: int | None,
    limit: int | None,
    with_headers: bool,
    raw: bool,
    bootstrap_servers: str | None,
    output: OutputFormat,
) -> None:
    import asyncio
    from contextlib import aclosing

    from broker_mesh.cli import records
    from broker_mesh.cli.connection import connected, read_registry
    from broker_mesh.cli.following import follow

    shown = 0
    async with connected(bootstrap_servers) as connection:
        if not raw:
            await read_registry(connection)
        decoder = records.Decoder(None if raw else connection.registry)
        async with aclosing(follow(connection, name, since=since)) as batches:
            async for batch in batches:
                values = await asyncio.to_thread(decoder.decode_all, [record.value for record in batch])
                for record, value in zip(batch, values, strict=True):
                    if output is OutputFormat.JSON:
                        print_json(records.as_json(record, value, with_headers=with_headers), compact=True)
                    else:
                        print_line(records.as_line(record, value, with_headers=with_headers))
                    shown += 1
                    if shown == limit:
                        return
