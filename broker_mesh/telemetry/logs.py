"""Logs: every line written while a message is handled says which message and which trace.

On the way of a message: `message_context` is entered by the trace layer (its `bind`) for each attempt; log
handlers look up what it holds. Lines carry ids, never payloads.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TextIO

from opentelemetry import trace

from broker_mesh.errors import SettingsError
from broker_mesh.message import Message
from broker_mesh.settings import nearest

FIELDS = ("trace_id", "span_id", "message_id", "operation", "attempt")
"""What `LogContext` puts on a record; an empty text where there is nothing to say."""

_FIELDS = frozenset(FIELDS)

Layout = Literal["auto", "text", "json"]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", *FIELDS}

_ENCODER = json.JSONEncoder(default=str)

_current: ContextVar[Message | None] = ContextVar("broker_mesh_current_message", default=None)


@contextmanager
def message_context(message: Message) -> Iterator[None]:
    """Have the log lines written within the block, by any logger, name this message."""
    token = _current.set(message)
    try:
        yield
    finally:
        with suppress(
            ValueError
        ):  # what nobody goes on with ends in another context: its own is gone with it
            _current.reset(token)


class LogContext(logging.Filter):
    """Puts trace_id, span_id, message_id, operation and attempt on every record that a handler takes.

    It is for handlers: a logger's filters don't see what the loggers below it write. A field that the program
    itself has set with `extra=` is left as it is, which a record factory could not do.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; every record passes."""
        fields = vars(record)
        if not fields.keys() >= _FIELDS:  # a line of the access log has them already
            for name, value in _facts().items():
                fields.setdefault(name, value)
        return True


def install_log_context(*handlers: logging.Handler) -> None:
    """Have a program's own log configuration carry the ids of the message being handled.

    Afterwards a format may name `%(trace_id)s`, `%(span_id)s`, `%(message_id)s`, `%(operation)s` and
    `%(attempt)s`. Calling it again changes nothing.

    Args:
        handlers: the handlers to teach; those of the root logger when none is given.

    Raises:
        SettingsError: none is given, and the root logger has none.
    """
    taught = handlers or tuple(logging.getLogger().handlers)
    if not taught:
        raise SettingsError(
            "install_log_context() found no log handler: call it after logging is configured, or give the handlers"
        )
    for handler in taught:
        if not any(isinstance(known, LogContext) for known in handler.filters):
            handler.addFilter(LogContext())


def configure(level: str = "INFO", layout: Layout = "auto", stream: TextIO | None = None) -> None:
    """Configure the logs of a program that the mesh runs, in place of what was configured before.

    Args:
        level: the lowest level that is written; upper or lower case.
        layout: "text" for people, "json" for one object a line; "auto" is text on a terminal, else json.
        stream: where lines go; stderr when None.

    Raises:
        SettingsError: there is no such level or layout.
    """
    if level.upper() not in _LEVELS:
        raise SettingsError(
            f"log level {level!r} is unknown{nearest(level.upper(), _LEVELS)} (there are {', '.join(_LEVELS)})"
        )
    if layout not in ("auto", "text", "json"):
        raise SettingsError(f"log layout {layout!r} is unknown (there are auto, text, json)")
    out = stream or sys.stderr
    as_text = layout == "text" or (layout == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    handler.addFilter(LogContext())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class TextFormatter(logging.Formatter):
    """Lines for people: time, level, logger, message, then what is being handled."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format the line without its traceback, which logging adds below."""
        facts = {name: value for name in FIELDS if (value := getattr(record, name, "")) != ""}
        facts.pop("span_id", None)
        ids = " ".join(f"{name}={value}" for name, value in facts.items())
        line = super().formatMessage(record)
        return f"{line}  [{ids}]" if ids else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, ids, `extra=` fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        line: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{int(record.created % 1 * 1000):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = vars(record)
        line.update((name, fields[name]) for name in FIELDS if fields.get(name, "") != "")
        for name, value in fields.items():
            if name not in _STANDARD:
                line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


@lru_cache(maxsize=2)  # lines come many a second
def _second(epoch: int) -> str:
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%dT%H:%M:%S}"


def _facts() -> Mapping[str, Any]:
    span = trace.get_current_span().get_span_context()
    message = _current.get()
    return {
        "trace_id": trace.format_trace_id(span.trace_id) if span.is_valid else "",
        "span_id": trace.format_span_id(span.span_id) if span.is_valid else "",
        "message_id": message.envelope.id if message else "",
        "operation": message.operation if message else "",
        "attempt": message.envelope.attempt if message else "",
    }
