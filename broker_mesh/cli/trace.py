"""`mesh trace`: follow one message over topics, attempts and replays, told as one story."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from broker_mesh.cli.options import BootstrapServers, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line, print_table

if TYPE_CHECKING:
    from broker_mesh.cli.connection import Connection
    from broker_mesh.standing import Standing
    from broker_mesh.story import Story

EXAMPLES = examples(
    "mesh trace 01936b2e-7c1f-7a40-9d3b-2f6f0c1a5e77",
    "mesh trace 01936b2e-7c1f-7a40-9d3b-2f6f0c1a5e77 --operation fleet.v1.find-aircraft",
    "mesh trace mesh1.WyIwMTk…",
    "mesh trace fleet.v1.find-aircraft.dead/3/17 -o json",
)


def trace(
    message: Annotated[
        str,
        typer.Argument(
            metavar="ID|HANDLE|PLACE",
            help="A message's id, a request's handle, or a record's place: topic/partition/offset.",
        ),
    ],
    operation: Annotated[
        str | None,
        typer.Option(
            "--operation",
            metavar="OPERATION|EVENT",
            help="What it is of; with an id alone, all topics would be looked through.",
            show_default=False,
        ),
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Tell the story of one message, in its order: sent, attempts, retries, dead letter, replays, replies.

    Where it is not done yet, it says where it waits. The trace's id finds the same in Jaeger. It joins no group and
    commits nothing.
    """
    from broker_mesh.cli import telling
    from broker_mesh.cli.connection import run
    from broker_mesh.message import now_ms

    story, found = run(_trace(message, operation, bootstrap_servers))
    if output is OutputFormat.JSON:
        print_json(telling.as_json(story, found))
        return
    for line in telling.heading(story):
        print_line(line)
    print_line("")
    print_table(telling.HEADINGS, telling.rows(story), right=["AFTER"])
    print_line("")
    for standing in found:
        print_line(telling.ending(story, standing, now_ms()))


async def _trace(
    message: str, operation: str | None, bootstrap_servers: str | None
) -> tuple[Story, list[Standing]]:
    from broker_mesh import story
    from broker_mesh.cli import searching
    from broker_mesh.cli.connection import connected
    from broker_mesh.cli.progress import counting
    from broker_mesh.cli.sought import understand

    async with connected(bootstrap_servers) as connection:
        sought = await understand(connection, message, operation)
        with counting("reading records") as count:
            found = await searching.gather(connection, sought, count)
        told = story.tell(found.id, found.records, found.dropped, found.put_back)
        return told, await _standings(connection, told, found.subscriptions)


async def _standings(connection: Connection, told: Story, subscriptions: list[str]) -> list[Standing]:
    from broker_mesh.cli.queues import read_groups
    from broker_mesh.message import now_ms
    from broker_mesh.standing import Group, readers, standings

    found = await read_groups(connection)
    groups = {each.group.name: Group(each.offsets, len(each.group.members)) for each in found}
    reading = {
        each.group.name: {topic for topic, _ in each.offsets}
        | {topic for member in each.group.members for topic, _ in member.partitions}
        for each in found
        if each.group.exists
    }
    return standings(told, readers(told, subscriptions, reading), groups, now_ms())
