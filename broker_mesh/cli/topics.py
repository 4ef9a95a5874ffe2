"""`mesh topics`: the topics of the mesh, who works on them, and what waits in them."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker_mesh.cli.options import BootstrapServers, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line, print_note, print_table
from broker_mesh.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from broker_mesh.cli.connection import Connection

app = typer.Typer(
    name="topics",
    help="Look at the topics of the mesh, make them, and set a group's offsets anew.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


# Those that decide what is kept, and how well; `-o json` has all.
_SHOWN_PROPERTIES = (
    "cleanup.policy",
    "retention.ms",
    "retention.bytes",
    "max.message.bytes",
    "min.insync.replicas",
    "unclean.leader.election.enable",
)


class Position(StrEnum):
    """Where a group is set to."""

    EARLIEST = "earliest"
    LATEST = "latest"


@app.command(
    "list",
    short_help="List topics, and what waits in them.",
    epilog=examples("mesh topics list", "mesh topics list -o json"),
)
def list_topics(bootstrap_servers: BootstrapServers = None, output: Output = OutputFormat.TABLE) -> None:
    """List operations, events and reply topics: what waits for its service, and what is dead-lettered."""
    from broker_mesh.cli.connection import run
    from broker_mesh.cli.inventory import inventory

    found = run(_with(bootstrap_servers, inventory))
    if output is OutputFormat.JSON:
        print_json([row._asdict() for row in found])
        return
    rows = [
        [
            row.name,
            row.kind,
            row.service or "-",
            str(row.partitions),
            str(row.replication_factor),
            _count(row.waiting),
            _count(row.dead_letters),
        ]
        for row in found
    ]
    headings = ["NAME", "KIND", "SERVICE", "PARTITIONS", "REPLICAS", "WAITING", "DEAD LETTERS"]
    print_table(headings, rows, right=headings[3:])


@app.command(
    short_help="Show a topic and the groups that read it.",
    epilog=examples("mesh topics show fleet.v1.find-aircraft"),
)
def show(
    name: Annotated[str, typer.Argument(metavar="TOPIC", help="An operation, an event, or any topic.")],
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show a topic: its partitions, its configuration, and the groups that read it."""
    from broker_mesh.cli.connection import run
    from broker_mesh.cli.inventory import details

    found = run(_with(bootstrap_servers, lambda connection: details(connection, name)))
    if output is OutputFormat.JSON:
        print_json(found)
        return
    print_line(f"{found['name']}: {found['kind']}, {found['replication_factor']} replica(s)")
    print_line("")
    print_table(
        ["PARTITION", "FIRST", "END", "RECORDS"],
        [[str(row[key]) for key in ("partition", "first", "end", "records")] for row in found["partitions"]],
        right=["PARTITION", "FIRST", "END", "RECORDS"],
    )
    print_line("")
    headings = ["GROUP", "STATE", "MEMBERS", "WAITING", "OLDEST", "IN FLIGHT", "PARKED KEYS", "CIRCUIT"]
    print_table(headings, [_shown(group) for group in found["groups"]], right=headings[2:7])
    print_line("")
    config = found["config"]
    print_table(["PROPERTY", "VALUE"], [[key, config[key]] for key in _SHOWN_PROPERTIES if key in config])


@app.command(
    short_help="Make the topics of an operation or event.",
    epilog=examples(
        "mesh topics create fleet.v1.find-aircraft",
        "mesh topics create dispatch.v1.events.flight-departed --event",
    ),
)
def create(
    name: Annotated[str, typer.Argument(metavar="OPERATION", help="Its name, as in fleet.v1.find-aircraft.")],
    event: Annotated[bool, typer.Option("--event", help="It is an event, not an operation.")] = False,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Make the topics of an operation or event before its service has ever run; what exists stays as it is."""
    from broker_mesh.cli.connection import run

    made = run(_with(bootstrap_servers, lambda connection: _create(connection, name, event)))
    if output is OutputFormat.JSON:
        print_json({"made": made})
    else:
        print_line("made " + ", ".join(made) if made else f"{name} exists already")


@app.command(
    "reset-offsets",
    short_help="Set a group's offsets on a topic anew.",
    epilog=examples(
        "mesh topics reset-offsets fleet.v1.find-aircraft --group fleet --to earliest --dry-run",
        "mesh topics reset-offsets fleet.v1.find-aircraft --group fleet --to latest --yes",
    ),
)
def reset_offsets(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="An operation, an event, or any topic.")],
    group: Annotated[
        str,
        typer.Option(
            "--group", help="The group, named after its service, as in fleet; it must have no members."
        ),
    ],
    to: Annotated[
        Position, typer.Option("--to", help="earliest: handle all that is kept; latest: skip all that waits.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Set the committed offsets of a group on a topic anew, while its service is stopped.

    To earliest, records that were handled are handled again. To latest, records that wait are never handled.
    """
    from broker_mesh.cli.connection import run

    plan = run(_with(bootstrap_servers, lambda connection: _plan(connection, topic, group, to)))
    if output is OutputFormat.TABLE:
        rows = [[str(row["partition"]), _count(row["from"]), str(row["to"])] for row in plan]
        print_table(["PARTITION", "FROM", "TO"], rows, right=["PARTITION", "FROM", "TO"])
    done = not dry_run
    if done:
        if not yes:
            _confirm(group, topic)
        run(_with(bootstrap_servers, lambda connection: _reset(connection, topic, group, plan)))
    if output is OutputFormat.JSON:
        print_json({"topic": topic, "group": group, "done": done, "partitions": plan})
    else:
        print_line(f"{group} is set to {to.value} on {topic}" if done else "nothing was done: --dry-run")


def _confirm(group: str, topic: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidArgument(
            "offsets are set only after a confirmation: add --yes where nobody can be asked"
        )
    if not typer.confirm(f"Set the offsets of group {group} on {topic}?", err=True):
        print_note("Nothing was done.")
        raise typer.Exit(1)


async def _with(bootstrap_servers: str | None, action: Any) -> Any:
    from broker_mesh.cli.connection import connected

    async with connected(bootstrap_servers) as connection:
        return await action(connection)


async def _create(connection: Connection, name: str, event: bool) -> list[str]:
    from broker_mesh import naming
    from broker_mesh.kafka import topics

    if not event and naming.is_event(name):
        raise InvalidArgument(f"{name!r} is an event's name: add --event")
    (naming.parse_event if event else naming.parse_operation)(name)
    kept = topics.replication(connection.settings, await connection.admin.count_brokers())
    specs = (
        [topics.event_topic(name, connection.settings, kept)]
        if event
        else topics.operation_topics(name, connection.settings, kept)
    )
    return await connection.admin.create(specs)


async def _plan(connection: Connection, topic: str, group: str, to: Position) -> list[dict[str, Any]]:
    from broker_mesh import naming
    from broker_mesh.settings import nearest

    described = (await connection.admin.describe([topic])).get(topic)
    if described is None:
        hint = nearest(topic, await connection.admin.topic_names())
        raise NotFound(f"there is no topic {topic!r}{hint}")
    names = await connection.groups.names()
    if group not in names:
        # A group that Kafka has dropped, or whose service has never run, is set here before the service starts.
        if not naming.is_group(group):
            hint = nearest(group, names) or ": a group has its service's name, as in 'fleet'"
            raise NotFound(f"there is no group {group!r}{hint}")
        print_note(f"Kafka knows no group {group!r} now: its offsets are set for the start of its service")
    await connection.groups.require_no_members(group)
    partitions = [(topic, number) for number in range(described.partitions)]
    committed = await connection.groups.committed(group, partitions)
    bounds = await connection.groups.bounds(partitions)
    return [
        {
            "partition": number,
            "from": committed.get((topic, number)),
            "to": held.first if to is Position.EARLIEST else held.end,
        }
        for (_, number), held in sorted(bounds.items())
    ]


async def _reset(connection: Connection, topic: str, group: str, plan: list[dict[str, Any]]) -> None:
    await connection.groups.reset(group, {(topic, row["partition"]): row["to"] for row in plan})


def _shown(group: dict[str, Any]) -> list[str]:
    from broker_mesh.control.queues import duration

    queue = group["queue"]
    oldest = "-" if queue["oldest_seconds"] is None else duration(queue["oldest_seconds"])
    figures = [str(group[name]) for name in ("group", "state", "members", "waiting")]
    return [*figures, oldest, str(queue["in_flight"]), str(queue["parked"]), queue["circuit"]]


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)
