"""What is printed: tables for people, JSON for programs, Markdown for the documentation, all with the machine that
the figures come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.figures import Ratio, Row, summed_up
from benchmarks.floors import Verdict
from benchmarks.machine import Machine
from benchmarks.measuring import WARM_UP_SECONDS, Plan
from benchmarks.section import Result, Section

_NOTHING = "–"


class Run(NamedTuple):
    """All that one run has measured.

    Args:
        machine: on what.
        plan: how much.
        results: by section, in the order of the run.
    """

    machine: Machine
    plan: Plan
    results: Mapping[Section, Result]


def rows_of(section: Section, result: Result) -> list[Row]:
    """Give the rows of a section."""
    return summed_up(result.seen, section.compared, section.baseline)


def headings(section: Section) -> list[str]:
    """Give what stands above the columns."""
    named = [section.loads, "contender"]
    for column in section.columns:
        named.append(column.heading)
        if column.compared:
            named.append(f"of {section.baseline}")
    return named


def cells(section: Section, row: Row) -> list[str]:
    """Write a row out, a text for each heading; what a contender has not is a dash."""
    written = [row.load, row.contender]
    first = next(iter(section.compared), None)
    for column in section.columns:
        figure = row.figures.get(column.figure)
        written.append(_NOTHING if figure is None else f"{figure:,.{column.digits}f}")
        if column.compared:
            found = row.to_baseline.get(column.figure)
            if found is None:
                written.append(_NOTHING)
            else:
                written.append(_with_range(found) if column.figure == first else _short(found.median))
    return written


def table(section: Section, result: Result) -> Table:
    """Lay the figures of a section out, load by load."""
    drawn = Table(title=section.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings(section)):
        drawn.add_column(heading, justify="left" if number < 2 else "right", no_wrap=True)
    rows = rows_of(section, result)
    loads = [row.load for row in rows]
    for row, next_load in zip(rows, [*loads[1:], None], strict=True):
        drawn.add_row(*cells(section, row), end_section=row.load != next_load)
    return drawn


def section_notes(section: Section, result: Result) -> list[str]:
    """Say what the figures of a section are, and who is missing."""
    return [section.about, *(f"{each.name}: not present: {each.why}." for each in result.absent)]


def notes(plan: Plan, machine: Machine) -> list[str]:
    """Say what the figures of all sections are, and what they were measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return [
        f"Medians of {plan.rounds} interleaved rounds; of loads, {plan.seconds:g} s for each line of each round. "
        "“of …”: median of the rounds' ratios, in brackets the lowest and the highest.",
        "µs: CPU time of the process, all its threads, for each request and its reply, or each message.",
        f"{machine.cores} cores ({machine.processor}), {machine.system}, Python {machine.python}; load average before "
        f"the run {machine.load_average:.2f}; {versions}.",
    ]


def document(run: Run, decided: Sequence[Verdict]) -> dict[str, Any]:
    """Give the figures as JSON values."""
    return {
        "machine": run.machine.model_dump(),
        "plan": {**run.plan._asdict(), "warm_up_seconds": WARM_UP_SECONDS},
        "sections": [
            {
                "name": section.name,
                "title": section.title,
                "baseline": section.baseline,
                "absent": {each.name: each.why for each in result.absent},
                "results": [rounded(row.model_dump()) for row in rows_of(section, result)],
            }
            for section, result in run.results.items()
        ],
        "limits": [
            {
                "what": str(each.limit.what),
                "least": each.limit.least,
                "most": each.limit.most,
                "value": rounded(each.value),
                "failed": each.failed,
            }
            for each in decided
        ],
    }


def markdown(run: Run) -> str:
    """Give the figures as a page."""
    parts = ["# Benchmarks", "*Written by `make bench-write`; [how to read it](performance.md).*"]
    parts += [
        "![Requests a second beside raw Kafka and the peers](benchmarks.png)",
        *notes(run.plan, run.machine),
    ]
    for section, result in run.results.items():
        parts.append(f"## {section.title}")
        parts.append("\n".join(_markdown_table(section, result)))
        parts += section_notes(section, result)
    return "\n\n".join(parts) + "\n"


def rounded(value: Any) -> Any:
    """Round every float within JSON values to three places."""
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {name: rounded(part) for name, part in value.items()}
        case _:
            return value


def _markdown_table(section: Section, result: Result) -> list[str]:
    named = headings(section)
    lines = [named, ["---"] * 2 + ["---:"] * (len(named) - 2)]
    lines += [cells(section, row) for row in rows_of(section, result)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _with_range(found: Ratio) -> str:
    return f"{_short(found.median)} ({_short(found.lowest)}–{_short(found.highest)})"


def _short(figure: float) -> str:
    return f"{figure:.2f}" if figure < 10 else f"{figure:,.0f}"
