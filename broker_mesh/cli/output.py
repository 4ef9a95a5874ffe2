"""What every command prints with: results to stdout, everything else to stderr, and errors as one sentence.

Rich is imported when something is drawn, so that `mesh --help` and `-o json` don't pay for it.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from broker_mesh.errors import MeshError

_WIDTH_OF_A_PIPE = 160


class OutputFormat(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[
    OutputFormat, typer.Option("--output", "-o", help="A table for people, or JSON for programs.")
]


def print_json(value: Any) -> None:
    """Print a result as JSON on stdout; one document, ready for `jq`."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def stdout() -> Console:
    """The console for results."""
    return _console(sys.stdout)


def stderr() -> Console:
    """The console for progress, hints and errors."""
    return _console(sys.stderr)


def fail(error: MeshError, code: int = 1) -> NoReturn:
    """Print an error as its one sentence on stderr, and end the command.

    Args:
        error: what went wrong.
        code: the exit code.
    """
    stderr().print(f"Error: {error.message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code) from error


def _console(file: TextIO) -> Console:
    from rich.console import Console

    # Without a terminal there are neither colours nor a width: lines are not broken for a screen nobody looks at.
    return Console(file=file, width=None if file.isatty() else _WIDTH_OF_A_PIPE)
