"""What `mesh tap` follows, and what it says of a record."""

from __future__ import annotations

import base64
import json

import pytest

from broker_mesh import headers
from broker_mesh.cli.following import belongs, choose_topics
from broker_mesh.cli.output import json_text, print_error, print_note, printable
from broker_mesh.cli.records import Decoder, Value, as_json, as_line, kind_of
from broker_mesh.errors import UnknownError
from broker_mesh.headers import Envelope
from broker_mesh.message import Record
from broker_mesh.status import StatusCode

TOPICS = [
    "_schemas",
    "cli.replies",
    "dispatch.replies",
    "dispatch.v1.events.flight-departed",
    "fleet.v1.find-aircraft",
    "fleet.v1.find-aircraft.dead",
    "fleet.v1.find-aircraft.retry",
    "fleet.v1.find-aircraft-type",
    "legacy",
    "legacy.orders",
    "weather.v1.from.dispatch.v1.events.flight-departed.dead",
    "weather.v1.from.dispatch.v1.events.flight-departed.retry",
]


def record(topic: str = "fleet.v1.find-aircraft", value: bytes | None = b"x", **envelope: object) -> Record:
    written = headers.write(Envelope(id="id-1", source="cli")._replace(**envelope))  # type: ignore[arg-type]
    return Record(topic, 3, 17, 1_385_000_000_123, b"N14228", value, written)


@pytest.mark.parametrize(
    ("topic", "kind"),
    [
        ("fleet.v1.find-aircraft", "request"),
        ("fleet.v1.find-aircraft.retry", "retry"),
        ("fleet.v1.find-aircraft.dead", "dead"),
        ("dispatch.v1.events.flight-departed", "event"),
        ("weather.v1.from.dispatch.v1.events.flight-departed.retry", "retry"),
        ("dispatch.replies", "reply"),
        ("_schemas", "record"),
        ("legacy.orders", "record"),
        ("orders.v1.from.legacy_orders.retry", "retry"),
        ("orders.v1.from.Legacy.orders-2.dead", "dead"),
        ("orders.v1.from.a.from.b.dead", "dead"),
        ("legacy.dead", "record"),
        ("Legacy.replies", "record"),
        ("orders.v1.from.fleet.v1.find-aircraft.dead", "record"),
    ],
)
def test_the_kind_of_a_topics_records(topic: str, kind: str) -> None:
    assert kind_of(topic) == kind


def test_an_operation_is_followed_with_its_failures_and_all_reply_topics() -> None:
    assert choose_topics("fleet.v1.find-aircraft", TOPICS) == [
        "cli.replies",
        "dispatch.replies",
        "fleet.v1.find-aircraft",
        "fleet.v1.find-aircraft.dead",
        "fleet.v1.find-aircraft.retry",
    ]


def test_of_the_replies_only_the_operations_own_are_shown() -> None:
    own = record("cli.replies", type="fleet.v1.find-aircraft.reply")
    other = record("cli.replies", type="weather.v1.observe.reply")
    assert belongs("fleet.v1.find-aircraft", own)
    assert not belongs("fleet.v1.find-aircraft", other)
    assert belongs("cli.replies", other)


def test_an_event_is_followed_with_its_subscribers_failures() -> None:
    assert choose_topics("dispatch.v1.events.flight-departed", TOPICS) == [TOPICS[3], *TOPICS[-2:]]


def test_a_service_is_all_that_it_owns() -> None:
    assert choose_topics("dispatch", TOPICS) == ["dispatch.replies", "dispatch.v1.events.flight-departed"]


@pytest.mark.parametrize("topic", ["legacy.orders", "_schemas", "cli.replies"])
def test_any_other_topic_is_itself(topic: str) -> None:
    assert choose_topics(topic, TOPICS) == [topic]


def test_a_name_of_nothing() -> None:
    assert choose_topics("fleet.v1.missing", TOPICS) == []


def test_a_request_in_a_line() -> None:
    line = as_line(record(), Value(json={"tailnum": "N14228"}), with_headers=False)
    assert "request" in line
    assert line.endswith('fleet.v1.find-aircraft/3/17 key=N14228 id-1 {"tailnum": "N14228"}')


def test_an_error_reply_shows_its_requests_id_and_status() -> None:
    reply = record(
        "cli.replies",
        None,
        correlation_id="request-1",
        status=StatusCode.NOT_FOUND,
        status_message="no such aircraft",
    )
    assert as_line(reply, Value(), with_headers=False).endswith("request-1 NOT_FOUND: no such aircraft")
    described = as_json(reply, Value(), with_headers=True)
    assert described["status"] == "NOT_FOUND"
    assert described["headers"]["mesh-correlation-id"] == "request-1"
    assert "bytes" not in described


def test_what_cannot_be_decoded_is_shown_as_bytes_with_the_reason() -> None:
    data = b"not Avro"

    class NoSchemas:
        def by_id(self, _: int) -> None:
            return None

        def refresh(self) -> None:
            return None

    value = Decoder(NoSchemas()).decode(data)  # type: ignore[arg-type]
    assert "not the magic byte 0" in as_line(record(value=data), value, with_headers=False)
    described = as_json(record(value=data), value, with_headers=False)
    assert base64.b64decode(described["bytes"]) == data
    assert described["problem"]
    unknown = Decoder(NoSchemas()).decode(b"\x00\x00\x00\x00\x07rest")  # type: ignore[arg-type]
    assert "7" in (unknown.problem or "")


def test_an_unknown_id_is_looked_up_once_and_not_for_every_record() -> None:
    class Counting:
        reads = 0

        def by_id(self, _: int) -> None:
            return None

        def refresh(self) -> None:
            self.reads += 1

    registry = Counting()
    decoder = Decoder(registry)  # type: ignore[arg-type]
    decoder.decode_all([b"\x00\x00\x00\x00\x07rest"] * 100)
    assert registry.reads == 1


def test_a_record_does_not_steer_the_terminal() -> None:
    evil = record()._replace(key=b"\x1b[2J\xc2\x9b31m\xff")
    line = as_line(evil, Value(json="\x1b]0;title\x07\u202e"), with_headers=True)
    assert line.isprintable()
    assert printable("Zürich ✈") == "Zürich ✈"


def test_json_lines_are_json() -> None:
    described = as_json(record()._replace(timestamp=-1, key=b"\xff"), Value(json={"a": 1}), with_headers=True)
    assert described["time"] is None
    assert json.loads(json.dumps(described)) == described


def test_json_is_valid_and_safe_whatever_a_record_has_put_into_it() -> None:
    details = json.loads(
        '{"half": "\\ud800", "number": NaN, "steers": "\\u009b31m\\u202e\\u007f", "kept": "Zürich ✈"}'
    )
    text = json_text(details)
    assert text.isprintable()
    text.encode()  # can be written as UTF-8
    strict = json.loads(text, parse_constant=pytest.fail)
    assert strict == {**details, "number": "NaN"}
    assert "Zürich ✈" in text


def test_notes_and_errors_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_note("UNKNOWN: \x1b[2J\u202e\nsecond line")
    print_error(UnknownError("\x1b]0;title\x07"))
    assert capsys.readouterr().err == "UNKNOWN: \\x1b[2J\\u202e\nsecond line\nError: \\x1b]0;title\\x07\n"
