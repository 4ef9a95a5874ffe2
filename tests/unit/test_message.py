"""The message, and what is made of a record."""

from __future__ import annotations

import re

import pytest

from broker_mesh.errors import InvalidArgument
from broker_mesh.headers import Envelope, ReplyTo
from broker_mesh.message import Message, Record, id_time, is_for, new_id, now_ms, received

RECORD = Record("fleet.v1.find-aircraft", 3, 41, 0, b"N1", b"value", [("ce_id", b"id-1"), ("foreign", None)])


def test_a_record_becomes_a_message_that_keeps_it() -> None:
    message = received(RECORD, "fleet.v1.find-aircraft")
    assert message == Message(
        topic=RECORD.topic,
        operation="fleet.v1.find-aircraft",
        envelope=Envelope(id="id-1"),
        key=b"N1",
        value=b"value",
        partition=3,
        record=RECORD,
    )


def test_a_record_without_an_id_is_named_by_its_place_in_the_log() -> None:
    message = received(RECORD._replace(headers=[]), "x")
    assert message.envelope.id == "fleet.v1.find-aircraft/3/41"


@pytest.mark.parametrize(
    ("topic", "envelope", "own", "billing"),
    [
        ("x", Envelope(), True, True),
        ("x", Envelope(group="billing"), True, True),  # a first delivery is for all
        ("x", Envelope(group="billing", replay_id="r"), False, True),
        ("x", Envelope(replay_id="r"), True, True),
        ("x.retry", Envelope(), True, False),
        ("x.retry", Envelope(group="billing"), False, True),
    ],
)
def test_a_retry_is_for_the_group_that_failed(
    topic: str, envelope: Envelope, own: bool, billing: bool
) -> None:
    message = Message(topic, "x", envelope)
    assert (is_for(message, None), is_for(message, "billing")) == (own, billing)


def test_malformed_headers_become_the_message_s_fault_and_what_is_readable_counts() -> None:
    message = received(RECORD._replace(headers=[("mesh-attempt", b"x"), ("ce_id", b"id-1")]), "x")
    assert isinstance(message.fault, InvalidArgument)
    assert message.envelope.id == "id-1"


@pytest.mark.parametrize(
    ("reply_to", "expected"),
    [
        (None, False),
        (ReplyTo("a.replies", 0), True),
        (ReplyTo("b.replies", 0), False),
        (ReplyTo("a.v1.x", 0), False),
    ],
)
def test_a_reply_is_expected_where_the_address_is_the_sender_s_own(
    reply_to: ReplyTo | None, expected: bool
) -> None:
    assert Message("t", "t", Envelope(source="a", reply_to=reply_to)).expects_reply is expected


def test_headers_that_can_not_be_read_at_all_are_the_message_s_fault() -> None:
    message = received(RECORD._replace(headers=[], unreadable="a name is not UTF-8"), "x")
    assert message.fault is not None
    assert message.fault.message == "a name is not UTF-8"


def test_a_changed_envelope_is_a_copy() -> None:
    message = Message("t", "t", Envelope(id="1"))
    changed = message.with_envelope(attempt=2)
    assert (message.envelope.attempt, changed.envelope) == (1, Envelope(id="1", attempt=2))


def test_ids_are_uuids_that_tell_and_sort_by_their_time() -> None:
    before = now_ms()
    ids = [new_id() for _ in range(1000)]
    after = now_ms()
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", i) for i in ids
    )
    assert before <= id_time(ids[0]) <= id_time(ids[-1]) <= after


def test_an_id_tells_the_time_of_its_first_48_bits() -> None:
    # The example of RFC 9562, appendix A.6: 2022-02-22, 14:22:22 at UTC-5.
    assert id_time("017f22e2-79b0-7cc3-98c4-dc0c0c07398f") == 1_645_557_742_000


@pytest.mark.parametrize("text", ["", "topic/3/41", "919108f7-52d1-4320-9bac-f847db4148a8"])
def test_an_id_that_is_no_uuid7_tells_no_time(text: str) -> None:
    with pytest.raises(InvalidArgument):
        id_time(text)
