"""What every command prints with: results to stdout, everything else to stderr, and errors as one sentence.

Rich is imported when something is drawn, so that `mesh --help` and `-o json` don't pay for it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from broker_mesh.errors import MeshError

# JSON escapes what is below U+0020 by itself. What else steers a terminal (C1 controls, the direction of writing), or
# can't be written as UTF-8 (halves of surrogate pairs, which a record's own JSON may name), stands in strings only.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_WIDTH_OF_A_PIPE = 160
_UNBOUNDED = 100_000


class OutputFormat(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[
    OutputFormat, typer.Option("--output", "-o", help="A table for people, or JSON for programs.")
]


def print_json(value: Any, *, compact: bool = False) -> None:
    """Print a result as JSON on stdout; one document, ready for `jq`.

    Args:
        value: JSON values.
        compact: in one line.
    """
    print_line(json_text(value, indent=None if compact else 2))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Write JSON values as a text that is valid JSON and UTF-8, and safe to show, whatever a record has put into them.

    Args:
        value: JSON values; numbers that JSON has not (NaN, infinities) become their names.
        indent: spaces for each level; None for one line.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        from broker_mesh.contracts.plain_json import value_to_json

        text = json.dumps(value_to_json(value), indent=indent, ensure_ascii=False)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable(text: str) -> str:
    """Escape what is no printable character: a record must not steer the terminal that shows it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_line(text: str) -> None:
    """Print a line of a result on stdout, at once: a reader behind a pipe waits for it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_note(text: str) -> None:
    """Print a line beside the result on stderr, at once; more, where a text has several."""
    sys.stderr.write(_safe_lines(text) + "\n")
    sys.stderr.flush()


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print a table on stdout.

    Args:
        headings: of the columns.
        rows: of texts.
        right: headings of the columns that are aligned to the right.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = stdout()
    # A name cut short can't be copied: rather longer lines than the terminal's, which it wraps.
    needed = console.measure(table, options=console.options.update(max_width=_UNBOUNDED)).maximum
    console.width = max(console.width, needed)
    console.print(table, highlight=False)


@contextmanager
def spinning(text: str) -> Iterator[None]:
    """Show on a terminal that a block waits for something; elsewhere show nothing."""
    if not sys.stderr.isatty():
        yield
        return
    with stderr().status(text):
        yield


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
    print_error(error)
    raise typer.Exit(code) from error


def print_error(error: MeshError) -> None:
    """Print an error as its one sentence on stderr."""
    shown = f"Error: {_safe_lines(error.message)}"  # it may quote a record
    stderr().print(shown, style="red", markup=False, highlight=False, soft_wrap=True)


def _safe_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _console(file: TextIO) -> Console:
    from rich.console import Console

    # Without a terminal there are neither colours nor a width: lines are not broken for a screen nobody looks at.
    return Console(file=file, width=None if file.isatty() else _WIDTH_OF_A_PIPE)
