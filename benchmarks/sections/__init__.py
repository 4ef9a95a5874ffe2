"""The sections: one module each, in the order in which they are measured and printed."""

from __future__ import annotations

from benchmarks.section import Section
from benchmarks.sections import (
    backlog,
    idle,
    one_way,
    payloads,
    pending,
    request_reply,
    scaling,
    start_up,
    wrapped,
)

SECTIONS: tuple[Section, ...] = (
    request_reply.SECTION,
    one_way.SECTION,
    wrapped.SECTION,
    payloads.SECTION,
    scaling.INSTANCES,
    scaling.PARTITIONS,
    backlog.SECTION,
    pending.SECTION,
    idle.SECTION,
    start_up.SECTION,
)
