"""The log lines of an exporter whose collector is away: one a minute instead of several a second.

On the way of a message: beside it. OpenTelemetry's exporters log each failed try, its propagators each header
that they leave out; neither concerns delivery.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

REPEAT_SECONDS = 60.0

NOISY_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.baggage.propagation",
    "opentelemetry.trace.propagation.tracecontext",
    "opentelemetry.trace.span",
)


class HoldBack(logging.Filter):
    """Lets one record of a logger pass in `seconds`, and says on the next how many it held back.

    Args:
        seconds: between two records of one logger.
        clock: gives seconds that only grow.
    """

    def __init__(self, seconds: float = REPEAT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock
        self._passed_at: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide whether a record passes; one that does tells of those that did not."""
        now = self._clock()
        if now - self._passed_at.get(record.name, float("-inf")) < self._seconds:
            self._held[record.name] = self._held.get(record.name, 0) + 1
            return False
        self._passed_at[record.name] = now
        held = self._held.pop(record.name, 0)
        note = "delivery of messages is not affected"
        if held:
            note += f"; {held} more such lines since the last"
        record.msg, record.args = f"{record.getMessage()} ({note})", ()
        return True


_hold_back = HoldBack()


def quieten() -> None:
    """Hold back the lines of OpenTelemetry's noisy loggers; calling it again changes nothing."""
    for name in NOISY_LOGGERS:
        logging.getLogger(name).addFilter(_hold_back)
