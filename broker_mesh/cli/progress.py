"""Draws the embedded Kafka's progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker_mesh.cli.output import stderr

if TYPE_CHECKING:
    from rich.console import Console

    from broker_mesh.dev.progress import Progress, Step


@contextmanager
def shown() -> Iterator[Progress]:
    """Show the steps that are told to the function it gives, until the block ends."""
    console = stderr()
    if not console.is_terminal:
        yield _plain(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, int] = {}

        def draw(step: Step) -> None:
            if step.text not in tasks:
                for earlier in tasks.values():
                    bars.remove_task(earlier)  # type: ignore[arg-type]
                tasks.clear()
                tasks[step.text] = bars.add_task(step.text, total=step.total or None)
            bars.update(tasks[step.text], completed=step.done)  # type: ignore[arg-type]

        yield draw


def _plain(console: Console) -> Progress:
    told: set[str] = set()

    def tell(step: Step) -> None:
        """Each step once, and once more when it is complete: a log needs no bar."""
        text = step.text if step.done < step.total or not step.total else f"{step.text}: done"
        if text not in told:
            told.add(text)
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    return tell
