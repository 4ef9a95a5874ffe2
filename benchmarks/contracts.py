"""What is asked and answered: 150 to 200 bytes each way, with a key, a time, a number and a list, as services have."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel

from broker_mesh import Event, Operation

RAW_VALUE = b"\x00" * 165
"""What contenders without a schema send: as long as a request or its reply is in Avro."""

_DEPARTS = datetime(2013, 1, 1, 5, 15, tzinfo=UTC)
_REMARKS = "two wheelchairs, one dog in the cabin, late connection from BOS"
_INSTRUCTIONS = (
    "board by groups from the rear; the jet bridge is slow, so begin ten minutes early "
    "and call the late connection twice"
)


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


def assign_gate(scene: str) -> Operation[AssignGate, GateAssigned]:
    """Give the operation that is called in a scene."""
    return Operation(f"{callee(scene)}.v1.assign-gate", request=AssignGate, reply=GateAssigned, key="tailnum")


def gate_asked(scene: str) -> Event[AssignGate]:
    """Give the event that is published in a scene, and that nobody hears."""
    return Event(f"{caller(scene)}.v1.events.gate-asked", AssignGate, key="tailnum")


def callee(scene: str) -> str:
    """Name the service that answers in a scene."""
    return f"gates-{scene}"


def caller(scene: str) -> str:
    """Name the service that asks in a scene."""
    return f"ground-{scene}"


def key_of(number: int) -> str:
    """Give the key of a request; no two that are in flight together have the same."""
    return f"N{number % 100_000:05d}"


def request_of(number: int, extra_bytes: int = 0) -> AssignGate:
    """Give a request; `extra_bytes` make it, and its reply, longer by so many."""
    return AssignGate(
        tailnum=key_of(number),
        flight="UA1545",
        origin="EWR",
        destination="IAH",
        scheduled_at=_DEPARTS,
        passengers=149,
        crew=["Amelia E", "Bessie C", "Charles L", "Jacqueline C", "Wiley P", "Howard H"],
        remarks=_REMARKS + "." * extra_bytes,
    )


def reply_to(request: AssignGate) -> GateAssigned:
    """Give the reply to a request, as much longer than usual as the request is."""
    return GateAssigned(
        tailnum=request.tailnum,
        flight=request.flight,
        gate="C101",
        terminal=3,
        opens_at=request.scheduled_at,
        neighbours=["C99", "C103", "C105"],
        instructions=_INSTRUCTIONS + request.remarks[len(_REMARKS) :],
    )
