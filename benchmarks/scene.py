"""Where contenders meet: the topics of a scene are its own, so that those of several scenes don't hear each other."""

from __future__ import annotations

from pydantic import BaseModel

PARTITIONS = 6
"""Of the topics of every contender, unless a section is about them; the default of the mesh."""


class Scene(BaseModel):
    """What the processes of a contender are told when they start.

    Args:
        bootstrap_servers: of the Kafka that all use.
        name: part of the names of all its topics, groups and services.
        partitions: of its topics.
        sampled: the share of traces that the mesh records and exports, 0 to 1; None exports nothing.
        collector: where to, as in "http://127.0.0.1:4318"; of OTLP over HTTP.
        callee: the address that the callee said when it was ready, of contenders without a broker.
    """

    bootstrap_servers: str
    name: str
    partitions: int = PARTITIONS
    sampled: float | None = None
    collector: str = ""
    callee: str = ""

    @property
    def group(self) -> str:
        """The consumer group of callees that share the work by hand."""
        return f"callees-{self.name}"
