"""The demo's billing: its first release fails on what the data says, its next bills all of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from broker_mesh.errors import InvalidArgument, MeshError, Unavailable
from broker_mesh.handlers import classify_exception
from demo import billing, billing_mended
from demo.contracts import BILL_FLIGHT, BillFlight
from demo.data import Flight, read_flights
from demo.report import expect
from demo.tally import Cause
from demo.tariff import Bill

FLIGHTS = 5_000
NO_CONTEXT: Any = None  # neither release asks its context for anything


def request(flight: Flight) -> BillFlight:
    return BillFlight(
        flight=flight.id,
        destination=flight.destination,
        departed_at=flight.departed_at,
        minutes_in_air=flight.minutes_in_air,
    )


@pytest.fixture(scope="module")
def flights() -> dict[str, Flight]:
    return {flight.id: flight for flight in read_flights(FLIGHTS)}


CANCELLED, DIVERTED, OVERSEAS = "EV4308/EWR/2013-01-01", "EV3806/EWR/2013-01-01", "B6725/JFK/2013-01-01"


async def test_the_first_release_bills_an_ordinary_flight(
    flights: dict[str, Flight], capsys: pytest.CaptureFixture[str]
) -> None:
    await billing.bill_flight(request(flights["UA1545/EWR/2013-01-01"]), NO_CONTEXT)
    bill = Bill.model_validate_json(capsys.readouterr().out)
    assert bill == Bill(
        flight="UA1545/EWR/2013-01-01", destination="George Bush Intercontinental", cents=250_00 + 227 * 11_50
    )


@pytest.mark.parametrize(
    ("flight", "error"), [(CANCELLED, InvalidArgument), (DIVERTED, Unavailable), (OVERSEAS, KeyError)]
)
async def test_the_first_release_fails_on_each_gap_in_its_own_way(
    flight: str, error: type[Exception], flights: dict[str, Flight], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error):
        await billing.bill_flight(request(flights[flight]), NO_CONTEXT)
    assert not capsys.readouterr().out


async def test_what_the_first_release_fails_on_is_what_is_expected_of_the_data(
    flights: dict[str, Flight],
) -> None:
    failed: Counter[Cause] = Counter()
    for flight in flights.values():
        try:
            await billing.bill_flight(request(flight), NO_CONTEXT)
        except Exception as error:  # noqa: BLE001 - as the mesh does
            status = error.status if isinstance(error, MeshError) else classify_exception(error).status
            failed[Cause(status.name, type(error).__name__)] += 1
    assert failed == expect(flights.values()).unbillable


async def test_the_next_release_bills_all_and_to_the_cent(
    flights: dict[str, Flight], capsys: pytest.CaptureFixture[str]
) -> None:
    for flight in flights.values():
        await billing_mended.bill_flight(request(flight), NO_CONTEXT)
    bills = [Bill.model_validate_json(line) for line in capsys.readouterr().out.splitlines()]
    assert len(bills) == FLIGHTS
    assert sum(bill.cents for bill in bills) == expect(flights.values()).cents
    by_flight = {bill.flight: bill for bill in bills}
    assert by_flight[CANCELLED].cents == 0
    assert by_flight[DIVERTED].cents == 250_00
    assert by_flight[OVERSEAS].destination == "BQN"


def test_both_releases_are_the_same_service() -> None:
    assert billing.billing.service == billing_mended.billing.service == BILL_FLIGHT.service
    assert list(billing.billing._declared) == list(billing_mended.billing._declared) == [BILL_FLIGHT.name]
