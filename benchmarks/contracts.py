"""What is asked and answered: 150 to 200 bytes each way, with a key, a time, a number and a list, as services have."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel

from broker_mesh import Operation

PARTITIONS = 6
"""Of the topics of every contender; the default of the mesh."""

RAW_VALUE = b"\x00" * 165
"""What contenders without a schema send: as long as a request or its reply is in Avro."""

_DEPARTS = datetime(2013, 1, 1, 5, 15, tzinfo=UTC)


class AssignGate(BaseModel):
    """Where does this flight leave?"""

    tailnum: str
    flight: str
    origin: str
    destination: str
    scheduled_at: datetime
    passengers: int
    crew: list[str]
    remarks: str


class GateAssigned(BaseModel):
    """The flight leaves here."""

    tailnum: str
    flight: str
    gate: str
    terminal: int
    opens_at: datetime
    neighbours: list[str]
    instructions: str


ASSIGN_GATE = Operation("gates.v1.assign-gate", request=AssignGate, reply=GateAssigned, key="tailnum")


def key_of(number: int) -> str:
    """Give the key of a request; no two that are in flight together have the same."""
    return f"N{number % 100_000:05d}"


def request_of(number: int) -> AssignGate:
    """Give a request."""
    return AssignGate(
        tailnum=key_of(number),
        flight="UA1545",
        origin="EWR",
        destination="IAH",
        scheduled_at=_DEPARTS,
        passengers=149,
        crew=["Amelia E", "Bessie C", "Charles L", "Jacqueline C", "Wiley P", "Howard H"],
        remarks="two wheelchairs, one dog in the cabin, late connection from BOS",
    )


def reply_to(request: AssignGate) -> GateAssigned:
    """Give the reply to a request."""
    return GateAssigned(
        tailnum=request.tailnum,
        flight=request.flight,
        gate="C101",
        terminal=3,
        opens_at=request.scheduled_at,
        neighbours=["C99", "C103", "C105"],
        instructions="board by groups from the rear; the jet bridge is slow, so begin ten minutes early "
        "and call the late connection twice",
    )
