"""How far a run has come, on stderr: a bar on a terminal, a line for each step elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from broker_mesh.cli.output import stderr


class Progress(Protocol):
    """Is told what is being done."""

    def begin(self, title: str, steps: int) -> None:
        """A section begins, with about so many steps."""
        ...

    def step(self, text: str) -> None:
        """A step begins."""
        ...


class _Bars:
    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._title = ""
        self._task = bar.add_task("", total=None)

    def begin(self, title: str, steps: int) -> None:
        self._title = title
        self._bar.reset(self._task, total=steps, description=title)

    def step(self, text: str) -> None:
        self._bar.update(self._task, advance=1, description=f"{self._title}: {text}")


class _Lines:
    def begin(self, title: str, steps: int) -> None:
        self._write(f"{title}: about {steps} steps")

    def step(self, text: str) -> None:
        self._write(f"  {text}")

    def _write(self, line: str) -> None:
        stderr().print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def shown() -> Iterator[Progress]:
    """Show what is told to the object it gives, until the block ends."""
    console = stderr()
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        yield _Bars(bar)
