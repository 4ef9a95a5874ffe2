"""What is counted: requests by the service that makes them, departures and bills by whoever reads them.

Nothing is ever taken for answered: what was sent and not answered, neither with a reply nor with an error, waits;
what still waits at the end is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from pydantic import BaseModel, Field

from demo.contracts import FlightDeparted
from demo.tariff import Bill


class Cause(NamedTuple):
    """Why a request is a dead letter.

    Args:
        status: the name of the status code that it ended with.
        exception: the type that the handler raised.
    """

    status: str
    exception: str


class Calls(BaseModel):
    """The requests to one operation.

    Args:
        sent: requests that Kafka has.
        answered: those answered with a reply.
        errors: those answered with an error, by the name of its status.
        wrong: of the replies, those to another request.
        longest_wait: seconds from a request's sending to its answer.
    """

    sent: int = 0
    answered: int = 0
    errors: Counter[str] = Field(default_factory=Counter)
    wrong: int = 0
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
            wrong=self.wrong + other.wrong,
            longest_wait=max(self.longest_wait, other.longest_wait),
        )


class Progress(BaseModel):
    """How far dispatch is; it writes one as a line of JSON now and then, and a last one at its end.

    Args:
        flights: flights that are done with: both answers came, the departure is published where there was one, and
            billing is asked for a bill.
        published: events that Kafka has.
        to_bill: requests for a bill that Kafka has; they are one-way, nobody waits for an answer.
        calls: requests by operation.
    """

    flights: int = 0
    published: int = 0
    to_bill: int = 0
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


class Bills:
    """What became of the requests for bills. Delivery is at least once: repeats are told apart by the flight's id.

    Args:
        expected: ids of the flights of this run; a Kafka that is used again may hold requests of earlier ones.
    """

    def __init__(self, expected: AbstractSet[str]) -> None:
        self.flights: set[str] = set()
        self.repeats = 0
        self.cents = 0
        self.at_once = 0
        self.dead_letters: Counter[Cause] = Counter()
        self.replayed = 0
        self._expected = expected

    def add(self, bill: Bill) -> None:
        """Count a bill that was written."""
        if bill.flight not in self._expected:
            return
        if bill.flight in self.flights:
            self.repeats += 1
            return
        self.flights.add(bill.flight)
        self.cents += bill.cents

    def take_dead_letters(self, dead_letters: Counter[Cause]) -> None:
        """Take the dead letters by cause; what is billed by now was billed at once."""
        self.dead_letters = dead_letters
        self.at_once = len(self.flights)

    @property
    def settled(self) -> int:
        """How many requests are billed or stand in the dead letters, before any of these is replayed."""
        return self.at_once + self.dead_letters.total()
