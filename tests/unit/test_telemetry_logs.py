"""Log lines: what they carry, and in which form."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from broker_mesh.errors import SettingsError
from broker_mesh.headers import Envelope
from broker_mesh.layer import stack
from broker_mesh.layers import trace as layer
from broker_mesh.message import Message
from broker_mesh.outcome import Done, Outcome
from broker_mesh.telemetry.contexts import ContextTracer
from broker_mesh.telemetry.logs import LogContext, configure, install_log_context, message_context

TOPIC = "fleet.v1.find-aircraft"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
MESSAGE = Message(
    TOPIC, TOPIC, Envelope(id="id-1", attempt=2, traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01")
)

log = logging.getLogger("somebody.else")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    filters = {handler: list(handler.filters) for handler in handlers}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for handler in handlers:
        handler.filters[:] = filters[handler]


async def handle(line: str) -> None:
    """Log a line from within a handler, on the real way in."""

    async def handler(_: Message) -> Outcome:
        log.info(line)
        return Done()

    inbound = layer.inbound(ContextTracer(), group="fleet.v1", bind=message_context)
    await stack([inbound], handler)(MESSAGE)


async def test_every_json_line_of_a_handler_names_its_message_and_trace() -> None:
    out = io.StringIO()
    configure("info", "auto", out)
    await handle("looking")
    log.info("afterwards")
    inside, after = (json.loads(line) for line in out.getvalue().splitlines())
    assert inside["message"] == "looking"
    assert inside["logger"] == "somebody.else"
    assert inside["level"] == "INFO"
    assert inside["trace_id"] == TRACE_ID
    assert len(inside["span_id"]) == 16
    assert (inside["message_id"], inside["operation"], inside["attempt"]) == ("id-1", TOPIC, 2)
    assert inside["time"].endswith("Z")
    assert set(after) == {"time", "level", "logger", "message"}


async def test_lines_on_a_terminal_are_for_people() -> None:
    out = Terminal()
    configure("INFO", "auto", out)
    await handle("looking")
    log.warning("afterwards")
    inside, after = out.getvalue().splitlines()
    assert "INFO     somebody.else: looking  [" in inside
    assert f"trace_id={TRACE_ID} message_id=id-1 operation={TOPIC} attempt=2]" in inside
    assert after.endswith("WARNING  somebody.else: afterwards")


@pytest.mark.parametrize(
    ("layout", "stream", "is_json"),
    [("json", Terminal(), True), ("text", io.StringIO(), False), ("auto", io.StringIO(), True)],
)
def test_the_layout_asked_for_wins_over_the_terminal(layout: str, stream: io.StringIO, is_json: bool) -> None:
    configure("INFO", layout, stream)  # type: ignore[arg-type]
    log.info("x")
    assert stream.getvalue().startswith("{") is is_json


def test_lines_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    configure("warning", "text", out)
    log.info("quiet")
    assert out.getvalue() == ""


def test_a_json_line_holds_extra_fields_and_the_traceback_in_one_line() -> None:
    out = io.StringIO()
    configure("INFO", "json", out)
    try:
        raise KeyError("tail\nnum")
    except KeyError:
        log.exception("failed %s", "twice", extra={"partition": 3, "operation": "mine", "level": "mine"})
    (line,) = out.getvalue().splitlines()
    parsed = json.loads(line)
    assert parsed["message"] == "failed twice"
    assert (parsed["partition"], parsed["operation"]) == (3, "mine")
    assert parsed["level"] == "ERROR"
    assert "KeyError" in parsed["exception"]


def test_a_json_line_is_ascii_whatever_the_message_holds() -> None:
    out = io.StringIO()
    configure("INFO", "json", out)
    log.info("é \udcff")
    assert out.getvalue().isascii()
    assert json.loads(out.getvalue())["message"] == "é \udcff"


def test_a_program_s_own_configuration_gets_the_same_fields() -> None:
    out = io.StringIO()
    logging.basicConfig(stream=out, format="%(message)s|%(message_id)s|%(attempt)s|%(trace_id)s", force=True)
    install_log_context()
    install_log_context()
    with message_context(MESSAGE):
        log.warning("inside")
    log.warning("outside", extra={"attempt": "mine"})
    assert out.getvalue().splitlines() == ["inside|id-1|2|", "outside||mine|"]
    (handler,) = logging.getLogger().handlers
    assert sum(isinstance(known, LogContext) for known in handler.filters) == 1


def test_installing_the_context_where_there_is_no_handler_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(SettingsError, match="call it after logging is configured"):
        install_log_context()


@pytest.mark.parametrize(
    ("level", "layout", "sentence"),
    [
        ("WARNNG", "auto", "did you mean 'WARNING'"),
        ("INFO", "jsn", "there are auto, text, json"),
    ],
)
def test_an_unknown_level_or_layout_is_refused(level: str, layout: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        configure(level, layout, io.StringIO())  # type: ignore[arg-type]
