"""Endpoints: what one service handles, and how.

On the way of a message: made by `serving.py` from declarations; tells `service.py` which topics to take records from,
and which records wait for each other.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from broker_mesh import naming
from broker_mesh.layers.retry import Retry
from broker_mesh.layers.validate import Decoder
from broker_mesh.message import Record

Ordering: TypeAlias = Literal["key", "partition", "none"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One thing that a service handles: an operation, or an event it subscribes to.

    Args:
        name: the operation or event, which is the topic too.
        stem: what the retry and dead-letter topics are named after.
        decoder: for requests or events.
        ordering: which records wait for each other.
        retry: what follows a failed attempt.
    """

    name: str
    stem: str
    decoder: Decoder
    ordering: Ordering
    retry: Retry

    @property
    def topics(self) -> tuple[str, str]:
        """What its records come from: first deliveries, and what waits for another attempt or was replayed."""
        return self.name, naming.retry_topic(self.stem)

    def lane_of(self, record: Record) -> Hashable:
        """Tell which lane of its partition a record belongs to: those of one lane run one after the other.

        None for a lane of its own. First deliveries and what comes from the retry topic share their lanes.
        """
        match self.ordering:
            case "partition":
                return self.name, record.partition
            case "key" if record.key is not None:
                return self.name, record.key
            case _:
                return None
