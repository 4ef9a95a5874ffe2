"""`mesh apply`, `diff`, `get` and `delete`: the resources on `_mesh.policy`, which every process follows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker_mesh.cli.exits import ExitCode
from broker_mesh.cli.options import BootstrapServers, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line, print_note, print_table
from broker_mesh.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker_mesh.cli.connection import Connection
    from broker_mesh.control.apply import Change, Plan, PolicyStore, Stored
    from broker_mesh.control.resources import Resource

APPLY_EXAMPLES = examples(
    "mesh apply -f policy", "mesh apply -f access.yaml --dry-run", "mesh apply -f - < rules.yaml"
)
DIFF_EXAMPLES = examples("mesh diff -f policy", "mesh diff -f policy --prune")
GET_EXAMPLES = examples("mesh get", "mesh get Access", "mesh get Access only-dispatch -o json")
DELETE_EXAMPLES = examples("mesh delete Access only-dispatch")

Files = Annotated[
    list[Path],
    typer.Option(
        "--file",
        "-f",
        metavar="FILE|FOLDER|-",
        help="A YAML file, a folder of such, or - for standard input; may be repeated.",
        show_default=False,
    ),
]

Prune = Annotated[
    bool, typer.Option("--prune", help="Delete what was applied before and is not in the files.")
]


def apply(
    files: Files,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")
    ] = False,
    prune: Prune = False,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Apply the resources of files: all of them, or none when one is wrong. Running processes follow at once."""
    desired = _read(files)
    found: Plan = _with_store(
        bootstrap_servers,
        lambda store: _planned(store, desired, prune) if dry_run else store.apply(desired, prune=prune),
        desired,
    )
    if output is OutputFormat.JSON:
        changes = [{"resource": change.key, "change": change.effect.value} for change in found.changes]
        print_json({"done": not dry_run, "changes": changes, "warnings": list(found.warnings)})
        return
    print_table(["RESOURCE", "CHANGE"], [[change.key, change.effect.value] for change in found.changes])
    _print_warnings(found.warnings)
    if dry_run:
        print_line("nothing was done: --dry-run")


def diff(
    files: Files,
    prune: Prune = False,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show what `apply` would change; the exit code is 1 when it would change something."""
    from broker_mesh.control.apply import Effect

    desired = _read(files)
    found: Plan = _with_store(bootstrap_servers, lambda store: _planned(store, desired, prune), desired)
    differing = [change for change in found.changes if change.effect is not Effect.UNCHANGED]
    if output is OutputFormat.JSON:
        rows = [
            {
                "resource": change.key,
                "change": change.effect.value,
                "before": _spec(change.before),
                "after": _spec(change.after),
            }
            for change in differing
        ]
        print_json({"changes": rows, "warnings": list(found.warnings)})
    else:
        for change in differing:
            _print_difference(change)
        _print_warnings(found.warnings)
        if not differing:
            print_line("nothing differs")
    if differing:
        raise typer.Exit(ExitCode.FAILED)


def get(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="Access, Mesh or Topic. Default: all.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Default: all of the kind.", show_default=False)
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show what was applied, by whom and when."""
    from broker_mesh.control.apply import find

    stored: Stored = _with_store(bootstrap_servers, lambda store: store.read())
    keys = sorted({*stored.applied, *stored.unreadable}) if kind is None else find(stored, kind, name)
    rows = [_row(stored, key) for key in keys]
    if output is OutputFormat.JSON:
        print_json(rows)
        return
    print_table(
        ["KIND", "NAME", "SPEC", "APPLIED", "BY"],
        [
            [
                row["kind"],
                row["name"],
                row["unreadable"] or _inline(row["spec"]),
                row["applied_at"] or "-",
                row["applied_by"] or "-",
            ]
            for row in rows
        ],
    )


def delete(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Access, Mesh or Topic.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `mesh get` shows it.")],
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Delete a resource; running processes follow at once."""
    change: Change = _with_store(bootstrap_servers, lambda store: store.delete(kind, name))
    if output is OutputFormat.JSON:
        print_json({"resource": change.key, "change": change.effect.value})
    else:
        print_line(f"{change.key} is deleted")


def _with_store(
    bootstrap_servers: str | None,
    action: Callable[[PolicyStore], Any],
    desired: Mapping[str, Resource] = MappingProxyType({}),
) -> Any:
    import asyncio

    from broker_mesh.cli.connection import connected, run
    from broker_mesh.control.apply import PolicyStore

    async def act() -> Any:
        async with connected(bootstrap_servers) as connection:
            await _require_schemas(connection, desired)
            return await asyncio.to_thread(action, PolicyStore(connection.settings, connection.client_id))

    return run(act())


async def _require_schemas(connection: Connection, desired: Mapping[str, Resource]) -> None:
    """Return where each topic that is to be enforced has a schema: without one, all its values would be refused.

    Raises:
        FailedPrecondition: one has none.
    """
    from broker_mesh.adoption import Validation
    from broker_mesh.cli.connection import read_registry
    from broker_mesh.control.adopted import missing_schema
    from broker_mesh.control.resources import adoptions

    enforced = {
        topic: adoption
        for topic, adoption in adoptions(desired.values()).items()
        if adoption.mode is Validation.ENFORCE
    }
    if not enforced:
        return
    await read_registry(connection)
    for topic, adoption in enforced.items():
        subject = adoption.subject_of(topic)
        if connection.registry.latest(subject) is None:
            problem = missing_schema(subject, is_foreign=connection.registry.is_foreign(subject))
            raise FailedPrecondition(
                f"topic {topic!r} can't be enforced: {problem}; 'mesh adopt {topic}' drafts a schema where it can, "
                "'mesh schemas register' registers it"
            )


def _planned(store: PolicyStore, desired: dict[str, Resource], prune: bool) -> Plan:
    return store.plan(desired, store.read(), prune=prune)


def _read(files: list[Path]) -> dict[str, Resource]:
    from broker_mesh.control.files import read_files

    desired = read_files(files)
    if not desired:
        raise InvalidArgument(
            f"there is no resource in {', '.join(map(str, files))}: a folder's files end in .yaml or .yml"
        )
    return desired


def _spec(resource: Resource | None) -> Any:
    from broker_mesh.control.resources import plain

    return None if resource is None else plain(resource)["spec"]


def _row(stored: Stored, key: str) -> dict[str, Any]:
    kind, _, name = key.partition("/")
    applied, unreadable = stored.applied.get(key), stored.unreadable.get(key)
    return {
        "kind": kind,
        "name": name,
        "spec": _spec(applied.resource) if applied else None,
        "applied_at": _moment(applied.at) if applied else None,
        "applied_by": applied.by if applied else None,
        "unreadable": unreadable.reason if unreadable else None,
    }


def _moment(epoch_ms: int) -> str | None:
    if not 0 < epoch_ms < 253_402_300_800_000:  # the year 10000
        return None
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _inline(spec: Any) -> str:
    if isinstance(spec, dict):
        return ", ".join(f"{field}: {_inline(part)}" for field, part in spec.items())
    return " ".join(map(str, spec)) if isinstance(spec, list) else str(spec)


def _print_difference(change: Change) -> None:
    print_line(f"{change.key} would be {change.effect.value}")
    before, after = _spec(change.before) or {}, _spec(change.after) or {}
    for field in dict.fromkeys((*before, *after)):
        if before.get(field) == after.get(field):
            continue
        for sign, spec in (("-", before), ("+", after)):
            if field in spec:
                print_line(f"  {sign} {field}: {_inline(spec[field])}")


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print_note(f"warning: {warning}")
