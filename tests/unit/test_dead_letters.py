"""Dead letters as they are looked at: where they failed, which are meant, and what they have in common."""

from __future__ import annotations

from typing import Any

import pytest

from broker_mesh.dead_letters import DeadLetter, Selection, causes
from broker_mesh.dead_letters.causes import MAX_CAUSES, OTHER_CAUSES, Causes, shape_of
from broker_mesh.dead_letters.letter import Source, letter_of, source_of
from broker_mesh.dead_letters.reading import in_chunks
from broker_mesh.errors import InvalidArgument, NotFound
from broker_mesh.headers import Envelope, Place, write
from broker_mesh.message import Record, id_time, new_id
from broker_mesh.settle import failure_headers
from broker_mesh.status import StatusCode

FIND = "fleet.v1.find-aircraft"
DEPARTED = "dispatch.v1.events.flight-departed"
WEATHER = f"weather.v1.from.{DEPARTED}"
SOURCES = [
    Source(f"{FIND}.dead", FIND, FIND, None),
    Source(f"{WEATHER}.dead", WEATHER, DEPARTED, "weather"),
    Source(f"board.v2.from.{DEPARTED}.dead", f"board.v2.from.{DEPARTED}", DEPARTED, "board"),
]


def letter(
    *, key: bytes | None = b"N1", offset: int = 5, timestamp: int = 900, body: Any = None, **envelope: Any
) -> DeadLetter:
    facts = Envelope(**{"id": "id-1", "status": StatusCode.UNKNOWN, "last_failure": 1000, **envelope})
    record = Record(f"{FIND}.dead", 2, offset, timestamp, key, b"\x00avro", write(facts))
    made = letter_of(record, SOURCES[0])
    return made if body is None else DeadLetter(made.place, record, made.envelope, made.source, body)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.topic)
def test_the_name_of_a_dead_letter_topic_tells_where_its_records_failed(source: Source) -> None:
    assert source_of(source.topic) == source


@pytest.mark.parametrize(
    "topic",
    [
        FIND,
        f"{FIND}.retry",
        f"{DEPARTED}.dead",  # an event's failures are its subscribers'
        "orders.dead",
        f"weather.from.{DEPARTED}.dead",
        f"weather.v1.from.{FIND}.dead",
        f"Weather.v1.from.{DEPARTED}.dead",
        ".dead",
    ],
)
def test_other_topics_hold_no_dead_letters(topic: str) -> None:
    assert source_of(topic) is None


def test_an_operation_s_letters_go_back_to_it_and_a_subscription_s_to_its_own_retries() -> None:
    assert [(source.service, source.target) for source in SOURCES] == [
        ("fleet", FIND),
        ("weather", f"{WEATHER}.retry"),
        ("board", f"board.v2.from.{DEPARTED}.retry"),
    ]


def test_a_letter_says_where_it_stands_and_what_failed() -> None:
    one = letter(first_failure=400)
    assert (one.place, one.operation, one.subscriber) == (Place(f"{FIND}.dead", 2, 5), FIND, None)
    assert (one.first_failure, one.last_failure) == (400, 1000)
    untold = letter(last_failure=None)
    assert (untold.first_failure, untold.last_failure) == (900, 900)


def test_a_record_without_an_id_keeps_the_name_of_its_first_place() -> None:
    assert letter(id="", origin=Place(FIND, 2, 77)).envelope.id == f"{FIND}/2/77"


def test_a_letter_holds_the_facts_of_the_last_failure_alone() -> None:
    older = write(
        Envelope(
            id="id-1",
            attempt=3,
            status=StatusCode.UNAVAILABLE,
            status_message="away",
            status_details={"retry_after": 3},
            exception="OSError",
            origin=Place(FIND, 0, 1),
            first_failure=1,
            last_failure=2,
            retry_at=3,
        )
    )
    record = Record(f"{FIND}.retry", 0, 9, 0, None, b"", [*older, ("foreign", b"kept")])
    newer = Envelope(
        status=StatusCode.UNKNOWN,
        origin=Place(FIND, 0, 1),
        exception="KeyError",
        first_failure=1,
        last_failure=9,
    )
    written = failure_headers(record, newer)
    assert len({name for name, _ in written}) == len(written)
    kept = letter_of(Record(f"{FIND}.dead", 0, 1, 0, None, b"", written), SOURCES[0]).envelope
    assert kept == newer._replace(id="id-1")
    assert ("foreign", b"kept") in written


# ── selections ────────────────────────────────────────────────────────────────────────────────────────────

MADE = new_id()


@pytest.mark.parametrize(
    ("selection", "meant"),
    [
        (Selection(), True),
        (Selection(status=frozenset({StatusCode.UNKNOWN, StatusCode.INTERNAL})), True),
        (Selection(status=frozenset({StatusCode.INTERNAL})), False),
        (Selection(exception="KeyError"), True),
        (Selection(exception="Error"), False),
        (Selection(since=1000, until=1001), True),
        (Selection(since=1001), False),
        (Selection(until=1000), False),
        (Selection(key=b"N1"), True),
        (Selection(key=b"N2"), False),
        (Selection(key=b""), False),
        (Selection(ids=frozenset({MADE, "another"})), True),
        (Selection(ids=frozenset({f"{FIND}.dead/2/5"})), True),
        (Selection(ids=frozenset({f"{FIND}/2/3"})), True),
        (Selection(ids=frozenset({f"{FIND}.dead/2/6"})), False),
    ],
)
def test_what_headers_tell(selection: Selection, meant: bool) -> None:
    assert selection.admits(letter(id=MADE, exception="KeyError", origin=Place(FIND, 2, 3))) is meant
    assert not selection.needs_bodies


def test_what_values_tell() -> None:
    selection = Selection(where="seats > `100`")
    assert selection.needs_bodies
    assert selection.holds(letter(body={"seats": 178}))
    assert not selection.holds(letter(body={"seats": 9}))
    unreadable = letter(body={"seats": 178})
    assert not selection.holds(
        DeadLetter(
            unreadable.place, unreadable.record, unreadable.envelope, unreadable.source, None, "no Avro"
        )
    )


def test_an_expression_that_is_none_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidArgument, match="column 9"):
        Selection(where="seats > 100")


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(), SOURCES),
        (Selection(service="weather"), SOURCES[1:2]),
        (Selection(operation=FIND), SOURCES[:1]),
        (Selection(operation=DEPARTED), SOURCES[1:]),
        (Selection(operation=WEATHER), SOURCES[1:2]),
        (Selection(operation=DEPARTED, service="board"), SOURCES[2:]),
    ],
)
def test_topics_that_can_hold_what_is_meant(selection: Selection, chosen: list[Source]) -> None:
    assert selection.sources(SOURCES) == chosen


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (Selection(service="wether"), "did you mean 'weather'?"),
        (Selection(operation="fleet.v1.find-aircraf"), f"did you mean '{FIND}'?"),
        (Selection(operation=FIND, service="weather"), "no dead letters are kept for 'fleet"),
        (Selection(operation="x"), "'mesh dead-letters list' shows what there is"),
    ],
)
def test_names_that_are_none_are_refused_with_the_nearest(selection: Selection, said: str) -> None:
    with pytest.raises(NotFound) as caught:
        selection.sources(SOURCES)
    assert said in caught.value.message


def test_places_and_ids_narrow_what_is_read() -> None:
    partitions = [(source.topic, number) for source in SOURCES for number in range(3)]
    placed = Selection(ids=frozenset({f"{FIND}.dead/2/5", f"{WEATHER}.dead/0/1"}))
    assert placed.partitions(partitions) == [(f"{FIND}.dead", 2), (f"{WEATHER}.dead", 0)]
    for anywhere in (Selection(), Selection(ids=frozenset({MADE, f"{FIND}.dead/2/5"}))):
        assert anywhere.partitions(partitions) == partitions
    assert Selection(ids=frozenset({MADE})).earliest == id_time(MADE)
    assert Selection(ids=frozenset({MADE, f"{FIND}.dead/2/5"})).earliest is None
    assert Selection(ids=frozenset({MADE}), since=1).earliest == id_time(MADE)
    assert Selection(since=1).earliest == 1


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────


def test_few_records_are_read_at_a_time_where_their_headers_are_large() -> None:
    megabyte = b"x" * 1024 * 1024
    records = (Record(f"{FIND}.dead", 0, number, 0, b"k", b"v", [("h", megabyte)]) for number in range(20))
    assert max(map(len, in_chunks(records))) == 4


# ── causes ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("message", "shape"),
    [
        ("no seats known of 'N14228'", "no seats known of '…'"),
        ('flight "UA 17" at 05:17 is 3.5 h late', 'flight "…" at … is … h late'),
        ("request 0190a1b2-0000-7000-8000-0123456789ab failed", "request … failed"),
        (
            "fleet.v1.find-aircraft-value: field 'seats': expected int",
            "fleet.v1.find-aircraft-value: field '…': expected int",
        ),
        ("KeyError: N14228", "KeyError: …"),
        ("offset 12 of part 0xdeadbeef", "offset … of part …"),
        ("at 2013-01-01T05:17:00Z, -5 degrees", "at …, … degrees"),
        ("nothing varies here", "nothing varies here"),
        ("", ""),
    ],
)
def test_what_varies_between_like_failures_is_left_out(message: str, shape: str) -> None:
    assert shape_of(message) == shape


def test_a_long_message_is_cut() -> None:
    assert len(shape_of("word " * 1000)) == causes._MAX_SHAPE


def test_like_failures_are_one_cause_with_its_times_and_an_example() -> None:
    counted = Causes()
    for number in range(5):
        counted.add(
            letter(
                id=f"id-{number}",
                exception="KeyError",
                status_message=f"no aircraft '{number}'",
                first_failure=10 * number,
                last_failure=100 + 10 * number,
            )
        )
    counted.add(letter(id="other", status=StatusCode.INTERNAL, status_message="no aircraft '9'"))
    first, second = counted.all()
    assert (first.count, first.first, first.last, first.example) == (5, 0, 140, "id-4")
    assert (first.operation, first.status, first.exception) == (FIND, StatusCode.UNKNOWN, "KeyError")
    assert (second.count, second.status, second.example) == (1, StatusCode.INTERNAL, "other")


def test_causes_without_number_stay_bounded() -> None:
    counted = Causes()
    words = [
        f"{chr(97 + number // 676)}{chr(97 + number // 26 % 26)}{chr(97 + number % 26)}"
        for number in range(MAX_CAUSES + 50)
    ]
    for word in words:
        counted.add(letter(status_message=word))
    causes_found = counted.all()
    assert len(causes_found) == MAX_CAUSES + 1
    assert (causes_found[0].message, causes_found[0].count) == (OTHER_CAUSES, 50)
