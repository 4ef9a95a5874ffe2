"""Draws progress on stderr: of the embedded Kafka's start, and of reading many records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from broker_mesh.cli.output import stderr

if TYPE_CHECKING:
    from rich.console import Console

    from broker_mesh.dev.progress import Progress, Step


Count: TypeAlias = Callable[[int, int | None], None]
"""Told how many are done, and of how many; None where that is not known."""


@contextmanager
def shown() -> Iterator[Progress]:
    """Show the steps that are told to the function it gives, until the block ends: a bar on a terminal, else lines."""
    console = stderr()
    if console.is_terminal:
        with _bar(console) as draw:
            yield draw
    else:
        yield _lines(console)


@contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    """The step that is being done, and nothing of it once all is done."""
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", visible=False, count="")
        text = ""

        def draw(step: Step) -> None:
            nonlocal text
            if step.notice:
                bars.print(step.text, highlight=False, markup=False)
                return
            if step.text != text:
                text = step.text
                bars.reset(task, description=text, visible=True, total=step.total or None)
            count = f"{step.done} of {step.total}" if step.total else ""
            bars.update(task, completed=step.done, count=count)

        yield draw


def _lines(console: Console) -> Progress:
    """Each step once, and once more when it is complete: a log needs no bar."""
    told: set[str] = set()

    def tell(step: Step) -> None:
        text = f"{step.text}: done" if step.total and step.done == step.total else step.text
        if text not in told:
            told.add(text)
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    return tell


@contextmanager
def counting(text: str, *, shown: bool = True) -> Iterator[Count]:
    """Show on a terminal how far a count has come, until the block ends; elsewhere, or not `shown`, show nothing.

    The function that is given may be called from any thread.
    """
    console = stderr()
    if not (shown and console.is_terminal):
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task(text, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
