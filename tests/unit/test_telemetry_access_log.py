"""The access log: what a line carries, and that nobody but the mesh writes its lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from broker_mesh.errors import InternalError, NotFound, PermissionDenied, Unavailable
from broker_mesh.headers import Envelope
from broker_mesh.layers.measure import Attempt
from broker_mesh.message import Message, Record
from broker_mesh.outcome import DeadLetter, Done, Drop, Outcome, RetryLater
from broker_mesh.telemetry import access_log
from broker_mesh.telemetry.access_log import AccessLog, printable
from broker_mesh.telemetry.logs import JsonFormatter, TextFormatter

FIND = "fleet.v1.find-aircraft"
NOW = 1_700_000_000_000
SPAN = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
DENIED = Drop(PermissionDenied("no", details={"rule": "fleet/only-dispatch"}))


class Lines(logging.StreamHandler[io.StringIO]):
    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__(io.StringIO())
        self.setFormatter(formatter)

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def lines() -> Iterator[Lines]:
    yield from listening(JsonFormatter())


@pytest.fixture
def text_lines() -> Iterator[Lines]:
    yield from listening(TextFormatter())


def listening(formatter: logging.Formatter) -> Iterator[Lines]:
    handler = Lines(formatter)
    access_log.logger.addHandler(handler)
    access_log.logger.setLevel(logging.INFO)
    yield handler
    access_log.logger.removeHandler(handler)
    access_log.logger.setLevel(logging.NOTSET)


def ended(outcome: Outcome, *, key: bytes | None = b"N14228", **envelope: object) -> None:
    given = Envelope(**{"id": "0197-1", "source": "dispatch", "attempt": 2, **envelope})  # type: ignore[arg-type]
    message = Message(FIND, FIND, given, key=key, record=Record(FIND, 0, 1, NOW, key, b"", []))
    AccessLog("fleet").ended(Attempt(message, outcome, NOW + 1500, 0.01234))


def test_a_line(lines: Lines) -> None:
    with use_span(SPAN):
        ended(Done(b"reply"), replay_id="0198-2")
    (line,) = (json.loads(text) for text in lines.text.splitlines())
    assert line.pop("time").endswith("Z")
    assert line.pop("message") == f"{FIND} 0197-1 from dispatch: done, OK in 12.3 ms"
    assert line == {
        "level": "INFO",
        "logger": "broker_mesh.access",
        "service": "fleet",
        "caller": "dispatch",
        "operation": FIND,
        "message_id": "0197-1",
        "key": "N14228",
        "status": "OK",
        "outcome": "done",
        "attempt": 2,
        "queue_ms": 1500,
        "duration_ms": 12.3,
        "trace_id": f"{0xABC:032x}",
        "span_id": f"{0xDEF:016x}",
        "replay_id": "0198-2",
    }
    assert set(line) - {"level", "logger"} <= set(access_log.FIELDS)


@pytest.mark.parametrize(
    ("outcome", "name", "status", "rule"),
    [
        (Done(error=NotFound("none")), "done", "NOT_FOUND", None),
        (DeadLetter(InternalError("bug")), "dead-letter", "INTERNAL", None),
        (DENIED, "drop", "PERMISSION_DENIED", "fleet/only-dispatch"),
        (Done(error=NotFound("none", details={"rule": object()})), "done", "NOT_FOUND", None),
    ],
    ids=["answer", "dead letter", "denied", "a handler's own detail"],
)
def test_outcomes(lines: Lines, outcome: Outcome, name: str, status: str, rule: str | None) -> None:
    ended(outcome, key=None, source="")
    line = json.loads(lines.text)
    assert (line["outcome"], line["status"], line.get("rule")) == (name, status, rule)
    assert not {"key", "caller", "replay_id", "trace_id"} & set(line)


def test_an_attempt_that_another_follows_has_no_line(lines: Lines) -> None:
    ended(RetryLater(NOW, Unavailable("away")))
    assert lines.text == ""


def test_nothing_is_written_below_the_level(lines: Lines) -> None:
    access_log.logger.setLevel(logging.WARNING)
    ended(Done())
    assert lines.text == ""


HOSTILE = 'x\n2026-11-23 INFO broker_mesh.access: forged\r\x1b[2J\u2028\x85\u202e"'


def test_a_sender_writes_no_lines_of_its_own(text_lines: Lines) -> None:
    ended(Done(), key=HOSTILE.encode() + b"\xff", source=HOSTILE, id=HOSTILE, replay_id=HOSTILE)
    assert text_lines.text.count("\n") == 1
    assert text_lines.text.rstrip("\n").isprintable()


def test_a_sender_s_values_are_bounded(lines: Lines) -> None:
    ended(Done(), key=b"k" * 10_000, source="s" * 10_000)
    assert len(lines.text) < 1500


@given(st.text())
def test_what_is_printable_is_left_as_it_is_and_all_else_escaped(text: str) -> None:
    told = printable(text, limit=20)
    assert told.isprintable()
    if text.isprintable() and len(text) <= 20:
        assert told == text
    assert len(told) <= 20 * 10
