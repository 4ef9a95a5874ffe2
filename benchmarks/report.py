"""What is printed: a table for people, JSON for programs, both with the machine that the figures come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.figures import BASELINE, Ratio, Row
from benchmarks.machine import Machine
from benchmarks.measuring import WARM_UP_SECONDS, Plan

ROLES = ("caller", "callee", "broker")
_NOTHING = "–"


def table(rows: Sequence[Row]) -> Table:
    """Lay the figures out, load by load."""
    drawn = Table(title="Request and reply", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("in flight", "contender"):
        drawn.add_column(heading, no_wrap=True)
    ratio = f"of {BASELINE}"
    roles = (f"{role} µs" for role in ROLES)
    for heading in ("requests/s", ratio, "p50 ms", ratio, "p99 ms", *roles):
        drawn.add_column(heading, justify="right", no_wrap=True)
    loads = [row.in_flight for row in rows]
    for row, next_load in zip(rows, [*loads[1:], None], strict=True):
        drawn.add_row(*_cells(row), end_section=row.in_flight != next_load)
    return drawn


def notes(plan: Plan, machine: Machine) -> list[str]:
    """Say what the figures are, and what they were measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return [
        f"Medians of {plan.rounds} interleaved rounds; {plan.seconds:g} s for each line of each round. "
        f"“of {BASELINE}”: median of the rounds' ratios, in brackets the lowest and the highest.",
        "µs: CPU time of the process, all its threads, for each request and its reply.",
        f"{machine.cores} cores, {machine.system}, Python {machine.python}; load average before the run "
        f"{machine.load_average:.2f}; {versions}.",
    ]


def document(rows: Sequence[Row], plan: Plan, machine: Machine) -> dict[str, Any]:
    """Give the figures as JSON values."""
    return {
        "machine": machine.model_dump(),
        "plan": {**plan._asdict(), "warm_up_seconds": WARM_UP_SECONDS},
        "baseline": BASELINE,
        "results": [rounded(row.model_dump()) for row in rows],
    }


def rounded(value: Any) -> Any:
    """Round every float within JSON values to three places."""
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {name: rounded(part) for name, part in value.items()}
        case _:
            return value


def _cells(row: Row) -> list[str]:
    return [
        f"{row.in_flight:,}",
        row.contender,
        f"{row.requests_per_second:,.0f}",
        _with_range(row.to_baseline["requests_per_second"]) if row.to_baseline else _NOTHING,
        f"{row.p50_ms:,.2f}",
        _short(row.to_baseline["p50_ms"].median) if row.to_baseline else _NOTHING,
        f"{row.p99_ms:,.2f}",
        *(f"{row.cpu_us[role]:,.0f}" if role in row.cpu_us else _NOTHING for role in ROLES),
    ]


def _with_range(found: Ratio) -> str:
    return f"{_short(found.median)} ({_short(found.lowest)}–{_short(found.highest)})"


def _short(figure: float) -> str:
    return f"{figure:.2f}" if figure < 10 else f"{figure:,.0f}"
