"""What there is to see: the state of a run, drawn live on a terminal, told in plain lines elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.contracts import FlightDeparted
from demo.report import Expected
from demo.tally import Bills, Departures, Progress
from demo.tariff import Bill

_PLAIN_SECONDS = 2.0
_BAR_WIDTH = 30
_MARGIN = 9  # what stands before a sentence: the seconds
_STYLES = {
    "not started": "dim",
    "starting": "yellow",
    "running": "green",
    "killed": "bold red",
    "stopped": "yellow",
    "done": "dim",
}


class Stage:
    """The state of one run.

    Args:
        expected: what the run has to come to.
        console: where it is shown.
    """

    def __init__(self, expected: Expected, console: Console) -> None:
        self.expected = expected
        self.console = console
        self.progress = Progress()
        self.departures = Departures(expected.departed)
        self.bills = Bills(expected.flights)
        self.services = dict.fromkeys(("fleet", "weather", "dispatch", "board", "billing"), "not started")
        self._started_at = time.monotonic()
        self._moved_at = self._started_at
        self._changed = asyncio.Event()

    def say(self, sentence: str) -> None:
        """Tell what happens, for good: it stays above what is redrawn."""
        seconds = time.monotonic() - self._started_at
        self.console.print(f"{seconds:5.1f} s  {sentence}", highlight=False, markup=False, soft_wrap=True)

    def show(self, lines: Iterable[str]) -> None:
        """Show what a command wrote, for good, below the sentence that told of it."""
        for line in lines:
            self.console.print(" " * _MARGIN + line, highlight=False, markup=False, soft_wrap=True)

    def set_service(self, name: str, state: str) -> None:
        """Note the state of a service."""
        self.services[name] = state
        self.wake()

    def take_progress(self, line: str) -> None:
        """Take a line that dispatch wrote."""
        progress = Progress.model_validate_json(line)
        if progress != self.progress:
            self.progress = progress
            self._move()

    def take_departure(self, line: str) -> None:
        """Take a line that the board wrote."""
        self.departures.add(FlightDeparted.model_validate_json(line))
        self._move()

    def take_bill(self, line: str) -> None:
        """Take a line that billing wrote."""
        self.bills.add(Bill.model_validate_json(line))
        self._move()

    def wake(self) -> None:
        """Have `until` look again."""
        self._changed.set()

    async def until(self, condition: Callable[[], bool], stall_seconds: float) -> bool:
        """Wait for a condition.

        Args:
            condition: looked at whenever something changes.
            stall_seconds: how long nothing may be counted before the wait is given up.

        Returns:
            Whether the condition holds.
        """
        began = time.monotonic()
        while not condition():
            left = max(began, self._moved_at) + stall_seconds - time.monotonic()
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return condition()
        return True

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the state until the block ends: redrawn in place on a terminal, a line now and then elsewhere."""
        self._started_at = time.monotonic()
        if self.console.is_terminal:
            with Live(get_renderable=self._drawn, console=self.console, refresh_per_second=8):
                yield
            return
        telling = asyncio.create_task(self._tell())
        try:
            yield
        finally:
            telling.cancel()

    def _move(self) -> None:
        self._moved_at = time.monotonic()
        self._changed.set()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_PLAIN_SECONDS)
            calls = self.progress.all_calls
            if not calls.sent:
                continue
            self.say(
                f"flights {self.progress.flights:,} of {len(self.expected.flights):,}; "
                f"requests sent {calls.sent:,}, answered {calls.done:,}, waiting {calls.waiting:,}; "
                f"departures {len(self.departures.flights):,}; bills {len(self.bills.flights):,}"
            )

    def _drawn(self) -> RenderableType:
        services = Text("  ").join(
            Text.assemble((f"● {name} ", _STYLES[state]), (state, "dim"))
            for name, state in self.services.items()
        )
        bars = Table.grid(padding=(0, 2))
        for _ in range(2):
            bars.add_column()
        bars.add_column(justify="right")
        flights = len(self.expected.flights)
        for name, calls in self.progress.calls.items():
            waiting = Text(f"{calls.waiting:,} waiting", "bold yellow" if calls.waiting else "dim")
            bars.add_row(name, self._bar(calls.done, flights), f"{calls.done:,} answered", waiting)
        shown = len(self.departures.flights)
        bars.add_row("departures", self._bar(shown, len(self.expected.departed)), f"{shown:,} received")
        billed = len(self.bills.flights)
        bars.add_row("bills", self._bar(billed, flights), f"{billed:,} written", self._left_over())
        return Group(services, bars)

    def _left_over(self) -> Text:
        """Tell of the dead letters, once they are counted."""
        dead = self.bills.dead_letters.total()
        if self.bills.replayed:
            return Text(f"{self.bills.replayed:,} replayed", "dim")
        return Text(f"{dead:,} dead letters", "bold yellow") if dead else Text()

    def _bar(self, done: int, total: int) -> ProgressBar:
        return ProgressBar(total=max(1, total), completed=done, width=_BAR_WIDTH)
