"""Dispatch, which asks about each flight, has it billed, tells who left: `python -m demo.dispatch --flights 5000`."""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import BaseModel

from broker_mesh import Mesh, MeshError, Operation
from demo.contracts import (
    BILL_FLIGHT,
    FIND_AIRCRAFT,
    FLIGHT_DEPARTED,
    OBSERVE,
    BillFlight,
    FindAircraft,
    FlightDeparted,
    Observe,
)
from demo.data import Flight, read_flights
from demo.tally import Calls, Progress

IN_FLIGHT = 200
REPORT_SECONDS = 0.1

RequestT = TypeVar("RequestT", bound=BaseModel)
ReplyT = TypeVar("ReplyT", bound=BaseModel)

dispatch = Mesh("dispatch")
progress = Progress(calls={FIND_AIRCRAFT.name: Calls(), OBSERVE.name: Calls()})


async def ask(
    operation: Operation[RequestT, ReplyT], request: RequestT, answers: Callable[[ReplyT], bool]
) -> ReplyT | None:
    """Send a request and wait for its answer as long as it takes; None where the answer is an error.

    Args:
        operation: to be called.
        request: to be sent.
        answers: tells whether a reply is to this request.
    """
    calls = progress.calls[operation.name]
    handle = await dispatch.call(operation, request)
    calls.sent += 1
    sent_at = time.monotonic()
    try:
        reply = await handle.reply()
    except MeshError as error:
        calls.errors[error.status.name] += 1
        return None
    else:
        calls.answered += 1
        calls.wrong += not answers(reply)
        return reply
    finally:
        calls.longest_wait = max(calls.longest_wait, time.monotonic() - sent_at)


async def follow(flight: Flight) -> None:
    """Ask about a flight, publish its departure unless it was cancelled, and have it billed."""
    aircraft, weather = await asyncio.gather(
        ask(
            FIND_AIRCRAFT,
            FindAircraft(tailnum=flight.tailnum),
            lambda found: found.tailnum == flight.tailnum,
        ),
        ask(
            OBSERVE,
            Observe(origin=flight.origin, hour=flight.hour),
            lambda read: (read.origin, read.hour) == (flight.origin, flight.hour),
        ),
    )
    if flight.departed_at is not None:
        departure = FlightDeparted(
            flight=flight.id,
            tailnum=flight.tailnum,
            origin=flight.origin,
            destination=flight.destination,
            scheduled_at=flight.scheduled_at,
            departed_at=flight.departed_at,
            aircraft=aircraft and f"{aircraft.manufacturer} {aircraft.model}",
            seats=aircraft and aircraft.seats,
            wind_speed_mph=weather and weather.wind_speed_mph,
            visibility_miles=weather and weather.visibility_miles,
        )
        await dispatch.publish(FLIGHT_DEPARTED, departure)
        progress.published += 1
    bill = BillFlight(
        flight=flight.id,
        destination=flight.destination,
        departed_at=flight.departed_at,
        minutes_in_air=flight.minutes_in_air,
    )
    await dispatch.send(BILL_FLIGHT, bill)
    progress.to_bill += 1
    progress.flights += 1


async def follow_all(flights: Iterator[Flight]) -> None:
    """Follow flights, so many at a time."""

    async def worker() -> None:
        for flight in flights:  # one iterator, shared by all workers
            await follow(flight)

    async with asyncio.TaskGroup() as workers:
        for _ in range(IN_FLIGHT):
            workers.create_task(worker())


async def report() -> None:
    """Write the counts as a line of JSON, again and again."""
    while True:
        print(progress.model_dump_json(), flush=True)
        await asyncio.sleep(REPORT_SECONDS)


async def main(flights: int | None) -> None:
    """Follow the first flights of the data, all of them for None."""
    async with dispatch:
        reporting = asyncio.create_task(report())
        try:
            await follow_all(read_flights(flights))
        finally:
            reporting.cancel()
            print(progress.model_dump_json(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flights", type=int, help="how many; default: all of them")
    try:
        asyncio.run(main(parser.parse_args().flights))
    except* MeshError as errors:
        sys.exit("\n".join(str(error) for error in errors.exceptions))
