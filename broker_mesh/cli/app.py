"""The commands of `mesh`, in the order in which a newcomer meets them."""

from __future__ import annotations

from typing import Annotated

import typer

from broker_mesh.cli import call, check, dev, run, schemas, send, tap, topics
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
    version: Annotated[  # noqa: ARG001 - typer calls _print_version with it
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options of `mesh` itself."""


app.add_typer(dev.app)
app.command("run", epilog=run.EXAMPLES)(run.run)
app.command("call", epilog=call.EXAMPLES)(call.call)
app.command("send", epilog=send.EXAMPLES)(send.send)
app.command("tap", epilog=tap.EXAMPLES)(tap.tap)
app.command("check", epilog=check.EXAMPLES)(check.check)
app.add_typer(topics.app)
app.add_typer(schemas.app)
