"""The demo's sums: they hold for a perfect run, and each way of losing something makes them fail."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from demo.contracts import BILL_FLIGHT, FIND_AIRCRAFT, OBSERVE, FlightDeparted
from demo.data import Flight, read_flights
from demo.report import CANCELLED, Expected, bills_table, events_table, expect, problems, requests_table
from demo.tally import Bills, Calls, Cause, Departures, Progress
from demo.tariff import Bill

FLIGHTS = 2_000


@pytest.fixture(scope="module")
def expected() -> Expected:
    return expect(read_flights(FLIGHTS))


@pytest.fixture
def progress(expected: Expected) -> Progress:
    calls = {
        name: Calls(
            sent=FLIGHTS, answered=FLIGHTS - missing, errors=Counter(NOT_FOUND=missing), longest_wait=1.25
        )
        for name, missing in expected.not_found.items()
    }
    return Progress(flights=FLIGHTS, published=len(expected.departed), to_bill=FLIGHTS, calls=calls)


@pytest.fixture
def departures(expected: Expected) -> Departures:
    found = Departures(expected.departed)
    for flight in read_flights(FLIGHTS):
        if flight.departed_at is not None:
            found.add(departure(flight, flight.departed_at))
    return found


@pytest.fixture
def bills(expected: Expected) -> Bills:
    found = Bills(expected.flights)
    failing = expected.unbillable.total()
    first, *others = sorted(expected.flights)
    found.add(Bill(flight=first, destination="Chicago Ohare Intl", cents=expected.cents))
    for flight in others[failing:]:
        found.add(Bill(flight=flight, destination="Chicago Ohare Intl", cents=0))
    found.take_dead_letters(Counter(expected.unbillable))
    for flight in others[:failing]:
        found.add(Bill(flight=flight, destination="San Juan", cents=0))
    found.replayed = failing
    return found


def departure(flight: Flight, departed_at: datetime) -> FlightDeparted:
    return FlightDeparted(
        flight=flight.id,
        tailnum=flight.tailnum,
        origin=flight.origin,
        destination=flight.destination,
        scheduled_at=flight.scheduled_at,
        departed_at=departed_at,
    )


def test_the_data_has_every_gap_that_the_demo_is_to_meet(expected: Expected) -> None:
    assert len(expected.flights) == FLIGHTS
    assert 0 < len(expected.departed) < FLIGHTS
    assert all(count > 0 for count in expected.not_found.values())
    assert len(expected.unbillable) == 3
    assert 0 < expected.unbillable.total() < FLIGHTS


def test_a_run_that_loses_nothing_has_no_problems(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    assert problems(expected, progress, departures, bills) == []


def test_a_lost_reply_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    progress.calls[FIND_AIRCRAFT.name].answered -= 1
    assert problems(expected, progress, departures, bills) == [
        "1 request to fleet.v1.find-aircraft was lost: no answer came."
    ]


def test_a_request_that_was_never_sent_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    progress.calls[OBSERVE.name].sent -= 1
    progress.calls[OBSERVE.name].answered -= 1
    (problem,) = problems(expected, progress, departures, bills)
    assert problem == "1,999 requests to weather.v1.observe were sent for 2,000 flights."


def test_an_answer_counted_twice_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    progress.calls[OBSERVE.name].answered += 1
    assert problems(expected, progress, departures, bills) == [
        "weather.v1.observe answered 2,000 requests 2,001 times."
    ]


def test_a_reply_to_another_request_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    progress.calls[OBSERVE.name].wrong += 1
    assert problems(expected, progress, departures, bills) == [
        "weather.v1.observe answered 1 request with the reply to another one."
    ]


def test_an_error_that_the_data_does_not_call_for_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    calls = progress.calls[FIND_AIRCRAFT.name]
    calls.answered -= 1
    calls.errors["UNAVAILABLE"] += 1
    (problem,) = problems(expected, progress, departures, bills)
    assert "1 × UNAVAILABLE" in problem


def test_an_aircraft_found_that_no_register_knows_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    calls = progress.calls[FIND_AIRCRAFT.name]
    calls.answered += 1
    calls.errors["NOT_FOUND"] -= 1
    assert len(problems(expected, progress, departures, bills)) == 1


def test_an_event_that_was_not_published_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    progress.published -= 1
    assert any("were published" in problem for problem in problems(expected, progress, departures, bills))


def test_an_event_that_was_not_received_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    lost = departures.flights.pop()
    assert problems(expected, progress, departures, bills) == [
        f"The board did not hear of 1 departure, such as {lost}."
    ]


def test_a_request_to_bill_that_was_not_sent_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    progress.to_bill -= 1
    assert problems(expected, progress, departures, bills)[0] == (
        "1,999 requests to billing.v1.bill-flight were sent for 2,000 flights."
    )


def test_a_dead_letter_that_the_data_does_not_call_for_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    bills.dead_letters[CANCELLED] -= 1
    bills.dead_letters[Cause("INTERNAL", "ZeroDivisionError")] += 1
    (problem,) = problems(expected, progress, departures, bills)
    assert "1 × ZeroDivisionError" in problem


def test_a_request_that_was_neither_billed_nor_kept_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    bills.at_once -= 1
    assert problems(expected, progress, departures, bills) == [
        "2,000 requests to billing.v1.bill-flight came to 1,911 bills and 88 dead letters."
    ]


def test_a_dead_letter_that_was_not_replayed_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    bills.replayed -= 1
    assert problems(expected, progress, departures, bills) == ["87 of 88 dead letters were replayed."]


def test_a_flight_that_was_never_billed_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    lost = bills.flights.pop()
    assert problems(expected, progress, departures, bills) == [f"1 flight was never billed, such as {lost}."]


def test_a_bill_that_is_too_high_is_a_problem(
    expected: Expected, progress: Progress, departures: Departures, bills: Bills
) -> None:
    bills.cents += 1
    (problem,) = problems(expected, progress, departures, bills)
    assert problem.startswith("The bills come to $ ")


def test_a_repeated_bill_is_told_apart_and_one_of_an_earlier_run_is_not_counted(expected: Expected) -> None:
    bills = Bills(expected.flights)
    flight = next(iter(expected.flights))
    for name in (flight, flight, "UA1/EWR/2012-12-31"):
        bills.add(Bill(flight=name, destination="Chicago Ohare Intl", cents=100))
    assert (bills.flights, bills.repeats, bills.cents) == ({flight}, 1, 100)


def test_a_dispatch_that_said_nothing_is_a_problem(expected: Expected) -> None:
    assert problems(expected, Progress(), Departures(expected.departed), Bills(expected.flights))


def test_a_repeated_event_is_told_apart_and_does_not_hide_a_lost_one() -> None:
    first, second = list(read_flights(2))
    departures = Departures({first.id, second.id})
    assert first.departed_at is not None
    departures.add(departure(first, first.departed_at))
    departures.add(departure(first, first.departed_at))
    assert (departures.flights, departures.repeats) == ({first.id}, 1)


def test_events_of_an_earlier_run_are_not_counted() -> None:
    (flight,) = read_flights(1)
    departures = Departures(frozenset())
    departures.add(departure(flight, datetime.now(UTC)))
    assert not departures.flights


def test_delays_are_summed_by_airport() -> None:
    (flight,) = read_flights(1)
    departures = Departures({flight.id})
    departures.add(departure(flight, flight.scheduled_at + timedelta(minutes=7)))
    assert departures.delay_minutes == {"EWR": 7}


def test_what_is_lost_stands_in_the_tables(progress: Progress, departures: Departures, bills: Bills) -> None:
    progress.calls[FIND_AIRCRAFT.name].answered -= 3
    departures.flights.pop()
    bills.flights.pop()
    console = Console(width=160)
    with console.capture() as captured:
        console.print(requests_table(progress))
        console.print(events_table(progress, departures))
        console.print(bills_table(progress, bills))
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in _cells(captured.get())}
    assert rows[FIND_AIRCRAFT.name][3] == "3"
    assert rows["all"][3] == "3"
    assert rows["dispatch.v1.events.flight-departed"][3] == "1"
    assert rows[BILL_FLIGHT.name][:6] == ["2,000", "1,912", "88", "88", "1,999", "1"]


def _cells(text: str) -> list[list[str]]:
    return [line.split("│") for line in text.splitlines() if line.count("│") > 2]


def test_calls_add_up() -> None:
    total = Calls(sent=3, answered=1, errors=Counter(NOT_FOUND=1), longest_wait=1) + Calls(
        sent=2, answered=2, longest_wait=2
    )
    assert total == Calls(sent=5, answered=3, errors=Counter(NOT_FOUND=1), longest_wait=2)
    assert total.waiting == 1
