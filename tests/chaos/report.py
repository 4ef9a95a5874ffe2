"""A run's verdict as a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from tests.chaos.judging import Outcome

_MIB = 2**20


def table(outcome: Outcome) -> Table:
    """Draw the figures of a run; what must be 0 and is not stands out."""
    verdict, plan = outcome.verdict, outcome.plan
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(justify="right", no_wrap=True)
    drawn.add_column()

    def row(name: str, figure: str, remark: str = "", style: str = "") -> None:
        drawn.add_row(Text(name), Text(figure, style), Text(remark, "dim"))

    def none_of(name: str, count: int, remark: str = "") -> None:
        row(name, f"{count:,}", remark, "bold red" if count else "green")

    rate = verdict.requests / outcome.ran.seconds
    row("seed", str(plan.seed))
    row("requests", f"{verdict.requests:,}", f"{rate:,.0f} per second for {outcome.ran.seconds:,.0f} s")
    row("handled", f"{verdict.handlings:,}", "times, with all attempts")
    row("faults", f"{outcome.kinds.total():,}")
    for kind, count in sorted(outcome.kinds.items(), key=lambda each: (-each[1], each[0])):
        row(f"  {kind}", f"{count:,}")
    none_of("lost", verdict.count("lost"))
    none_of("order violations", verdict.count("order", "overlap"))
    row("duplicates", f"{sum(verdict.duplicates.values()):,}", _parts(outcome))
    none_of("  unexplained", verdict.count("duplicate"))
    row("dead letters", f"{verdict.dead_letters:,}", "of requests that fail for good")
    seconds, fault = verdict.longest_recovery
    after = "" if fault is None else f"after: {fault.kind} {fault.target}"
    row("longest recovery", f"{seconds:.1f} s", after)
    row("peak memory", f"{verdict.peak_memory / _MIB:,.0f} MiB", "of one process")
    shown = ("lost", "order", "overlap", "duplicate")
    none_of("other violations", sum(each.kind not in shown for each in verdict.violations))
    return drawn


def _parts(outcome: Outcome) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in outcome.verdict.duplicates.items() if count)
