"""A tracer for when spans go nowhere: it makes ids and passes them on, and records nothing.

On the way of a message: in the trace layer's hands when no exporter is set. Log lines and headers still carry
a trace id, and services that do export continue the trace, at a tenth of the cost of a recorded span.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, Tracer

# Sampled (bit 0), with an id of which all bits are random (bit 1; W3C Trace Context, level 2).
_BEGUN = TraceFlags(TraceFlags.SAMPLED | 0x02)

# A generator of its own: a program that seeds `random` must not give two processes the same ids.
_ids = random.Random()  # noqa: S311 - ids, no secrets


class ContextTracer(Tracer):
    """Continues the trace of the context, or begins one, marked as sampled.

    That is what the standard's default sampler, `parentbased_always_on`, decides: who exports further on, records.
    """

    def start_span(self, name: str, context: Context | None = None, *_: Any, **__: Any) -> Span:  # noqa: ARG002
        """Make a span of ids alone; everything but the context is left unused."""
        parent = trace.get_current_span(context).get_span_context()
        span_id = _ids.getrandbits(64) or 1  # 0 would be invalid
        if parent.is_valid:
            return NonRecordingSpan(
                SpanContext(parent.trace_id, span_id, False, parent.trace_flags, parent.trace_state)
            )
        return NonRecordingSpan(SpanContext(_ids.getrandbits(128) or 1, span_id, False, _BEGUN))

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, name: str, context: Context | None = None, *_: Any, **__: Any
    ) -> Iterator[Span]:
        """Make a span of ids alone, and have it current within the block."""
        with trace.use_span(self.start_span(name, context)) as span:
            yield span
