"""What is counted: requests by the service that makes them, departures by whoever reads the board.

Nothing is ever taken for answered: what was sent and not answered, neither with a reply nor with an error, waits;
what still waits at the end is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet

from pydantic import BaseModel, Field

from demo.contracts import FlightDeparted


class Calls(BaseModel):
    """The requests to one operation.

    Args:
        sent: requests that Kafka has.
        answered: those answered with a reply.
        errors: those answered with an error, by the name of its status.
        longest_wait: seconds from a request's sending to its answer.
    """

    sent: int = 0
    answered: int = 0
    errors: Counter[str] = Field(default_factory=Counter)
    longest_wait: float = 0.0

    @property
    def done(self) -> int:
        """How many have an answer, be it a reply or an error."""
        return self.answered + self.errors.total()

    @property
    def waiting(self) -> int:
        """How many have no answer yet."""
        return self.sent - self.done

    def __add__(self, other: Calls) -> Calls:
        return Calls(
            sent=self.sent + other.sent,
            answered=self.answered + other.answered,
            errors=self.errors + other.errors,
            longest_wait=max(self.longest_wait, other.longest_wait),
        )


class Progress(BaseModel):
    """How far dispatch is; it writes one as a line of JSON now and then, and a last one at its end.

    Args:
        flights: flights that are done with: both answers came, and the departure is published where there was one.
        published: events that Kafka has.
        calls: requests by operation.
    """

    flights: int = 0
    published: int = 0
    calls: dict[str, Calls] = Field(default_factory=dict)

    @property
    def all_calls(self) -> Calls:
        """The requests to all operations."""
        return sum(self.calls.values(), start=Calls())


class Departures:
    """What the board has shown. Delivery is at least once: repeats are told apart by the flight's id.

    Args:
        expected: ids of the flights that departed in this run; a Kafka that is used again may hold events of
            earlier ones.
    """

    def __init__(self, expected: AbstractSet[str]) -> None:
        self.flights: set[str] = set()
        self.repeats = 0
        self.by_origin: Counter[str] = Counter()
        self.delay_minutes: Counter[str] = Counter()
        self._expected = expected

    def add(self, departure: FlightDeparted) -> None:
        """Count a departure that the board shows."""
        if departure.flight not in self._expected:
            return
        if departure.flight in self.flights:
            self.repeats += 1
            return
        self.flights.add(departure.flight)
        self.by_origin[departure.origin] += 1
        delay = departure.departed_at - departure.scheduled_at
        self.delay_minutes[departure.origin] += round(delay.total_seconds() / 60)
