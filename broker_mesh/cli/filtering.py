"""Which records a tap shows: what their headers say is asked first, since only what passes that is worth decoding."""

from __future__ import annotations

from dataclasses import dataclass

from broker_mesh.cli.records import Value, as_text, kind_of
from broker_mesh.expression import Expression
from broker_mesh.message import Record, received


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that a record meets all of; None and empty ones are none.

    Args:
        kinds: by `records.kind_of`.
        statuses: names of the status it ended with; what has not ended has none.
        key: its key as text.
        id: its own id, or its request's, where it is a reply.
        source: the service that sent it.
        where: of its decoded value.
    """

    kinds: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    key: str | None = None
    id: str | None = None
    source: str | None = None
    where: Expression | None = None

    def admits(self, record: Record) -> bool:
        """Tell whether a record meets the conditions that need no decoding."""
        if self.kinds and kind_of(record.topic) not in self.kinds:
            return False
        if self.key is not None and as_text(record.key) != self.key:
            return False
        if not self.statuses and self.id is None and self.source is None:
            return True
        envelope = received(record, record.topic).envelope
        return (
            (not self.statuses or (envelope.status is not None and envelope.status.name in self.statuses))
            and (self.id is None or self.id in (envelope.id, envelope.correlation_id))
            and (self.source is None or envelope.source == self.source)
        )

    def holds(self, value: Value) -> bool:
        """Tell whether the condition on the value holds; for what can't be decoded none does."""
        return self.where is None or (value.problem is None and self.where.holds(value.json))
