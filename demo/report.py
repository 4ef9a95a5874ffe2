"""Does the sum add up? What the demo counted, held against what the data says, and the table that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.table import Table

from demo.contracts import FIND_AIRCRAFT, FLIGHT_DEPARTED, OBSERVE
from demo.data import Flight, read_aircraft, read_weather
from demo.tally import Calls, Departures, Progress


@dataclass(frozen=True, slots=True)
class Expected:
    """What the data itself says about the flights that are sent.

    Args:
        flights: how many there are.
        departed: the ids of those that left.
        not_found: for each operation, how many ask for what nobody knows.
    """

    flights: int
    departed: frozenset[str]
    not_found: dict[str, int]


def expect(flights: Iterable[Flight]) -> Expected:
    """Work out what a run with these flights has to come to.

    Raises:
        FailedPrecondition: the data is not installed.
    """
    register, readings = read_aircraft(), read_weather()
    count, departed = 0, set()
    not_found = {FIND_AIRCRAFT.name: 0, OBSERVE.name: 0}
    for flight in flights:
        count += 1
        if flight.departed_at is not None:
            departed.add(flight.id)
        not_found[FIND_AIRCRAFT.name] += flight.tailnum not in register
        not_found[OBSERVE.name] += (flight.origin, flight.hour) not in readings
    return Expected(count, frozenset(departed), not_found)


def problems(expected: Expected, progress: Progress, departures: Departures) -> list[str]:
    """Do the sums.

    Returns:
        A sentence for each that does not add up; none when nothing is lost and every answer is right.
    """
    found = [
        sentence
        for name, not_found in expected.not_found.items()
        for sentence in _call_problems(name, progress.calls.get(name, Calls()), expected.flights, not_found)
    ]
    if progress.published != len(expected.departed):
        found.append(
            f"{_many(len(expected.departed), 'flight')} departed, but {_many(progress.published, 'event')} "
            f"of {FLIGHT_DEPARTED.name} were published."
        )
    if missing := expected.departed - departures.flights:
        examples = ", ".join(sorted(missing)[:3])
        found.append(f"The board did not hear of {_many(len(missing), 'departure')}, such as {examples}.")
    return found


def _call_problems(name: str, calls: Calls, flights: int, not_found: int) -> Iterator[str]:
    if calls.sent != flights:
        yield f"{_many(calls.sent, 'request')} to {name} were sent for {_many(flights, 'flight')}."
    if calls.waiting > 0:
        were = "was" if calls.waiting == 1 else "were"
        yield f"{_many(calls.waiting, 'request')} to {name} {were} lost: no answer came."
    elif calls.waiting < 0:
        yield f"{name} answered {_many(calls.sent, 'request')} {calls.done:,} times."
    elif calls.errors["NOT_FOUND"] != not_found or calls.errors.total() != not_found:
        yield f"{name} answered with {_errors(calls)}, where the data has {not_found:,} × NOT_FOUND."


def requests_table(progress: Progress) -> Table:
    """Lay out the requests: a row for each operation, and their sum."""
    table = Table("requests", title="What became of the requests", title_justify="left")
    for column in ("sent", "answered", "with an error", "lost", "longest wait"):
        table.add_column(column, justify="right")
    for name, calls in progress.calls.items():
        table.add_row(name, *_cells(calls))
    table.add_section()
    table.add_row("all", *_cells(progress.all_calls))
    return table


def events_table(progress: Progress, departures: Departures) -> Table:
    """Lay out the events: published by dispatch, received by the board."""
    table = Table("events", title="What became of the events", title_justify="left")
    for column in ("published", "received", "repeated", "lost"):
        table.add_column(column, justify="right")
    received = len(departures.flights)
    counts = (progress.published, received, departures.repeats, progress.published - received)
    table.add_row(FLIGHT_DEPARTED.name, *(f"{count:,}" for count in counts))
    return table


def departures_table(departures: Departures) -> Table:
    """Lay out what the board knows of each airport."""
    table = Table("airport", title="The departures board", title_justify="left")
    for column in ("departures", "mean delay"):
        table.add_column(column, justify="right")
    for origin, count in sorted(departures.by_origin.items()):
        table.add_row(origin, f"{count:,}", f"{departures.delay_minutes[origin] / count:.1f} min")
    return table


def _cells(calls: Calls) -> tuple[str, ...]:
    return (
        f"{calls.sent:,}",
        f"{calls.answered:,}",
        _errors(calls),
        f"{calls.waiting:,}",
        f"{calls.longest_wait:.1f} s",
    )


def _errors(calls: Calls) -> str:
    return ", ".join(f"{count:,} × {status}" for status, count in sorted(calls.errors.items())) or "none"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
