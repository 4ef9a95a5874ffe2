"""What a section of the benchmark is: what it measures, and how its figures are laid out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from benchmarks.figures import BASELINE, Seen
from benchmarks.lineup import Absent
from benchmarks.measuring import Plan, Stage


class Column(NamedTuple):
    """One figure of a section's table.

    Args:
        figure: its name among the figures.
        heading: what stands above it, with the unit.
        digits: after the decimal point.
        compared: whether its ratio to the baseline's stands beside it.
    """

    figure: str
    heading: str
    digits: int = 0
    compared: bool = False


class Result(NamedTuple):
    """What a section has measured, and who could not be."""

    seen: Seen
    absent: tuple[Absent, ...] = ()


class Section(NamedTuple):
    """One table of the benchmark.

    Args:
        name: for the command line.
        title: above the table.
        loads: the heading of the first column.
        columns: the figures.
        about: one sentence on what stands there.
        steps: about how many steps it takes, under a plan.
        measure: does it.
        baseline: whose figures the ratios are to; None where there are no ratios.
    """

    name: str
    title: str
    loads: str
    columns: tuple[Column, ...]
    about: str
    steps: Callable[[Plan], int]
    measure: Callable[[Stage], Awaitable[Result]]
    baseline: str | None = BASELINE

    @property
    def compared(self) -> tuple[str, ...]:
        """The figures that are held against the baseline's."""
        return tuple(column.figure for column in self.columns if column.compared)


THROUGHPUT = (
    Column("requests_per_second", "requests/s", compared=True),
    Column("p50_ms", "p50 ms", 2, compared=True),
    Column("p99_ms", "p99 ms", 2),
    Column("caller_us", "caller µs"),
    Column("callee_us", "callee µs"),
    Column("broker_us", "broker µs"),
)
"""The columns of closed loads of requests."""
