"""The operations of the service under test, with their policies: in one place, since the checker asks for them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel

from broker_mesh import Operation, Retry
from broker_mesh.errors import Unavailable


class Work(BaseModel):
    """A request; `id` comes first, so that it can be read without a schema."""

    id: str
    key: str
    number: int
    plan: str


class Result(BaseModel):
    id: str
    handled_by: str


class Later(Unavailable):
    """A failure whose next attempt is far enough off for its record to be parked."""


ATTEMPTS = 5
RETRY = Retry(
    attempts=ATTEMPTS,
    backoff=0.1,
    max_backoff=0.8,
    per={Later: Retry(attempts=ATTEMPTS, backoff=10.0, max_backoff=10.0)},
)


class Operations(NamedTuple):
    """What the service under test handles.

    Args:
        apply: request and reply, keys in order, `async def`.
        note: one-way, keys in order, a plain `def`.
        tally: request and reply, in any order.
    """

    apply: Operation[Work, Result]
    note: Operation[Work, None]
    tally: Operation[Work, Result]

    @property
    def orderings(self) -> Mapping[str, Literal["key", "none"]]:
        """Each operation's ordering, by its name."""
        return {self.apply.name: "key", self.note.name: "key", self.tally.name: "none"}


def operations(service: str) -> Operations:
    """Declare the operations of a service of that name."""
    return Operations(
        Operation(f"{service}.v1.apply", request=Work, reply=Result, key="key"),
        Operation(f"{service}.v1.note", request=Work, key="key"),
        Operation(f"{service}.v1.tally", request=Work, reply=Result, key="key"),
    )
