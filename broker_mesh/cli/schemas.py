"""`mesh schemas`: the schemas of the registry, and those of a folder of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker_mesh.cli.exits import ExitCode
from broker_mesh.cli.options import BootstrapServers, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line, print_table
from broker_mesh.errors import NotFound

if TYPE_CHECKING:
    from broker_mesh.cli.connection import Connection
    from broker_mesh.contracts.schema import AvroSchema
    from broker_mesh.contracts.store import RegisteredSchema

app = typer.Typer(
    name="schemas",
    help="Look at the registered schemas, and register those of files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Directory = Annotated[
    Path | None,
    typer.Argument(
        metavar="DIR",
        help="Holds one folder per service. Default: the setting `schemas`.",
        show_default=False,
    ),
]


@app.command("list", epilog=examples("mesh schemas list", "mesh schemas list -o json | jq '.[].subject'"))
def list_subjects(bootstrap_servers: BootstrapServers = None, output: Output = OutputFormat.TABLE) -> None:
    """List the registered subjects with their newest version."""
    from broker_mesh.cli.connection import run

    found = run(_list(bootstrap_servers))
    if output is OutputFormat.JSON:
        print_json(found)
        return
    rows = [[row["subject"], str(row["version"]), str(row["id"]), row["compatibility"]] for row in found]
    print_table(["SUBJECT", "VERSION", "ID", "COMPATIBILITY"], rows, right=["VERSION", "ID"])


@app.command(
    epilog=examples(
        "mesh schemas show fleet.v1.find-aircraft-value",
        "mesh schemas show fleet.v1.find-aircraft.reply-value --version 1",
    )
)
def show(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="As `mesh schemas list` names it.")],
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Default: the newest.", show_default=False)
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print a schema."""
    from broker_mesh.cli.connection import run

    found = run(_show(subject, version, bootstrap_servers))
    definition = found.schema.definition
    if output is OutputFormat.JSON:
        print_json({"subject": found.subject, "version": found.version, "id": found.id, "schema": definition})
        return
    print_line(f"{found.subject}, version {found.version}, id {found.id}")
    print_line(json.dumps(definition, indent=2, ensure_ascii=False))


@app.command(
    short_help="Tell what `register` would do.",
    epilog=examples("mesh schemas check", "mesh schemas check path/to/schemas -o json"),
)
def check(
    directory: Directory = None,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Tell what `register` would do with a folder's files; the exit code is 1 when one is not compatible."""
    from broker_mesh.cli.connection import run

    _print_verdicts(run(_judge_folder(directory, bootstrap_servers, register=False)), output)


@app.command(
    short_help="Register the schemas of a folder's files.",
    epilog=examples("mesh schemas register", "mesh schemas register path/to/schemas"),
)
def register(
    directory: Directory = None,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Register the schemas of a folder's files: all, or none when one is not compatible (exit code 1)."""
    from broker_mesh.cli.connection import run

    _print_verdicts(run(_judge_folder(directory, bootstrap_servers, register=True)), output)


async def _list(bootstrap_servers: str | None) -> list[dict[str, Any]]:
    from broker_mesh.cli.connection import connected, read_registry

    async with connected(bootstrap_servers) as connection:
        await read_registry(connection)
        registry = connection.registry
        latest = [registry.latest(subject) for subject in registry.subjects()]
        return [
            {
                "subject": found.subject,
                "version": found.version,
                "id": found.id,
                "compatibility": registry.compatibility(found.subject),
            }
            for found in latest
            if found is not None
        ]


async def _show(subject: str, version: int | None, bootstrap_servers: str | None) -> RegisteredSchema:
    from broker_mesh.cli.connection import connected, read_registry
    from broker_mesh.settings import nearest

    async with connected(bootstrap_servers) as connection:
        await read_registry(connection)
        versions = connection.registry.versions(subject)
        if not versions:
            hint = (
                nearest(subject, connection.registry.subjects()) or "; mesh schemas list shows what there is"
            )
            raise NotFound(f"there is no subject {subject!r}{hint}")
        if version is None:
            return versions[-1]
        for found in versions:
            if found.version == version:
                return found
        there_are = ", ".join(str(found.version) for found in versions)
        raise NotFound(f"{subject} has no version {version} (there are {there_are})")


async def _judge_folder(
    directory: Path | None, bootstrap_servers: str | None, *, register: bool
) -> list[dict[str, Any]]:
    """Tell of each file what is the matter with it; register all where nothing is."""
    import asyncio

    from broker_mesh.cli.connection import connected, read_registry
    from broker_mesh.contracts.files import load_schema_files

    async with connected(bootstrap_servers) as connection:
        folder = directory or connection.settings.schemas
        if not folder.is_dir():
            raise NotFound(f"there is no folder {str(folder)!r}: name the one that holds the schema files")
        schemas = load_schema_files(folder, connection.settings.topics)
        if not schemas:
            raise NotFound(
                f"folder {str(folder)!r} holds no schema file: they are <service>/<version>.<name>.avsc in it, and "
                "_topics/<topic>.avsc for adopted topics"
            )
        await read_registry(connection)
        verdicts = [_verdict(connection, subject, schema) for subject, schema in schemas.items()]
        if register and not any(verdict["problems"] for verdict in verdicts):
            registered = await asyncio.to_thread(connection.registry.register_all, schemas)
            for verdict in verdicts:
                found = registered[verdict["subject"]]
                if verdict["state"] == "new":
                    verdict["state"] = "registered"
                verdict |= {"version": found.version, "id": found.id}
        return verdicts


def _verdict(connection: Connection, subject: str, schema: AvroSchema) -> dict[str, Any]:
    found = connection.registry.find(subject, schema)
    problems = connection.registry.check(subject, schema)
    return {
        "subject": subject,
        "state": "incompatible" if problems else "unchanged" if found else "new",
        "version": found.version if found else None,
        "id": found.id if found else None,
        "problems": problems,
    }


def _print_verdicts(verdicts: list[dict[str, Any]], output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        print_json(verdicts)
    else:
        rows = [
            [verdict["subject"], verdict["state"], str(verdict["version"] or ""), str(verdict["id"] or "")]
            for verdict in verdicts
        ]
        print_table(["SUBJECT", "STATE", "VERSION", "ID"], rows, right=["VERSION", "ID"])
        for verdict in verdicts:
            for problem in verdict["problems"]:
                print_line(f"{verdict['subject']}: {problem}")
    if any(verdict["problems"] for verdict in verdicts):
        raise typer.Exit(ExitCode.FAILED)
