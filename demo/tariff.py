"""What a flight costs, and the bill that says so: what both releases of billing share."""

from __future__ import annotations

from pydantic import BaseModel

CENTS_PER_DEPARTURE = 250_00
CENTS_PER_MINUTE = 11_50


class Bill(BaseModel):
    """What an airline owes for a flight.

    Args:
        flight: which.
        destination: the airport that it headed for, by name.
        cents: how much.
    """

    flight: str
    destination: str
    cents: int
