"""Does the sum add up? What the demo counted, held against what the data says, and the table that shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.table import Table

from demo.contracts import BILL_FLIGHT, FIND_AIRCRAFT, FLIGHT_DEPARTED, OBSERVE
from demo.data import Flight, read_aircraft, read_airports, read_weather
from demo.tally import Bills, Calls, Cause, Departures, Progress
from demo.tariff import CENTS_PER_DEPARTURE, CENTS_PER_MINUTE

CANCELLED = Cause("INVALID_ARGUMENT", "InvalidArgument")
OVERSEAS = Cause("UNKNOWN", "KeyError")
DIVERTED = Cause("UNAVAILABLE", "Unavailable")


@dataclass(frozen=True, slots=True)
class Expected:
    """What the data itself says about the flights that are sent.

    Args:
        flights: the ids of all of them.
        departed: the ids of those that left.
        not_found: for each operation, how many ask for what nobody knows.
        unbillable: how many billing's first release fails on, by cause.
        cents: what all bills come to.
    """

    flights: frozenset[str]
    departed: frozenset[str]
    not_found: dict[str, int]
    unbillable: Counter[Cause]
    cents: int


def expect(flights: Iterable[Flight]) -> Expected:
    """Work out what a run with these flights has to come to.

    Raises:
        FailedPrecondition: the data is not installed.
    """
    register, airports, readings = read_aircraft(), read_airports(), read_weather()
    ids, departed, minutes_in_air = set(), set(), 0
    not_found = {FIND_AIRCRAFT.name: 0, OBSERVE.name: 0}
    unbillable: Counter[Cause] = Counter()
    for flight in flights:
        ids.add(flight.id)
        not_found[FIND_AIRCRAFT.name] += flight.tailnum not in register
        not_found[OBSERVE.name] += (flight.origin, flight.hour) not in readings
        minutes_in_air += flight.minutes_in_air or 0
        if flight.departed_at is None:
            unbillable[CANCELLED] += 1
            continue
        departed.add(flight.id)
        if flight.destination not in airports:
            unbillable[OVERSEAS] += 1
        elif flight.minutes_in_air is None:
            unbillable[DIVERTED] += 1
    cents = CENTS_PER_DEPARTURE * len(departed) + CENTS_PER_MINUTE * minutes_in_air
    return Expected(frozenset(ids), frozenset(departed), not_found, unbillable, cents)


def problems(expected: Expected, progress: Progress, departures: Departures, bills: Bills) -> list[str]:
    """Do the sums.

    Returns:
        A sentence for each that does not add up; none when nothing is lost and every answer is right.
    """
    found = [
        sentence
        for name, not_found in expected.not_found.items()
        for sentence in _call_problems(
            name, progress.calls.get(name, Calls()), len(expected.flights), not_found
        )
    ]
    if progress.published != len(expected.departed):
        found.append(
            f"{_many(len(expected.departed), 'flight')} departed, but {_many(progress.published, 'event')} "
            f"of {FLIGHT_DEPARTED.name} were published."
        )
    if missing := expected.departed - departures.flights:
        examples = ", ".join(sorted(missing)[:3])
        found.append(f"The board did not hear of {_many(len(missing), 'departure')}, such as {examples}.")
    return [*found, *_bill_problems(expected, progress.to_bill, bills)]


def _bill_problems(expected: Expected, sent: int, bills: Bills) -> Iterator[str]:
    if sent != len(expected.flights):
        yield f"{_many(sent, 'request')} to {BILL_FLIGHT.name} were sent for {_many(len(expected.flights), 'flight')}."
    if bills.dead_letters != expected.unbillable:
        yield (
            f"{BILL_FLIGHT.name} left the dead letters {_causes(bills.dead_letters)}, "
            f"where the data has {_causes(expected.unbillable)}."
        )
    if bills.settled != sent:
        yield (
            f"{_many(sent, 'request')} to {BILL_FLIGHT.name} came to {_many(bills.at_once, 'bill')} "
            f"and {_many(bills.dead_letters.total(), 'dead letter')}."
        )
    if bills.replayed != bills.dead_letters.total():
        yield f"{bills.replayed:,} of {_many(bills.dead_letters.total(), 'dead letter')} were replayed."
    if missing := expected.flights - bills.flights:
        examples = ", ".join(sorted(missing)[:3])
        were = "was" if len(missing) == 1 else "were"
        yield f"{_many(len(missing), 'flight')} {were} never billed, such as {examples}."
    elif bills.cents != expected.cents:
        yield f"The bills come to {_money(bills.cents)}, where the data has {_money(expected.cents)}."


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
    if calls.wrong:
        yield f"{name} answered {_many(calls.wrong, 'request')} with the reply to another one."


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


def bills_table(progress: Progress, bills: Bills) -> Table:
    """Lay out the requests for bills: written at once, or dead-lettered, replayed, and written then."""
    table = Table("one-way requests", title="What became of the bills", title_justify="left")
    for column in ("sent", "billed at once", "dead-lettered", "replayed", "billed in all", "lost", "amount"):
        table.add_column(column, justify="right")
    billed = len(bills.flights)
    counts = (
        progress.to_bill,
        bills.at_once,
        bills.dead_letters.total(),
        bills.replayed,
        billed,
        progress.to_bill - billed,
    )
    table.add_row(BILL_FLIGHT.name, *(f"{count:,}" for count in counts), _money(bills.cents))
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


def _causes(dead_letters: Counter[Cause]) -> str:
    counted = (f"{count:,} × {cause.exception}" for cause, count in sorted(dead_letters.items()))
    return ", ".join(counted) or "none"


def _money(cents: int) -> str:
    return f"$ {cents / 100:,.2f}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
