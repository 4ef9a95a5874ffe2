"""The access log: one line for each message that is settled, on the logger `broker_mesh.access`.

On the way of a message: told by the measure layer when an attempt is over. What is set by the sender is bounded and
escaped, so that nobody can write a line of their own into the log. Payloads are never logged.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from opentelemetry import trace

from broker_mesh.layers.measure import Attempt
from broker_mesh.message import Message
from broker_mesh.outcome import OUTCOME_NAMES, Parked, RetryLater

LOGGER_NAME: Final = "broker_mesh.access"
FIELDS: Final = (
    *("caller", "service", "operation", "message_id", "key", "status", "outcome", "attempt", "queue_ms"),
    *("duration_ms", "trace_id", "span_id", "replay_id", "rule"),
)
"""What a line carries, besides the time; absent where there is nothing to say."""

MAX_TEXT = 100
"""Bound of each value that is not the mesh's own, in characters."""

logger = logging.getLogger(LOGGER_NAME)


class AccessLog:
    """Writes the access log of one service.

    Args:
        service: whose.
    """

    def __init__(self, service: str) -> None:
        self._service = service

    def ended(self, attempt: Attempt) -> None:
        """Write the line of a message that is settled; one that comes again has none yet."""
        if isinstance(attempt.outcome, RetryLater | Parked) or not logger.isEnabledFor(logging.INFO):
            return
        fields = self._fields(attempt)
        text = (
            f"{fields['operation']} {fields['message_id']} from {fields.get('caller', 'an unnamed caller')}: "
            f"{fields['outcome']}, {fields['status']} in {fields['duration_ms']:g} ms"
        )
        # Not logger.info: looking for the line that called it costs more than all the rest here.
        record = logging.LogRecord(LOGGER_NAME, logging.INFO, __file__, 0, text, None, None, "ended")
        record.__dict__.update(fields)
        logger.handle(record)

    def _fields(self, attempt: Attempt) -> dict[str, Any]:
        message, outcome, began_at, seconds = attempt
        envelope = message.envelope
        fields: dict[str, Any] = {
            "service": self._service,
            "operation": message.operation,
            "message_id": printable(envelope.id, limit=300),
            "status": "OK" if outcome.error is None else outcome.error.status.name,
            "outcome": OUTCOME_NAMES[type(outcome)],
            "attempt": envelope.attempt,
            "duration_ms": round(seconds * 1000, 1),
        }
        if envelope.source:
            fields["caller"] = printable(envelope.source)
        if message.key is not None:
            fields["key"] = printable(message.key.decode("utf-8", "backslashreplace"))
        if (waited := queue_ms(message, began_at)) is not None:
            fields["queue_ms"] = waited
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            fields["trace_id"] = trace.format_trace_id(span.trace_id)
            fields["span_id"] = trace.format_span_id(span.span_id)
        if envelope.replay_id is not None:
            fields["replay_id"] = printable(envelope.replay_id)
        rule = None if outcome.error is None else outcome.error.details.get("rule")
        if isinstance(rule, str):
            fields["rule"] = printable(rule)
        return fields


def queue_ms(message: Message, began_at: int) -> int | None:
    """Tell how long a message was in Kafka when an attempt began, ms.

    Later attempts without a retry topic count from the same record, so that earlier ones and their back-off are in it.

    Args:
        message: as it was taken.
        began_at: when, epoch ms.
    """
    record = message.record
    if record is None or record.timestamp < 0:
        return None
    return max(0, began_at - record.timestamp)


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Give a text without what could end a line or steer a terminal: such characters are escaped as Python does.

    Args:
        text: from anybody.
        limit: of what is kept of it, characters; what is cut off is marked with an ellipsis.
    """
    if len(text) > limit:
        text = f"{text[: limit - 1]}…"
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )
