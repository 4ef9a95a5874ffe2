"""What the records of one message tell together."""

from __future__ import annotations

import random
from typing import Any

import pytest

from broker_mesh import headers
from broker_mesh.cli import telling
from broker_mesh.headers import Envelope, Place, ReplyTo
from broker_mesh.message import Record
from broker_mesh.standing import Ending, Group, Reader, readers, standings
from broker_mesh.status import StatusCode
from broker_mesh.story import Dropped, Story, What, id_of, operation_of, tell

ID = "01936b2e-7c1f-7a40-9d3b-2f6f0c1a5e77"
OPERATION = "fleet.v1.find-aircraft"
EVENT = "dispatch.v1.events.flight-departed"
SUBSCRIPTION = f"weather.v1.from.{EVENT}"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
START = 1_385_000_000_000

REQUEST = Envelope(
    id=ID,
    source="dispatch",
    type=OPERATION,
    reply_to=ReplyTo("dispatch.replies", 2),
    traceparent=f"00-{TRACE}-00f067aa0ba902b7-01",
)


def record(topic: str, at: int, offset: int = 0, base: Envelope = REQUEST, **changes: Any) -> Record:
    return Record(topic, 3, offset, START + at, b"N14228", b"x", headers.write(base._replace(**changes)))


def reply(at: int, status: StatusCode = StatusCode.OK, **changes: Any) -> Record:
    envelope = Envelope(
        id=f"reply-{at}", source="fleet", type=f"{OPERATION}.reply", correlation_id=ID, status=status
    )
    return record("dispatch.replies", at, base=envelope, **changes)


def dead(at: int, topic: str = OPERATION, **changes: Any) -> Record:
    facts: dict[str, Any] = {
        "status": StatusCode.UNAVAILABLE,
        "status_message": "the radar is down",
        "exception": "RadarDown",
        "origin": Place(OPERATION, 3, 0),
        "last_failure": START + at - 1,
    }
    return record(f"{topic}.dead", at, **{**facts, **changes})


def steps(story: Story) -> list[tuple[int, str, int, int]]:
    return [(step.at - START, step.what.value, step.attempt, step.in_place) for step in story.steps]


def told(*records: Record) -> Story:
    shuffled = list(records)
    random.Random(7).shuffle(shuffled)
    return tell(ID, shuffled)


def test_a_request_and_its_reply() -> None:
    story = told(record(OPERATION, 0), reply(20))
    assert steps(story) == [(0, "sent", 1, 0), (20, "answered", 1, 0)]
    assert (story.id, story.operation, story.trace_ids) == (ID, OPERATION, (TRACE,))
    (standing,) = standings(story, [], {}, START)
    assert (standing.ending, standing.group) == (Ending.ANSWERED, "fleet")
    assert telling.ending(story, standing, START) == "fleet has answered OK after 0.020 s"


def test_attempts_in_place_are_known_from_what_follows_them() -> None:
    story = told(record(OPERATION, 0), reply(900, attempt=3))
    assert steps(story)[-1] == (900, "answered", 3, 2)
    assert telling.what(story.steps[-1]) == "answered OK by attempt 3 (2 attempts before it failed in place)"


def test_a_dead_letter_tells_its_first_failure() -> None:
    story = told(record(OPERATION, 0), dead(900, attempt=4, first_failure=START + 5))
    assert steps(story) == [(0, "sent", 1, 0), (5, "failed", 1, 0), (900, "dead-letter", 4, 2)]
    assert story.steps[1].place is None
    rows = telling.rows(story)
    assert rows[1][1:] == ["+0.005 s", "attempt 1 failed", "", ""]
    assert rows[2][2:] == [
        "attempt 4 failed (2 attempts before it failed in place): kept as a dead letter",
        f"{OPERATION}.dead/3/0",
        "UNAVAILABLE: the radar is down (RadarDown)",
    ]


def test_each_attempt_that_left_a_record_is_a_step() -> None:
    failed: dict[str, Any] = {"status": StatusCode.UNAVAILABLE, "first_failure": START + 5}
    story = told(
        record(OPERATION, 0),
        record(f"{OPERATION}.retry", 6, attempt=2, last_failure=START + 5, retry_at=START + 200, **failed),
        record(
            f"{OPERATION}.retry", 206, 1, attempt=3, last_failure=START + 205, retry_at=START + 600, **failed
        ),
        dead(606, attempt=3, first_failure=START + 5),
        reply(607, StatusCode.UNAVAILABLE, attempt=3),
    )
    assert steps(story) == [
        (0, "sent", 1, 0),
        (5, "failed", 1, 0),
        (6, "retry", 2, 0),
        (205, "failed", 2, 0),
        (206, "retry", 3, 0),
        (606, "dead-letter", 3, 0),
        (607, "answered", 3, 0),  # what went before was told with the dead letter
    ]


def test_a_retry_that_is_put_back_until_it_is_due_is_one_wait() -> None:
    waits: dict[str, Any] = {"attempt": 2, "retry_at": START + 900, "last_failure": START + 5}
    story = told(
        record(OPERATION, 0),
        record(f"{OPERATION}.retry", 6, 4, **waits),
        record(f"{OPERATION}.retry", 306, 5, **waits),
        record(f"{OPERATION}.retry", 606, 6, **waits),
    )
    assert steps(story) == [(0, "sent", 1, 0), (5, "failed", 1, 0), (6, "retry", 2, 0)]
    assert story.steps[-1].place == Place(f"{OPERATION}.retry", 3, 6)


def replayed_story(*more: Record) -> Story:
    return told(
        record(OPERATION, 0),
        dead(900, attempt=3, first_failure=START + 5),
        reply(901, StatusCode.UNAVAILABLE, attempt=3),
        record(OPERATION, 60_000, 9, replay_id="replay-1"),
        *more,
    )


def test_a_replay_begins_anew() -> None:
    story = replayed_story(reply(60_030, replay_id="replay-1", attempt=2))
    assert steps(story)[2:] == [
        (900, "dead-letter", 3, 1),
        (901, "answered", 3, 0),
        (60_000, "replayed", 1, 0),
        (60_030, "answered", 2, 1),
    ]
    (standing,) = standings(story, [], {}, START)
    assert standing.ending is Ending.ANSWERED
    assert standing.last.at == START + 60_030


def test_a_replay_that_fails_is_a_dead_letter_of_its_own() -> None:
    story = replayed_story(
        dead(60_100, offset=1, replay_id="replay-1", attempt=2, first_failure=START + 60_050)
    )
    assert steps(story)[4:] == [
        (60_000, "replayed", 1, 0),
        (60_050, "failed", 1, 0),
        (60_100, "dead-letter", 2, 0),
    ]
    (standing,) = standings(story, [], {}, START)
    assert (standing.ending, standing.last.place) == (Ending.DEAD_LETTER, Place(f"{OPERATION}.dead", 3, 1))


def test_a_dead_letter_that_was_dropped() -> None:
    letter = dead(900, attempt=1)
    place = Place(letter.topic, letter.partition, letter.offset)
    story = tell(
        ID,
        [record(OPERATION, 0), letter, reply(901, StatusCode.UNAVAILABLE)],
        [Dropped(place, START + 5_000)],
    )
    assert steps(story)[-1] == (5_000, "dropped", 1, 0)
    (standing,) = standings(story, [], {}, START)
    assert standing.ending is Ending.DROPPED
    assert "dropped for good" in telling.ending(story, standing, START)


def test_a_first_failure_from_before_the_replay_is_not_told_again() -> None:
    story = replayed_story(dead(60_100, offset=1, replay_id="replay-1", attempt=2, first_failure=START + 5))
    assert [step for step in steps(story) if step[1] == "failed"] == [(5, "failed", 1, 0)]
    assert steps(story)[-1] == (60_100, "dead-letter", 2, 1)


@pytest.mark.parametrize(
    ("group", "ending", "said"),
    [
        (None, Ending.WAITING, "it waits for fleet, which has no instance now"),
        (Group({}, 1), Ending.WAITING, "it waits for fleet"),
        (Group({(OPERATION, 3): 2}, 0), Ending.WAITING, "it waits for fleet, which has no instance now"),
        (
            Group({(OPERATION, 3): 2}, 1),
            Ending.WAITING,
            "fleet is not known to be done with it, nor with up to 5 records before it",
        ),
        (
            Group({(OPERATION, 3): 7}, 1),
            Ending.WAITING,
            "fleet takes it next, or is at it now: attempts made in place leave no record before the last",
        ),
        (
            Group({(OPERATION, 3): 8}, 1),
            Ending.HANDLED,
            "fleet has handled it, and no reply to it is kept any more",
        ),
    ],
)
def test_where_an_unanswered_request_stands(group: Group | None, ending: Ending, said: str) -> None:
    story = told(record(OPERATION, 0, offset=7))
    (standing,) = standings(story, [], {} if group is None else {"fleet": group}, START)
    assert standing.ending is ending
    assert telling.ending(story, standing, START) == said


def test_a_request_put_aside_for_its_next_attempt() -> None:
    retry = record(f"{OPERATION}.retry", 6, attempt=2, retry_at=START + 5_000)
    story = told(record(OPERATION, 0), retry)
    groups = {"fleet": Group({(OPERATION, 3): 1}, 1)}
    (standing,) = standings(story, [], groups, START + 1_000)
    assert standing.ending is Ending.RETRY_DUE
    assert telling.ending(story, standing, START + 1_000) == "fleet tries it again in 4.000 s: attempt 2"
    (standing,) = standings(story, [], groups, START + 6_000)
    assert standing.ending is Ending.WAITING


def test_work_that_is_over() -> None:
    story = told(record(OPERATION, 0, deadline=START + 100))
    (standing,) = standings(story, [], {}, START + 200)
    assert telling.ending(story, standing, START + 200).endswith(
        "its time is over, so that it will be dropped"
    )


def test_each_subscriber_of_an_event_stands_for_itself() -> None:
    event = REQUEST._replace(type=EVENT, reply_to=None)
    other = f"board.v1.from.{EVENT}"
    story = told(
        record(EVENT, 0, base=event),
        record(f"{SUBSCRIPTION}.retry", 10, base=event, attempt=2),
        dead(20, SUBSCRIPTION, attempt=2, type=EVENT),
    )
    assert story.operation == EVENT
    found = standings(
        story,
        [Reader(SUBSCRIPTION, "weather"), Reader(other, "board")],
        {"board": Group({(EVENT, 3): 1}, 1)},
        START,
    )
    assert [(standing.group, standing.ending) for standing in found] == [
        ("weather", Ending.DEAD_LETTER),
        ("board", Ending.HANDLED),
    ]
    assert telling.ending(story, found[1], START) == "board has handled it"


def test_a_subscription_s_replay_goes_to_its_retry_topic() -> None:
    event = REQUEST._replace(type=EVENT, reply_to=None)
    story = told(
        record(EVENT, 0, base=event),
        dead(20, SUBSCRIPTION, type=EVENT),
        record(f"{SUBSCRIPTION}.retry", 500, base=event, replay_id="replay-1"),
        record(
            f"{SUBSCRIPTION}.retry", 600, 1, base=event, replay_id="replay-1", attempt=2, retry_at=START + 900
        ),
    )
    assert [step.what for step in story.steps] == [
        What.SENT,
        What.DEAD_LETTER,
        What.REPLAYED,
        What.FAILED,
        What.RETRY,
    ]


def test_a_story_without_its_beginning() -> None:
    story = told(dead(900, attempt=3, first_failure=START + 5))
    assert steps(story) == [(5, "failed", 1, 0), (900, "dead-letter", 3, 1)]
    assert story.operation == OPERATION
    answered = told(reply(5))
    assert answered.operation == OPERATION
    assert standings(answered, [], {}, START)[0].ending is Ending.ANSWERED


def test_a_record_without_an_id_is_known_by_the_place_where_it_first_stood() -> None:
    plain = Record(OPERATION, 3, 7, START, None, b"x", [])
    letter = Record(
        f"{OPERATION}.dead", 3, 0, START, None, b"x", headers.write(Envelope(origin=Place(OPERATION, 3, 7)))
    )
    assert id_of(plain) == id_of(letter) == f"{OPERATION}/3/7"
    assert id_of(reply(5)) == ID


def test_the_operation_behind_a_stem() -> None:
    assert operation_of(SUBSCRIPTION) == EVENT
    assert operation_of(OPERATION) == OPERATION


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (0, "0.000 s"),
        (59_999, "59.999 s"),
        (60_000, "1 min 0 s"),
        (7_384_000, "2 h 3 min"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_a_stretch_of_time(milliseconds: int, said: str) -> None:
    assert telling.span(milliseconds) == said


def test_a_message_does_not_steer_the_terminal() -> None:
    story = told(record(OPERATION, 0), reply(1, StatusCode.UNKNOWN, status_message="\x1b[2J"))
    lines = [*telling.heading(story), *(cell for row in telling.rows(story) for cell in row)]
    lines += [telling.ending(story, standing, START) for standing in standings(story, [], {}, START)]
    assert all(line.isprintable() for line in lines)
    assert telling.as_json(story, [])["steps"][1]["status_message"] == "\x1b[2J"


def test_an_id_of_the_sender_s_choice_is_quoted_for_the_shell() -> None:
    story = tell("x;reboot", [dead(900, id="x;reboot")])
    (standing,) = standings(story, [], {}, START)
    assert telling.ending(story, standing, START).endswith("mesh dead-letters replay --id 'x;reboot'")


def test_cause_stands_before_effect_where_the_handler_s_clock_is_behind() -> None:
    story = told(record(OPERATION, 0), reply(-40))
    assert steps(story) == [(0, "sent", 1, 0), (-40, "answered", 1, 0)]
    assert story.envelope.source == "dispatch"
    (standing,) = standings(story, [], {}, START)
    assert telling.ending(story, standing, START) == "fleet has answered OK after 0.000 s"
    assert telling.rows(story)[1][1] == "-0.040 s"


def test_steps_told_by_a_clock_that_is_behind_keep_their_order() -> None:
    failed: dict[str, Any] = {"status": StatusCode.UNAVAILABLE, "first_failure": START - 500}
    story = told(
        record(OPERATION, 0),
        record(f"{OPERATION}.retry", -499, attempt=2, last_failure=START - 500, **failed),
        dead(-399, attempt=2, first_failure=START - 500, last_failure=START - 400),
        reply(-398, StatusCode.UNAVAILABLE, attempt=2),
    )
    assert [what for _, what, _, _ in steps(story)] == ["sent", "failed", "retry", "dead-letter", "answered"]


@pytest.mark.parametrize("replayed_at", [60_000, 500, -5_000])
@pytest.mark.parametrize("answered_at", [60_030, 400, -6_000])
def test_a_replay_stands_behind_what_it_puts_back_whatever_its_clock_says(
    replayed_at: int, answered_at: int
) -> None:
    letter = dead(900, attempt=1)
    place = Place(letter.topic, letter.partition, letter.offset)
    records = [
        record(OPERATION, 0),
        letter,
        reply(901, StatusCode.UNAVAILABLE, dead_letter=place),
        record(OPERATION, replayed_at, 9, replay_id="replay-1"),
        reply(answered_at, replay_id="replay-1"),
    ]
    story = tell(ID, records, put_back={place: "replay-1"})
    assert [what for _, what, _, _ in steps(story)] == [
        "sent",
        "dead-letter",
        "answered",
        "replayed",
        "answered",
    ]
    (standing,) = standings(story, [], {}, START)
    assert (standing.ending, standing.last.envelope.status) == (Ending.ANSWERED, StatusCode.OK)


def test_the_groups_of_wrapped_consumers_are_known_by_what_they_read_and_by_what_failed() -> None:
    stem, own = "orders.v1.from.legacy_orders", "orders"
    story = told(record("legacy_orders", 0), dead(20, stem, attempt=2, group="till"))
    assert story.operation == "legacy_orders"
    assert readers(story, [stem], {}) == [Reader(stem, "till")]
    assert readers(story, [stem], {"shop": {"legacy_orders", f"{stem}.retry"}}) == [
        Reader(stem, "shop"),
        Reader(stem, "till"),
    ]
    quiet = told(record("legacy_orders", 0))
    assert readers(quiet, [stem], {}) == [Reader(stem, own)]
    assert readers(quiet, [stem], {own: {"legacy_orders"}, "plain": {"legacy_orders"}}) == [Reader(stem, own)]
    # Nothing shows whose group it is: each that reads the topic may be it.
    assert readers(quiet, [stem], {"plain": {"legacy_orders"}, "other": {"x"}}) == [Reader(stem, "plain")]


def test_of_two_groups_of_one_subscription_each_stands_for_itself() -> None:
    stem = "orders.v1.from.legacy_orders"
    story = told(record("legacy_orders", 0), dead(20, stem, attempt=2, group="till"))
    groups = {"shop": Group({("legacy_orders", 3): 1}, 1)}
    found = standings(story, [Reader(stem, "shop"), Reader(stem, "till")], groups, START)
    assert [(each.group, each.ending) for each in found] == [
        ("shop", Ending.HANDLED),
        ("till", Ending.DEAD_LETTER),
    ]
