"""`mesh topics grow`: more partitions for an operation or event, and order by key all the while."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker_mesh.cli.options import BootstrapServers, duration, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line, print_note, print_table
from broker_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from broker_mesh.barrier import Growth
    from broker_mesh.cli.connection import Connection
    from broker_mesh.control.growing import Plan
    from broker_mesh.kafka.crossing import Ways

EXAMPLES = examples(
    "mesh topics grow fleet.v1.find-aircraft --partitions 12",
    "mesh topics grow dispatch.v1.events.flight-departed --partitions 24 --settle-seconds 10m --yes",
)

_LOOK_SECONDS = 1.0


def grow(
    name: Annotated[str, typer.Argument(metavar="OPERATION|EVENT", help="As in fleet.v1.find-aircraft.")],
    partitions: Annotated[
        int,
        typer.Option(
            "--partitions", min=1, max=10_000, help="How many it is to have: a multiple of what it has."
        ),
    ],
    settle: Annotated[
        float | None,
        typer.Option(
            "--settle-seconds",
            parser=duration,
            metavar="DURATION",
            help="How long producers may take to learn of new partitions. Default: twice the mesh's own "
            "topic.metadata.refresh.interval.ms; plain clients look each 5 minutes.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait until the services have handled what came before."),
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Give an operation or event more partitions, with its retries, dead letters and results.

    More partitions move keys. Services hold the new partitions until they have handled what came before, so that each
    key stays in order. Broken off at any moment, the same command goes on where it stopped.
    """
    from broker_mesh.cli.connection import run

    planned = run(_plan(name, partitions, bootstrap_servers))
    if planned.growth is not None or planned.adds:
        if output is OutputFormat.TABLE:
            rows = [[topic, str(count)] for topic, count in sorted(planned.adds.items())]
            print_table(["TOPIC", "PARTITIONS"], rows, right=["PARTITIONS"])
        if not yes:
            _confirm(name)
    result = run(_grow(name, partitions, settle, wait, bootstrap_servers))
    if output is OutputFormat.JSON:
        print_json(result)
    else:
        _print(result)


async def _plan(name: str, partitions: int, bootstrap_servers: str | None) -> Plan:
    from broker_mesh.cli.connection import connected
    from broker_mesh.control.growing import find

    async with connected(bootstrap_servers) as connection:
        return await find(name, partitions, connection.settings, connection.admin, _ways(connection))


async def _grow(
    name: str, partitions: int, settle: float | None, wait: bool, bootstrap_servers: str | None
) -> dict[str, Any]:
    from broker_mesh.cli.connection import connected
    from broker_mesh.cli.output import spinning
    from broker_mesh.cli.progress import counting
    from broker_mesh.control.growing import Growing, find, settling_seconds

    async with connected(bootstrap_servers) as connection:
        ways = _ways(connection)
        plan = await find(name, partitions, connection.settings, connection.admin, ways)
        growing = Growing(plan, connection.admin, ways)
        await growing.record()
        await growing.add()
        if plan.growth is not None:
            seconds = settling_seconds(connection.settings) if settle is None else settle
            print_note(f"{name} has {partitions} partitions: {seconds:g} s until all producers know of them")
            with counting("letting producers learn of them") as told:
                await growing.settle(seconds, lambda passed: told(round(passed), round(seconds)))
            with spinning("drawing the barrier"):
                await growing.draw()
        groups = await _follow(connection, plan, ways, wait)
    return {"topic": name, "partitions": partitions, "grown": sorted(plan.adds), "groups": groups}


async def _follow(connection: Connection, plan: Plan, ways: Ways, wait: bool) -> list[dict[str, Any]]:
    """Look how far the groups are behind the last growth, and wait for those that work."""
    import asyncio

    from broker_mesh.cli.progress import counting
    from broker_mesh.kafka.crossing import Crossing

    growths = [growth for growth in await ways.growths([plan.topic]) if growth.ends is not None]
    if not growths:
        return []
    last: Growth = max(growths, key=lambda growth: growth.after)
    crossings = {group: Crossing(last, group, retry, ways) for group, retry in plan.followers.items()}
    with counting("waiting for what came before to be handled") as told:
        most = 0
        while True:
            left = {group: await crossing.left() for group, crossing in crossings.items()}
            known = await connection.groups.describe(list(crossings))
            rows = [
                {
                    "group": group,
                    "members": len(known[group].members),
                    "passed": left[group] == 0,
                    "left": left[group],
                }
                for group in crossings
            ]
            if not wait or all(row["passed"] or not row["members"] for row in rows):
                return rows
            count = sum(number or 0 for number in left.values())
            most = max(most, count)
            told(most - count, most)
            await asyncio.sleep(_LOOK_SECONDS)


def _ways(connection: Connection) -> Ways:
    from broker_mesh.kafka.crossing import Ways

    return Ways(connection.settings, connection.client_id, connection.admin, connection.groups)


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidArgument("topics grow only after a confirmation: add --yes where nobody can be asked")
    if not typer.confirm(f"Grow {name}? Kafka can't take partitions away again.", err=True):
        print_note("Nothing was done.")
        raise typer.Exit(1)


def _print(result: dict[str, Any]) -> None:
    print_line(f"{result['topic']} has {result['partitions']} partitions")
    for row in result["groups"]:
        if row["passed"]:
            said = "has handled what came before, and begins with the new ones"
        elif row["members"]:
            said = "begins with the new ones when it has handled what came before"
        else:
            said = "has no instance now: it begins with the new ones when it has handled what came before"
        print_line(f"{row['group']} {said}")
