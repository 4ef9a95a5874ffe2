"""The headers: what is written, what is read, and what is malformed."""

from __future__ import annotations

import pytest

from broker_mesh import headers
from broker_mesh.errors import InvalidArgument
from broker_mesh.headers import Envelope, Place, RawHeaders, ReplyTo, _encoded_once
from broker_mesh.status import StatusCode

FULL = Envelope(
    id="0197d3c0-0000-7000-8000-000000000000",
    source="dispatch",
    type="fleet.v1.find-aircraft",
    time=1_763_877_600_123,
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    tracestate="vendor=1",
    baggage="tenant=blue",
    deadline=1_763_877_700_000,
    attempt=2,
    reply_to=ReplyTo("dispatch.replies", 4),
    correlation_id="id-0",
    idempotency_key="flight-17",
    status=StatusCode.NOT_FOUND,
    status_message="no such tail",
    status_details={"tailnum": "N1"},
    origin=Place("fleet.v1.find-aircraft", 3, 41),
    replay_id="replay-1",
    signature=b"\x00\xff",
    exception="KeyError",
    first_failure=1_763_877_600_500,
    last_failure=1_763_877_600_900,
    retry_at=1_763_877_601_000,
    dead_letter=Place("fleet.v1.find-aircraft.dead", 3, 7),
    request_digest="0123456789abcdef" * 4,
    group="indexers",
)

ON_THE_WIRE: RawHeaders = [
    ("ce_id", b"0197d3c0-0000-7000-8000-000000000000"),
    ("ce_source", b"dispatch"),
    ("ce_type", b"fleet.v1.find-aircraft"),
    ("ce_specversion", b"1.0"),
    ("ce_time", b"2025-11-23T06:00:00.123Z"),
    ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("tracestate", b"vendor=1"),
    ("baggage", b"tenant=blue"),
    ("mesh-deadline", b"1763877700000"),
    ("mesh-attempt", b"2"),
    ("mesh-reply-to", b"dispatch.replies/4"),
    ("mesh-correlation-id", b"id-0"),
    ("mesh-idempotency-key", b"flight-17"),
    ("mesh-status", b"NOT_FOUND"),
    ("mesh-status-message", b"no such tail"),
    ("mesh-status-details", b'{"tailnum":"N1"}'),
    ("mesh-origin", b"fleet.v1.find-aircraft/3/41"),
    ("mesh-replay-id", b"replay-1"),
    ("mesh-signature", b"\x00\xff"),
    ("mesh-exception", b"KeyError"),
    ("mesh-first-failure", b"1763877600500"),
    ("mesh-last-failure", b"1763877600900"),
    ("mesh-retry-at", b"1763877601000"),
    ("mesh-dead-letter", b"fleet.v1.find-aircraft.dead/3/7"),
    ("mesh-request-digest", b"0123456789abcdef" * 4),
    ("mesh-group", b"indexers"),
]


def test_the_example_says_something_in_every_field() -> None:
    assert all(mine != default for mine, default in zip(FULL, Envelope(), strict=True))


def test_an_envelope_is_written_in_the_documented_form() -> None:
    assert headers.write(FULL) == ON_THE_WIRE


def test_the_documented_form_is_read() -> None:
    assert headers.read(ON_THE_WIRE) == (FULL, None)


def test_what_is_absent_or_at_its_default_is_not_written() -> None:
    written = headers.write(Envelope(id="1", source="a", type="b"))
    assert [name for name, _ in written] == ["ce_id", "ce_source", "ce_type", "ce_specversion"]


def test_the_retry_of_a_record_from_a_plain_client_reads_without_fault() -> None:
    place = f"{'t' * 249}/99999/9223372036854775807"
    assert headers.read(headers.write(Envelope(id=place))) == (Envelope(id=place), None)


@pytest.mark.parametrize("raw", [None, [], [("other", b"x")], [("ce_id", None)]])
def test_a_record_without_headers_of_the_mesh_has_an_empty_envelope(raw: RawHeaders | None) -> None:
    assert headers.read(raw) == (Envelope(), None)


def test_the_last_of_a_repeated_header_counts() -> None:
    envelope, problem = headers.read([("ce_source", b"a"), ("ce_source", b"b")])
    assert (envelope.source, problem) == ("b", None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_id", b""),
        ("ce_id", b"two words"),
        ("ce_id", b"x" * 301),
        ("ce_id", "é".encode()),
        ("ce_source", b"a\nb"),
        ("ce_type", b"\xff"),
        ("ce_time", b"yesterday"),
        ("ce_time", b"2025-11-23T06:00:00"),
        ("ce_time", b"20251123T06:00:00.1.456Z"),
        ("ce_time", b"20251123T060000.123.456Z"),
        ("ce_time", b"2025-W47T06:00:00.0.000Z"),
        ("ce_time", b"20251123T0600+01:00.000Z"),
        ("ce_time", b"9999-12-31T23:59:59-01:00"),
        ("mesh-deadline", b""),
        ("mesh-deadline", b"-1"),
        ("mesh-deadline", b"1e9"),
        ("mesh-deadline", b"1" * 19),
        ("mesh-deadline", "١".encode()),
        ("mesh-attempt", b"0"),
        ("mesh-reply-to", b"dispatch.replies"),
        ("mesh-reply-to", b"/4"),
        ("mesh-reply-to", b"dispatch.replies/x"),
        ("mesh-origin", b"topic/3"),
        ("mesh-origin", b"/3/41"),
        ("mesh-status", b"FINE"),
        ("mesh-status", b"5"),
        ("mesh-status-details", b"[]"),
        ("mesh-status-details", b"{"),
        ("mesh-status-details", b"[" * 10_000),
        ("mesh-status-message", b"x" * (headers.MAX_READ_BYTES + 1)),
    ],
)
def test_a_malformed_header_is_a_problem_that_names_it_and_costs_only_itself(name: str, value: bytes) -> None:
    envelope, problem = headers.read([(name, value), ("mesh-correlation-id", b"id-0")])
    assert isinstance(problem, InvalidArgument)
    assert name in problem.message
    assert len(problem.message) < 300
    assert envelope == Envelope(correlation_id="id-0")


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage"])
@pytest.mark.parametrize("value", [b"\xff\xfe", b"x" * (headers.MAX_READ_BYTES + 1)])
def test_a_trace_header_that_cannot_be_read_is_ignored(name: str, value: bytes) -> None:
    assert headers.read([(name, value)]) == (Envelope(), None)


def test_the_first_problem_is_the_one_reported() -> None:
    _, problem = headers.read([("mesh-attempt", b"x"), ("mesh-deadline", b"y")])
    assert problem is not None
    assert "mesh-attempt" in problem.message


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("short", 5, "short"),
        ("longer", 5, "lo…"),
        ("éééé", 7, "éé…"),
        ("éééé", 6, "é…"),
        ("longer", 3, "…"),
        ("longer", 2, "lo"),
        ("é", 1, ""),
        ("x", 0, ""),
        ("\ud800", 10, "\\ud800"),
    ],
)
def test_a_long_text_is_cut_at_a_character_and_marked(text: str, limit: int, expected: str) -> None:
    assert headers.bounded(text, limit) == expected.encode()


def test_details_that_are_too_long_or_no_json_do_not_keep_an_answer_from_being_sent() -> None:
    circular: dict[str, object] = {}
    circular["self"] = circular
    for details in ({"text": "x" * 5000}, {("a", 1): 2}, circular):
        written = dict(headers.write(Envelope(status_details=details)))  # type: ignore[arg-type]
        assert len(written["mesh-status-details"] or b"") <= headers.MAX_TEXT_BYTES
        envelope, problem = headers.read(list(written.items()))
        assert problem is None
        assert envelope.status_details.keys() & {"truncated", "unreadable"}


def test_the_mesh_knows_the_names_of_all_headers_it_writes() -> None:
    assert {name for name, _ in ON_THE_WIRE} | {headers.SOURCE} == headers.mesh_names()


def test_who_sends_a_program_s_cloud_event_stands_beside_what_that_says() -> None:
    envelope, problem = headers.read(
        [("mesh-source", b"shop"), ("ce_source", b"/elsewhere"), ("ce_id", b"1")]
    )
    assert (envelope.source, envelope.id, problem) == ("shop", "1", None)


def test_a_type_of_any_length_is_written_and_only_a_short_one_is_remembered() -> None:
    """A record's type is whatever its sender says, up to the bound of a header, and its retry bears it again."""
    before = _encoded_once.cache_info().currsize
    for number in range(5):
        name = f"{number}-é" + "x" * 8_000
        assert ("ce_type", name.encode()) in headers.write(Envelope(type=name))
    assert _encoded_once.cache_info().currsize == before
