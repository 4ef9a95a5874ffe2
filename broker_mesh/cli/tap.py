"""`mesh tap`: watch records as they come, decoded, without disturbing anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from broker_mesh.cli.options import BootstrapServers, Key, Kinds, Since, Statuses, Where, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line

if TYPE_CHECKING:
    from broker_mesh.cli.filtering import Filter

EXAMPLES = examples(
    "mesh tap fleet.v1.find-aircraft",
    "mesh tap fleet --since 10m",
    "mesh tap fleet --kind dead --status UNAVAILABLE --since 1d",
    "mesh tap fleet.v1.find-aircraft --source dispatch --where \"starts_with(tailnum, 'N1')\"",
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
        typer.Option("--limit", "-n", min=1, help="End after so many are shown.", show_default=False),
    ] = None,
    since: Since = None,
    kind: Kinds = None,
    status: Statuses = None,
    key: Key = None,
    message_id: Annotated[
        str | None,
        typer.Option("--id", help="Only the message with this id, and replies to it.", show_default=False),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="SERVICE", help="Only what this service has sent.", show_default=False
        ),
    ] = None,
    where: Where = None,
    headers: Annotated[bool, typer.Option("--headers", help="Show all headers.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Show values as bytes, not decoded.")] = False,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Follow records live, one line each; with -o json one object a line. Ctrl-C ends it.

    It joins no group and commits nothing. What can't be decoded is shown as bytes, with the reason. Of several
    filters all have to fit.
    """
    from broker_mesh.cli.connection import run
    from broker_mesh.cli.filtering import Filter
    from broker_mesh.expression import Expression

    if raw and where is not None:
        raise typer.BadParameter("it needs decoded values: leave out --raw", param_hint="--where")
    if from_beginning and since is not None:
        raise typer.BadParameter("give either --from-beginning or --since", param_hint="--since")
    wanted = Filter(
        kinds=frozenset(kind or ()),
        statuses=frozenset(status or ()),
        key=key,
        id=message_id,
        source=source,
        where=None if where is None else Expression(where),
    )
    start = 0 if from_beginning else since
    run(_tap(name, wanted, start, limit, headers, raw, bootstrap_servers, output))


async def _tap(
    name: str,
    wanted: Filter,
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
            async for followed in batches:
                batch = [record for record in followed if wanted.admits(record)]
                values = await asyncio.to_thread(decoder.decode_all, [record.value for record in batch])
                for record, value in zip(batch, values, strict=True):
                    if not wanted.holds(value):
                        continue
                    if output is OutputFormat.JSON:
                        print_json(records.as_json(record, value, with_headers=with_headers), compact=True)
                    else:
                        print_line(records.as_line(record, value, with_headers=with_headers))
                    shown += 1
                    if shown == limit:
                        return
