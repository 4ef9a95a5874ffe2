"""The timetable of 2013 through wrapped clients, as programs that speak Kafka: one sends it, others handle it.

As `python -m tests.support.flights send <servers> <count>` and `… handle <servers> <journal>`. What a handler does it
writes to a journal of its own, a line at a time and before the message is settled, so that a SIGKILL leaves no doubt.
What the journals of all handlers must say together is checked in `tests/support/journals.py`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from opentelemetry.trace import get_current_span
from pydantic import BaseModel

from broker_mesh import Event, Mesh, Retry
from broker_mesh.errors import Unavailable
from broker_mesh_adapters.confluent_kafka import Consumer, Producer
from demo.data import Flight, read_flights
from tests.support.fleet import make_mesh
from tests.support.journals import Handled, Joined, time_ns


class FlightPlanned(BaseModel):
    number: int
    flight: str
    tailnum: str | None = None
    origin: str
    destination: str
    scheduled_at: datetime
    departed_at: datetime | None = None
    minutes_in_air: int | None = None


FLIGHT_PLANNED = Event("timetable.v1.events.flight-planned", FlightPlanned, key="tailnum")
TOPIC = FLIGHT_PLANNED.name
GROUP = "departures-board"
SERVICE = "board"

_SCHEMAS = Path(__file__).parent / "schemas"
FAILS_EVERY = 100
FAILS_AT = 7


def send(bootstrap_servers: str, count: int) -> int:
    """Send so many flights, in the timetable's order, keyed by its aircraft; gives how many Kafka has."""
    delivered = 0

    def report(error: Any, _: Any) -> None:
        nonlocal delivered
        if error is not None:
            raise AssertionError(f"a flight was not sent: {error}")
        delivered += 1

    producer = Producer(
        {"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, "linger.ms": 20},
        mesh=_mesh("timetable", bootstrap_servers),
        declared=[FLIGHT_PLANNED],
    )
    print("ready", flush=True)  # its event is registered
    for number, flight in enumerate(read_flights(count)):
        while True:
            try:
                producer.produce(
                    TOPIC, value=_planned(number, flight), key=flight.tailnum or None, on_delivery=report
                )
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    producer.flush()
    producer.close()
    return delivered


def handle(bootstrap_servers: str, journal: Path) -> None:
    """Handle flights until SIGTERM; of every hundredth the first attempt fails, and it waits up to a second."""
    ends: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ends.append(number))
    write = _journal(journal)

    def assigned(consumer: Any, partitions: list[Any]) -> None:
        for place in consumer.committed(partitions, 10.0):
            write(Joined(time_ns(), place.partition, max(place.offset, 0)).line())

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": GROUP,
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 100,
            "session.timeout.ms": 6000,  # a killed member's partitions rest so long; Kafka allows no less by default
        },
        mesh=_mesh(SERVICE, bootstrap_servers),
        declared=[FLIGHT_PLANNED],
        retry=Retry(attempts=5, backoff=1.0),
    )
    consumer.subscribe([TOPIC], on_assign=assigned)
    print("ready", flush=True)
    while not ends:
        message = consumer.poll(0.2)
        if message is None:
            continue
        assert message.error() is None, message.error()
        with message.settling():
            _handle(message, write)
    consumer.close()


def _handle(message: Any, write: Callable[[bytes], None]) -> None:
    flight: FlightPlanned = message.data
    if flight.number % FAILS_EVERY == FAILS_AT and message.attempt == 1:
        raise Unavailable("the board is being cleaned")
    span = get_current_span().get_span_context()
    headers = dict(message.headers())
    handled = Handled(
        time_ns(),
        message.partition(),
        message.offset(),
        flight.number,
        message.attempt,
        (message.key() or b"").decode(),
        f"{span.trace_id:032x}",
        headers["traceparent"].decode(),
    )
    assert handled.key == (flight.tailnum or "")
    write(handled.line())


def _planned(number: int, flight: Flight) -> FlightPlanned:
    return FlightPlanned(
        number=number,
        flight=flight.id,
        tailnum=flight.tailnum or None,
        origin=flight.origin,
        destination=flight.destination,
        scheduled_at=flight.scheduled_at,
        departed_at=flight.departed_at,
        minutes_in_air=flight.minutes_in_air,
    )


def _mesh(service: str, bootstrap_servers: str) -> Mesh:
    telemetry = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
    return make_mesh(service, bootstrap_servers, telemetry, schemas=str(_SCHEMAS))


def _journal(path: Path) -> Callable[[bytes], None]:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda line: _write_whole(file, line)


def _write_whole(file: int, line: bytes) -> None:
    assert os.write(file, line) == len(line)  # one system call: a SIGKILL comes before it or after it


def main() -> None:
    role, bootstrap_servers, *rest = sys.argv[1:]
    if role == "send":
        print(f"sent {send(bootstrap_servers, int(rest[0]))}", flush=True)
    else:
        handle(bootstrap_servers, Path(rest[0]))


if __name__ == "__main__":
    main()
