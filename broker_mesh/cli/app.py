"""The commands of `mesh`, in the order in which a newcomer meets them."""

from __future__ import annotations

from typing import Annotated

import typer

from broker_mesh.cli import (
    access,
    adopt,
    apply,
    call,
    check,
    dead_letters,
    dev,
    growing,
    misfits,
    run,
    schemas,
    send,
    tap,
    topics,
    trace,
)
from broker_mesh.cli.exits import MEANINGS

_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in MEANINGS.items())
_EXAMPLES = """\b
Examples:
  mesh dev up
  mesh run package.module:name
  mesh call fleet.v1.find-aircraft '{"tailnum": "N14228"}'
  mesh check"""

app = typer.Typer(
    name="mesh",
    help="A durable service mesh on Apache Kafka: requests that outlive outages.",
    epilog=f"{_EXAMPLES}\n\n{_EXIT_CODES}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mesh {version('broker-mesh')}")
        raise typer.Exit


@app.callback()
def _mesh(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options of `mesh` itself."""


app.add_typer(dev.app, short_help="Run a real Kafka on this machine, for development.")
app.command("run", short_help="Serve a Mesh, in one process or several.", epilog=run.EXAMPLES)(run.run)
app.command("run-worker", hidden=True)(run.work)
app.command("call", short_help="Call an operation and print its reply.", epilog=call.EXAMPLES)(call.call)
app.command("send", short_help="Send a one-way message, or publish an event.", epilog=send.EXAMPLES)(
    send.send
)
app.command("tap", short_help="Watch records as they come.", epilog=tap.EXAMPLES)(tap.tap)
app.command("trace", short_help="Tell the story of one message.", epilog=trace.EXAMPLES)(trace.trace)
app.add_typer(dead_letters.app, short_help="Look at what failed for good; put it back, or drop it.")
app.command("check", short_help="Tell what is fine, what is not, and what to do.", epilog=check.EXAMPLES)(
    check.check
)
app.add_typer(topics.app, short_help="Look at topics, make them, reset offsets.")
topics.app.command(
    "report", short_help="Name the records that enforcing validation would refuse.", epilog=misfits.EXAMPLES
)(misfits.report)
topics.app.command(
    "grow",
    short_help="Give an operation or event more partitions, in order.",
    epilog=growing.EXAMPLES,
)(growing.grow)
app.command(
    "adopt",
    short_help="Look at a topic of other programs, and propose how to adopt it.",
    epilog=adopt.EXAMPLES,
)(adopt.adopt)
app.add_typer(schemas.app, short_help="Look at schemas, and register files.")
app.add_typer(access.app, short_help="Ask who may call what.")
app.command("apply", short_help="Apply the resources of files.", epilog=apply.APPLY_EXAMPLES)(apply.apply)
app.command("diff", short_help="Show what apply would change.", epilog=apply.DIFF_EXAMPLES)(apply.diff)
app.command("get", short_help="Show what was applied.", epilog=apply.GET_EXAMPLES)(apply.get)
app.command("delete", short_help="Delete what was applied.", epilog=apply.DELETE_EXAMPLES)(apply.delete)
