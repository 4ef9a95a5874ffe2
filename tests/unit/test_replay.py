"""What is put back of a dead letter, and how it is known what was: the pure half of replay."""

from __future__ import annotations

import base64
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_mesh.contracts.codec import Codec
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.dead_letters.letter import DeadLetter, Source, letter_of
from broker_mesh.errors import InvalidArgument, SchemaError
from broker_mesh.headers import FAILURE_FACTS, Envelope, Place, ReplyTo, write
from broker_mesh.kafka.claims import Action, Claim, ClaimedOffsets, ranges_of
from broker_mesh.message import Message, Record, new_id, received
from broker_mesh.replay.copies import Copy, Target, Terms, as_it_was, converted, edited
from broker_mesh.replay.report import MAX_REFUSALS, Refusal, Report
from broker_mesh.replies import HandleToken, PendingReply
from broker_mesh.status import StatusCode

FIND = "fleet.v1.find-aircraft"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Schemas:
    """Knows the schemas of this module."""

    def __init__(self) -> None:
        self.known: dict[int, AvroSchema] = {}

    def by_id(self, schema_id: int) -> AvroSchema | None:
        return self.known.get(schema_id)


SCHEMAS = Schemas()


def codec_of(schema_id: int, **fields: str) -> Codec:
    definition = {
        "type": "record",
        "name": "Find",
        "fields": [{"name": name, "type": kind} for name, kind in fields.items()],
    }
    schema = AvroSchema.of(definition, "test")
    SCHEMAS.known[schema_id] = schema
    return Codec(f"{FIND}-value", schema, schema_id, None, SCHEMAS)


PRESENT = codec_of(1, tailnum="string", seats="int")
NARROWER = codec_of(2, tailnum="string")


def target(
    name: str = FIND, codec: Codec = PRESENT, partitions: int = 6, key: str | None = "tailnum"
) -> Target:
    return Target(name, name, partitions, codec, key)


def traced(message: Message) -> tuple[Message, Callable[[object], None]]:
    return message.with_envelope(traceparent=TRACE), lambda _: None


TERMS = Terms("replay-1", None, traced)
FACTS = Envelope(
    id="id-1",
    source="dispatch",
    type=FIND,
    time=5,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
    deadline=99,
    reply_to=ReplyTo("dispatch.replies", 3),
    idempotency_key="once",
    attempt=4,
    status=StatusCode.UNKNOWN,
    status_message="it broke",
    status_details={"field": "x"},
    exception="KeyError",
    origin=Place(FIND, 2, 7),
    first_failure=6,
    last_failure=8,
    signature=b"signed",
)


def letter(
    facts: Envelope = FACTS,
    value: bytes | None = PRESENT.encode({"tailnum": "N1", "seats": 9}),
    more: tuple[tuple[str, bytes], ...] = (("foreign", b"\xff"), ("foreign", b"again")),
) -> DeadLetter:
    record = Record(f"{FIND}.dead", 2, 5, 0, b"N1", value, [*write(facts), *more])
    return letter_of(record, Source(f"{FIND}.dead", FIND, FIND, None))


def envelope_of(copy: Copy) -> Envelope:
    return received(Record(FIND, 0, 0, 0, None, None, list(copy.record.headers)), FIND).envelope


def test_a_copy_keeps_what_it_was_and_loses_how_it_failed() -> None:
    copy = as_it_was(letter(), target(), TERMS._replace(deadline=500))
    record = copy.record
    assert (record.topic, record.key, record.value, record.partition) == (
        FIND,
        b"N1",
        letter().record.value,
        2,
    )
    assert envelope_of(copy) == Envelope(
        id="id-1",
        source="dispatch",
        type=FIND,
        time=5,
        traceparent=TRACE,
        deadline=500,
        reply_to=ReplyTo("dispatch.replies", 3),
        idempotency_key="once",
        origin=Place(FIND, 2, 7),
        replay_id="replay-1",
        signature=b"signed",
    )
    names = [name for name, _ in record.headers]
    assert not FAILURE_FACTS & set(names)
    assert [value for name, value in record.headers if name == "foreign"] == [b"\xff", b"again"]
    assert len(names) - 1 == len(set(names))


def test_a_copy_has_no_deadline_unless_a_new_one_is_given() -> None:
    assert envelope_of(as_it_was(letter(), target(), TERMS)).deadline is None


def test_a_second_replay_names_itself_and_the_first_record() -> None:
    again = letter(FACTS._replace(replay_id="replay-0"))
    envelope = envelope_of(as_it_was(again, target(), TERMS))
    assert (envelope.replay_id, envelope.origin) == ("replay-1", Place(FIND, 2, 7))


def test_a_copy_is_for_the_group_that_failed_but_not_at_another_operation() -> None:
    failed = letter(FACTS._replace(group="billing"))
    assert envelope_of(as_it_was(failed, target(), TERMS)).group == "billing"
    elsewhere = target("fleet.v2.find-aircraft", NARROWER)
    assert envelope_of(converted(failed, elsewhere, TERMS, {"tailnum": "N1"})).group is None


def test_a_record_without_an_id_is_given_the_name_it_had() -> None:
    envelope = envelope_of(as_it_was(letter(FACTS._replace(id="")), target(), TERMS))
    assert envelope.id == f"{FIND}/2/7"


def test_where_the_partition_is_gone_the_key_chooses() -> None:
    assert as_it_was(letter(), target(partitions=2), TERMS).record.partition == -1


@pytest.mark.parametrize(
    ("value", "codec", "said"),
    [
        (None, PRESENT, "the value is null"),
        (b"poison", PRESENT, "not the magic byte"),
        (NARROWER.encode({"tailnum": "N1"}), PRESENT, "can't be decoded"),
    ],
)
def test_what_would_only_fail_again_is_refused(value: bytes | None, codec: Codec, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        as_it_was(letter(value=value), target(codec=codec), TERMS)


def test_a_malformed_header_is_refused_unless_the_copy_goes_without_it() -> None:
    with pytest.raises(InvalidArgument, match="ce_time is malformed"):
        as_it_was(letter(more=(("ce_time", b"soon"),)), target(), TERMS)
    assert (
        envelope_of(as_it_was(letter(more=(("mesh-deadline", b"soon"),)), target(), TERMS)).deadline is None
    )


def test_an_edited_copy_keeps_its_id_and_goes_where_its_new_key_belongs() -> None:
    same = edited(letter(), target(), TERMS, {"tailnum": "N1", "seats": 10})
    moved = edited(letter(), target(), TERMS, {"tailnum": "N2", "seats": 10})
    assert (same.record.key, same.record.partition) == (b"N1", 2)
    assert (moved.record.key, moved.record.partition) == (b"N2", -1)
    assert PRESENT.decode(moved.record.value or b"") == {"tailnum": "N2", "seats": 10}
    envelope = envelope_of(moved)
    assert (envelope.id, envelope.origin, envelope.signature) == ("id-1", Place(FIND, 2, 7), None)


@pytest.mark.parametrize("body", [{"tailnum": "N1"}, {"tailnum": "N1", "seats": "many"}, [], "text"])
def test_an_edited_body_has_to_fit(body: object) -> None:
    with pytest.raises(SchemaError):
        edited(letter(), target(), TERMS, body)


def test_a_copy_for_another_operation_is_of_its_type_and_keyed_by_its_field() -> None:
    v2 = target("fleet.v2.find-aircraft", key="seats")
    copy = converted(letter(), v2, TERMS, {"tailnum": "N1", "seats": 9})
    envelope = envelope_of(copy)
    assert (copy.record.topic, copy.record.key, copy.record.partition) == (v2.topic, b"9", -1)
    assert (envelope.type, envelope.reply_to) == (v2.name, ReplyTo("dispatch.replies", 3))
    other = envelope_of(converted(letter(), target("tanks.v1.fill"), TERMS, {"tailnum": "N1", "seats": 9}))
    assert other.reply_to is None  # its caller takes replies of fleet alone


# ── claims ────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.sets(st.integers(0, 200), min_size=1))
def test_ranges_hold_the_offsets_they_were_made_of(offsets: set[int]) -> None:
    ranges = list(ranges_of(sorted(offsets)))
    assert {offset for first, last in ranges for offset in range(first, last + 1)} == offsets
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(ranges))


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=80), st.randoms())
def test_each_offset_has_the_claim_that_was_made_on_it(owners: list[str | None], random: object) -> None:
    claimed = ClaimedOffsets()
    names = [name for name in ("a", "b", "c") if name in owners]
    random.shuffle(names)  # type: ignore[attr-defined]
    claims = {name: Claim(Action.REPLAYED, name, ord(name), "", ord(name)) for name in names}
    for name in names:
        offsets = [offset for offset, owner in enumerate(owners) if owner == name]
        claimed.add(list(ranges_of(offsets)), claims[name])
    for offset in range(len(owners) + 2):
        owner = owners[offset] if offset < len(owners) else None
        assert claimed.of(offset) == (None if owner is None else claims[owner])


# ── reports ───────────────────────────────────────────────────────────────────────────────────────────────


def test_reports_add_up_and_keep_few_refusals() -> None:
    report = Report("replay-1")
    for offset in range(MAX_REFUSALS + 5):
        report = report.with_refusal(Refusal(Place("t", 0, offset), "no"))
    report = report.plus(Report("", selected=3, replayed=2, taken_by_others=1))
    assert (report.replay_id, report.selected, report.replayed) == ("replay-1", MAX_REFUSALS + 8, 2)
    assert (report.refused, len(report.refusals)) == (MAX_REFUSALS + 5, MAX_REFUSALS)


# ── the caller ────────────────────────────────────────────────────────────────────────────────────────────


def answer(offset: int, status: StatusCode = StatusCode.OK, *, kept: bool = False) -> Message:
    facts = Envelope(
        id="reply",
        status=status,
        dead_letter=Place(f"{FIND}.dead", 0, offset) if kept else None,
    )
    return received(Record("dispatch.replies", 0, offset, 0, None, b"", write(facts)), FIND)


KEPT, LATER_KEPT = answer(4, StatusCode.UNKNOWN, kept=True), answer(6, StatusCode.UNKNOWN, kept=True)
REFUSED, REPLY = answer(5, StatusCode.NOT_FOUND), answer(9)


@pytest.mark.parametrize(
    ("answers", "newest", "final"),
    [
        ([REPLY], REPLY, REPLY),
        ([REPLY, KEPT], REPLY, REPLY),
        ([REFUSED, REPLY], REFUSED, REFUSED),
        ([KEPT], KEPT, None),
        ([KEPT, LATER_KEPT], LATER_KEPT, None),
        (
            [LATER_KEPT, KEPT],
            LATER_KEPT,
            None,
        ),  # the one that was searched for comes behind the one that was followed
        ([KEPT, REPLY], REPLY, REPLY),
        ([LATER_KEPT, REFUSED], REFUSED, REFUSED),
        ([KEPT, REPLY, LATER_KEPT], REPLY, REPLY),
    ],
)
async def test_an_answer_is_final_unless_its_request_is_kept(
    answers: list[Message], newest: Message, final: Message | None
) -> None:
    pending = PendingReply(HandleToken("id-1", FIND, ReplyTo("dispatch.replies", 0)))
    for one in answers:
        pending.take(one)
    assert pending.arrived.result() is newest
    assert (pending.final.result() if pending.final.done() else None) is final


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, f'["{new_id()}", "fleet.v1.find", "dispatch.replies", Infinity]'],
    ids=["nested too deeply", "no partition"],
)
def test_what_is_no_handle_is_refused(content: str) -> None:
    text = "mesh1." + base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")
    with pytest.raises(InvalidArgument, match="is not a handle"):
        HandleToken.decode(text)
