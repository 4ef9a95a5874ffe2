"""What the demo's services agree on: three operations, one event, and their models.

The Avro schemas of the same names in `schemas/` say it to every other language.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from broker_mesh import Event, Operation


class FindAircraft(BaseModel):
    """Which aircraft has this tail number?"""

    tailnum: str


class Aircraft(BaseModel):
    """An aircraft as the register knows it."""

    tailnum: str
    year: int | None = None
    type: str
    manufacturer: str
    model: str
    engines: int
    seats: int
    engine: str


class Observe(BaseModel):
    """What was the weather at this airport in this hour?"""

    origin: str
    hour: datetime


class Observation(BaseModel):
    """A weather reading; what the station did not record is None."""

    origin: str
    hour: datetime
    temperature_f: float | None = None
    wind_speed_mph: float | None = None
    precipitation_in: float | None = None
    visibility_miles: float | None = None


class BillFlight(BaseModel):
    """Bill an airline for a flight; what is not known of the flight is None."""

    flight: str
    destination: str
    departed_at: datetime | None = None
    minutes_in_air: int | None = None


class FlightDeparted(BaseModel):
    """A flight left, with what was known of its aircraft and of the weather."""

    flight: str
    tailnum: str
    origin: str
    destination: str
    scheduled_at: datetime
    departed_at: datetime
    aircraft: str | None = None
    seats: int | None = None
    wind_speed_mph: float | None = None
    visibility_miles: float | None = None


FIND_AIRCRAFT = Operation("fleet.v1.find-aircraft", request=FindAircraft, reply=Aircraft, key="tailnum")
OBSERVE = Operation("weather.v1.observe", request=Observe, reply=Observation, key="origin")
BILL_FLIGHT = Operation("billing.v1.bill-flight", request=BillFlight, key="flight")
FLIGHT_DEPARTED = Event("dispatch.v1.events.flight-departed", FlightDeparted, key="tailnum")
