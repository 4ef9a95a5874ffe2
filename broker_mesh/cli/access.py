"""`mesh access`: who may call what, and by which rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from broker_mesh.cli.exits import ExitCode
from broker_mesh.cli.options import BootstrapServers, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line, print_note, print_table
from broker_mesh.errors import FailedPrecondition

if TYPE_CHECKING:
    from broker_mesh.control.policy import Policy

app = typer.Typer(
    name="access",
    help="Ask who may call what: the rules of `mesh apply`, and of this folder's files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_LIVE = "mesh apply"


@app.command(
    short_help="Tell whether a service may call an operation, or hear an event.",
    epilog=examples(
        "mesh access can dispatch fleet.v1.find-aircraft",
        "mesh access can board dispatch.v1.events.flight-departed -o json",
    ),
)
def can(
    caller: Annotated[
        str,
        typer.Argument(
            metavar="FROM", help="The calling service, or the subscriber; '' for a client without a name."
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OPERATION|EVENT|TOPIC", help="As in fleet.v1.find-aircraft; or an adopted topic."
        ),
    ],
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Tell whether a service may call an operation, or hear an event; the exit code is 1 when it may not."""
    from broker_mesh import naming
    from broker_mesh.adoption import Validation
    from broker_mesh.errors import SettingsError
    from broker_mesh.layers.authorize import Action, Verdict
    from broker_mesh.settings import nearest

    if caller:
        naming.check_service(caller)
    policy = _policy(bootstrap_servers)
    adopted = policy.adopted.get(target)
    if adopted is None:
        try:
            (naming.parse_event if naming.is_event(target) else naming.parse_operation)(target)
        except SettingsError as error:
            raise SettingsError(
                f"{error.message}, or a topic that is adopted{nearest(target, policy.adopted)}"
            ) from error
    elif adopted.owner is None:
        raise FailedPrecondition(f"topic {target!r} is adopted without an owner: no rule is about it")
    verdict = policy.rules.verdict(caller, target, None if adopted is None else adopted.owner)
    default = "the default, since no rule matches"
    if adopted is not None and adopted.mode is not Validation.ENFORCE and verdict == Verdict(Action.DENY):
        verdict, default = Verdict(Action.AUDIT), "the default, which denies it once the topic is enforced"
    if output is OutputFormat.JSON:
        print_json({"allowed": verdict.allowed, "action": verdict.action.value, "rule": verdict.rule})
    else:
        by = f"rule {verdict.rule!r}" if verdict.rule is not None else default
        print_line(f"{'yes' if verdict.allowed else 'no'}: {verdict.action.value}, by {by}")
    if not verdict.allowed:
        raise typer.Exit(ExitCode.FAILED)


@app.command(
    "list",
    short_help="List the rules that hold.",
    epilog=examples("mesh access list", "mesh access list -o json"),
)
def list_rules(bootstrap_servers: BootstrapServers = None, output: Output = OutputFormat.TABLE) -> None:
    """List the access rules that hold, where each stands, what holds without one, and which can never take effect."""
    from broker_mesh.control.conflicts import without_effect

    policy = _policy(bootstrap_servers)
    rules, warnings = policy.rules, without_effect(policy.rules.rules)
    rows = [
        {
            "name": rule.name,
            "action": rule.action.value,
            "to": rule.to,
            "operations": list(rule.operations),
            "topics": list(rule.topics),
            "from": list(rule.callers),
            "source": _LIVE if f"Access/{rule.name}" in policy.live else "file",
        }
        for rule in rules.rules
    ]
    if output is OutputFormat.JSON:
        print_json({"default": rules.default.value, "rules": rows, "warnings": warnings})
        return
    print_table(
        ["NAME", "ACTION", "TO", "OPERATIONS, TOPICS", "FROM", "SOURCE"],
        [
            [
                rule.name,
                rule.action.value,
                rule.to,
                " ".join(rule.patterns(adopted=True)),
                " ".join(rule.callers),
                str(row["source"]),
            ]
            for rule, row in zip(rules.rules, rows, strict=True)
        ],
    )
    print_line(f"where no rule matches: {rules.default.value}")
    for warning in warnings:
        print_note(f"warning: {warning}")


def _policy(bootstrap_servers: str | None) -> Policy:
    """Read the policy that a process started here would have.

    Raises:
        FailedPrecondition: there is a record that no process can understand.
    """
    import asyncio

    from broker_mesh.cli.connection import connected, run
    from broker_mesh.control.apply import PolicyStore
    from broker_mesh.control.files import read_folder
    from broker_mesh.control.policy import Policy

    async def read() -> Policy:
        async with connected(bootstrap_servers) as connection:
            policy = Policy(read_folder(connection.settings.policy), connection.settings.topics)
            stored = await asyncio.to_thread(PolicyStore(connection.settings, connection.client_id).read)
            for unreadable in stored.unreadable.values():
                if unreadable.optional:
                    continue
                raise FailedPrecondition(
                    f"{unreadable.reason}; update this program, or remove the record with 'mesh delete'"
                )
            policy.live.update(stored.applied)
            policy.compile()
            policy.compile_topics()
            return policy

    return run(read())
