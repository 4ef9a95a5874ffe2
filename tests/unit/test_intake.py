"""What a wrapped consumer has taken: order by key, holds, retries, pauses, revokes, and what may be committed."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from broker_mesh import attempts, early, intake, lanes
from broker_mesh.delivery import Delivery, State
from broker_mesh.errors import Aborted, FailedPrecondition, InternalError, Unavailable
from broker_mesh.headers import Envelope
from broker_mesh.layers.retry import Retry
from tests.support.polling import AWAY, GROUP, OUTAGE, REFUSED, REQUEST, RETRY_TOPIC, TOPIC, Polling

HERE = (TOPIC, 0)
RETRIES = (RETRY_TOPIC, 0)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Time that only goes on by hand."""
    clock = Clock()
    for module in (attempts, early, intake, lanes):
        monkeypatch.setattr(module, "now_ms", clock)
    monkeypatch.setattr("tests.support.polling.now_ms", clock)
    return clock


def polling(**options: object) -> Polling:
    made = Polling(**options)  # type: ignore[arg-type]
    made.assigned(HERE, (TOPIC, 1), RETRIES)
    return made


def poll(taken: Polling) -> Delivery | None:
    taken.intake.conclude()
    return taken.intake.next()


def offsets(taken: Polling) -> list[int]:
    """All that polling gives now."""
    return [delivery.record.offset for delivery in iter(lambda: poll(taken), None)]


def held(taken: Polling) -> Delivery:
    delivery = poll(taken)
    assert delivery is not None
    delivery.hold()
    return delivery


# ── polling ───────────────────────────────────────────────────────────────────────────────────────────────


def test_polling_on_settles_what_was_given_and_its_offset_may_go() -> None:
    taken = polling()
    for _ in range(3):
        taken.take()
    first = poll(taken)
    assert first is not None
    assert first.data is None  # nothing decodes here
    assert taken.intake.committable() == {}
    assert poll(taken) is not first
    assert first.state is State.SETTLED
    assert first.settled.done()
    assert taken.intake.committable() == {HERE: 1}
    assert taken.intake.positions() == {HERE: 2}
    assert offsets(taken) == [2]
    assert taken.intake.committable() == {HERE: 3}
    assert taken.intake.committable() == {}


def test_a_record_that_is_delivered_twice_counts_once() -> None:
    taken = polling()
    taken.take(offset=7)
    taken.take(offset=7)
    assert offsets(taken) == [7]


def test_a_record_of_a_partition_that_is_not_assigned_is_left_to_its_owner() -> None:
    taken = polling()
    taken.take(partition=9)
    assert poll(taken) is None


def test_a_batch_has_no_two_records_of_one_lane() -> None:
    taken = polling()
    for key in (b"a", b"b", b"a", b"c", b"b", None, None):
        taken.take(key)
    taken.intake.conclude()
    batch: list[Delivery] = []
    while (delivery := taken.intake.next({each.lane for each in batch})) is not None:
        batch.append(delivery)
    assert [each.record.offset for each in batch] == [0, 1, 3, 5, 6]
    assert offsets(taken) == [2, 4]


# ── holding and order ─────────────────────────────────────────────────────────────────────────────────────


def test_what_is_held_holds_its_key_and_no_other() -> None:
    taken = polling()
    for key in (b"a", b"a", b"b", b"a"):
        taken.take(key)
    first = held(taken)
    assert offsets(taken) == [2]
    assert taken.intake.committable() == {}
    first.done()
    assert offsets(taken) == [1, 3]
    assert taken.intake.committable() == {HERE: 4}


def test_a_request_is_held_until_it_is_answered_and_never_settled_by_polling_on() -> None:
    taken = polling()
    taken.take(b"a", REQUEST)
    taken.take(b"a")
    request = poll(taken)
    assert request is not None
    assert poll(taken) is None
    assert poll(taken) is None
    assert request.state is State.HELD
    with pytest.raises(FailedPrecondition, match=r"waits for its reply: use reply\(…\)"):
        request.done()
    with pytest.raises(FailedPrecondition, match="its caller waits for a reply"):
        taken.intake.settle_up_to({HERE: 2})
    request.reply(b"answer")
    assert poll(taken) is None, "the reply is not in Kafka yet"
    taken.loop.finish()
    assert taken.kinds == ["Done"]
    assert offsets(taken) == [1]


def test_what_fails_is_given_again_in_its_place_and_its_key_waits() -> None:
    taken = polling()
    for key in (b"a", b"a", b"b"):
        taken.take(key)
    first = held(taken)
    first.retry()
    again = held(taken)
    assert (again.record.offset, again.attempt) == (0, 2)
    assert again.message.envelope.first_failure is not None
    assert poll(taken) is not None  # of another key
    again.fail(ValueError("once more"))
    third = held(taken)
    assert (third.record.offset, third.attempt) == (0, 3)
    third.fail(ValueError("for good"))
    assert poll(taken) is None, "its dead letter is not in Kafka yet"
    assert taken.intake.committable() == {}
    taken.loop.finish()
    assert taken.kinds == ["DeadLetter"]
    assert offsets(taken) == [1]
    assert taken.intake.committable() == {HERE: 3}


def test_attempts_go_on_counting_from_what_the_record_says() -> None:
    taken = polling()
    taken.take_early(b"a", 0)  # attempt 2
    taken.take(b"b", OUTAGE, topic=RETRY_TOPIC, envelope=Envelope(attempt=2, group=GROUP))
    second = held(taken)
    assert second.attempt == 2
    second.retry()
    outage = held(taken)
    again = held(taken)
    assert sorted((each.record.key, each.attempt) for each in (outage, again)) == [(b"a", 3), (b"b", 2)]


def test_a_retry_waits_for_its_time(clock: Clock) -> None:
    taken = polling()
    taken.take(b"a")
    taken.take(b"b")
    held(taken).retry(after=5)
    assert offsets(taken) == [1]
    assert taken.intake.next_in() == 5.0
    clock.now += 5_000
    assert taken.intake.next_in() == 0.0
    assert offsets(taken) == [0]


def test_from_the_moment_a_thread_asks_for_a_retry_nothing_of_the_key_passes() -> None:
    taken = polling()
    taken.take(b"a")
    taken.take(b"a")
    first = poll(taken)
    assert first is not None
    inside, go_on = threading.Event(), threading.Event()
    original = first._run.fail

    class Slow:
        context = first._run.context

        def fail(self, error: BaseException) -> None:
            inside.set()
            assert go_on.wait(30)
            original(error)

    first._run = Slow()  # type: ignore[assignment]
    thread = threading.Thread(target=first.retry)
    thread.start()
    assert inside.wait(30)
    assert poll(taken) is None
    go_on.set()
    thread.join()
    assert offsets(taken) == [0, 1]


def test_what_is_checked_elsewhere_holds_its_key_until_it_is_handed_over() -> None:
    taken = polling()
    for key, value in ((b"a", AWAY), (b"a", b"v"), (b"b", AWAY), (b"c", b"v")):
        taken.take(key, value)
    assert offsets(taken) == [3]
    assert taken.intake.next_in() == pytest.approx(0.01)
    taken.loop.finish()
    assert offsets(taken) == [0, 2, 1]
    assert taken.intake.next_in() is None


def test_what_is_refused_becomes_a_dead_letter_and_is_never_given() -> None:
    taken = polling()
    taken.take(b"a", REFUSED)
    taken.take(b"a")
    assert offsets(taken) == []
    taken.loop.finish()
    assert taken.kinds == ["DeadLetter"]
    assert offsets(taken) == [1]
    assert taken.intake.committable() == {HERE: 2}


def test_an_outage_of_what_a_check_needs_uses_up_no_attempt() -> None:
    taken = polling(retry=Retry(attempts=1))
    taken.take(b"a", OUTAGE)
    delivery = poll(taken)
    assert delivery is not None
    assert delivery.attempt == 1


# ── pausing ───────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_of_a_paused_partition_is_given_and_its_order_is_kept() -> None:
    taken = polling()
    for key, value in ((b"a", b"v"), (b"b", AWAY), (b"a", b"v")):
        taken.take(key, value)
    first = held(taken)
    assert offsets(taken) == []
    taken.take(b"a")
    taken.take(b"c", partition=1)
    taken.intake.pause([HERE])
    taken.loop.finish()
    first.done()
    assert [poll(taken).record.partition] == [1]  # type: ignore[union-attr]
    assert offsets(taken) == []
    taken.intake.resume([HERE])
    assert offsets(taken) == [1, 2, 3]


def test_what_is_ready_and_paused_has_nobody_ask_again_and_again() -> None:
    taken = polling()
    taken.take(b"a", AWAY)
    assert offsets(taken) == []
    taken.intake.pause([HERE])
    taken.loop.finish()
    assert taken.intake.next() is None
    assert taken.intake.next_in() != 0
    taken.intake.resume([HERE])
    assert taken.intake.next_in() == 0
    assert offsets(taken) == [0]


def test_pausing_while_a_key_is_held_lets_none_of_its_records_overtake_another() -> None:
    taken = polling()
    for _ in range(2):
        taken.take(b"a")
    first = poll(taken)
    taken.intake.pause([HERE])
    assert taken.intake.next() is None  # the second waits for its partition
    assert first is not None
    first.hold()
    taken.take(b"a")
    assert taken.intake.next() is None  # the third for its lane
    taken.intake.resume([HERE])
    assert taken.intake.next() is None
    first.done()
    assert offsets(taken) == [1, 2]


def test_a_seek_leaves_its_partition_paused() -> None:
    taken = polling()
    taken.intake.pause([HERE])
    taken.assigned(HERE)
    taken.take(b"a", offset=5)
    assert poll(taken) is None
    taken.intake.resume([HERE])
    assert offsets(taken) == [5]


# ── revokes ───────────────────────────────────────────────────────────────────────────────────────────────


def test_settling_after_a_revoke_is_refused_and_settles_nothing() -> None:
    taken = polling()
    for key in (b"a", b"b"):
        taken.take(key)
    kept, silent = held(taken), poll(taken)
    assert silent is not None
    taken.intake.ended([HERE])
    for settle in (kept.done, kept.hold, silent.retry):
        with pytest.raises(Aborted, match="gone to another member or was sought anew"):
            settle()
    with pytest.raises(Aborted), kept.settling():
        pytest.fail("the block of a message that has gone is not run")
    silent.conclude()
    assert kept.settled.done()
    assert kept.state is silent.state is State.GONE
    assert taken.intake.committable() == {}
    assert taken.intake.next_in() is None


def test_what_is_revoked_while_it_is_settled_or_checked_elsewhere_comes_to_nothing() -> None:
    taken = polling()
    taken.take(b"a", REQUEST)
    taken.take(b"b", AWAY)
    taken.take(b"c", REFUSED)
    request = poll(taken)
    assert request is not None
    request.reply(b"answer")
    assert poll(taken) is None
    taken.intake.ended([HERE])
    taken.assigned(HERE)
    taken.loop.finish()
    assert taken.written == []
    assert poll(taken) is None
    assert taken.intake.next_in() is None, "what is checked elsewhere counts for ever"
    assert taken.intake.committable() == {}
    assert request.settled.done()
    taken.take(b"a", offset=0)
    assert offsets(taken) == [0]


def test_the_key_of_a_record_that_has_gone_is_free() -> None:
    taken = polling()
    taken.take(b"a")
    taken.take(b"a", partition=1)
    held(taken)
    assert poll(taken) is None
    taken.intake.ended([HERE])
    delivery = poll(taken)
    assert delivery is not None
    assert delivery.record.partition == 1


def test_giving_up_waits_for_what_is_being_made_durable() -> None:
    taken = polling()
    taken.take(b"a", REQUEST)
    request = poll(taken)
    assert request is not None
    assert taken.intake.wait_settled([HERE], 0)
    request.reply(b"answer")
    assert not taken.intake.wait_settled([HERE], 0)
    thread = threading.Timer(0.01, taken.loop.finish)
    thread.start()
    assert taken.intake.wait_settled([HERE], 30)
    thread.join()


# ── offsets ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_programs_word_settles_what_it_was_given_and_nothing_else() -> None:
    taken = polling()
    for key in (b"a", b"b", b"c", b"d"):
        taken.take(key)
    first, second = poll(taken), taken.intake.next()
    assert taken.intake.settle_up_to({HERE: 1}) == {HERE: 1}
    assert first is not None and first.state is State.SETTLED  # noqa: PT018
    assert second is not None and second.state is State.HANDED  # noqa: PT018
    assert taken.intake.settle_up_to({HERE: 4}) == {HERE: 2}, "two were not given yet"
    assert taken.intake.settle_up_to({HERE: 1}) == {HERE: 1}, "a program may commit less again"
    assert taken.intake.settle_up_to({(TOPIC, 9): 5}) == {}
    assert taken.intake.settle_up_to({(TOPIC, 1): 5}) == {(TOPIC, 1): 5}, "nothing was taken of it"


def test_the_programs_word_says_nothing_of_what_it_was_not_given() -> None:
    taken = polling()
    for value in (AWAY, b"v"):
        taken.take(None, value)
    second = poll(taken)
    taken.loop.finish()  # the first is ready now, too
    assert second is not None
    assert second.record.offset == 1
    assert taken.intake.settle_up_to({HERE: 2}) == {HERE: 0}
    assert offsets(taken) == [0]


def test_a_commit_never_passes_what_the_mesh_still_works_on() -> None:
    taken = polling()
    for key in (b"a", b"b", b"c"):
        taken.take(key)
    held(taken).retry(after=60)
    assert offsets(taken) == [1, 2]
    assert taken.intake.settle_up_to({HERE: 3}) == {HERE: 0}


def test_a_commit_past_what_the_program_holds_is_refused_and_settles_nothing() -> None:
    taken = polling()
    for key in (b"a", b"b"):
        taken.take(key)
    held(taken)
    second = poll(taken)
    with pytest.raises(
        FailedPrecondition, match=r"orders/0: offset 2 can't be committed: the message at 0 is not"
    ):
        taken.intake.settle_up_to({HERE: 2})
    assert second is not None
    assert second.state is State.HANDED


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_partition_is_full_by_what_waits_and_not_by_what_the_program_was_given() -> None:
    taken = polling(limit=3)
    for number in range(6):
        taken.take(b"%d" % number)
    for _ in range(6):
        assert taken.intake.next() is not None
    assert taken.intake.full == set()
    assert taken.intake.next() is None
    for _ in range(3):
        taken.take(b"0")
    taken.take(b"z", partition=1)
    assert taken.intake.full == {HERE}
    assert len(offsets(taken)) == 4
    assert taken.intake.full == set()


def test_a_partition_is_full_where_many_are_done_behind_one_that_is_held() -> None:
    taken = polling(limit=3)
    for number in range(4):
        taken.take(b"%d" % number)
    first = held(taken)
    assert len(offsets(taken)) == 3
    assert taken.intake.full == {HERE}
    first.done()
    assert taken.intake.full == set()


# ── the retry topic ───────────────────────────────────────────────────────────────────────────────────────


def test_a_record_of_the_retry_topic_is_given_when_it_is_due_under_the_programs_topic(clock: Clock) -> None:
    taken = polling(ordering="none")
    taken.take_early(b"late", clock.now + 60_000)
    taken.take_early(b"soon", clock.now + 1_000)
    taken.take_early(b"due", clock.now)
    assert [poll(taken).record.key] == [b"due"]  # type: ignore[union-attr]
    assert taken.intake.next_in() == pytest.approx(0.01)  # that one may still be settled by another thread
    assert poll(taken) is None
    assert taken.intake.next_in() == 1.0
    clock.now += 1_000
    delivery = poll(taken)
    assert delivery is not None
    assert (delivery.topic, delivery.record.topic, delivery.attempt) == (TOPIC, RETRY_TOPIC, 2)
    assert taken.intake.committable() == {}, "what is done behind one that waits is not committed"


def test_records_that_are_not_due_never_hold_back_those_that_are(clock: Clock) -> None:
    taken = polling(ordering="none", limit=10)
    for number in range(200):
        taken.take_early(b"%d" % number, clock.now + 3_600_000)
    assert RETRIES not in taken.intake.full, "only what is due counts"
    taken.take_early(b"due", clock.now)
    assert [poll(taken).record.key] == [b"due"]  # type: ignore[union-attr]


def test_what_waits_gives_way_where_too_many_are_done_behind_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "_LOOK_SECONDS", 0.0)
    taken = polling(ordering="none", limit=10)
    waiting = taken.take_early(b"waits", clock.now + 3_600_000)
    for number in range(12):
        taken.take_early(b"%d" % number, clock.now)
    while poll(taken) is not None:
        taken.loop.finish()
    taken.loop.finish()
    assert ("put back", waiting) in taken.written
    assert taken.intake.committable() == {RETRIES: 13}
    assert taken.intake.next_in() is None


def test_what_can_not_be_moved_goes_on_waiting_and_is_given_when_it_is_due(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "_LOOK_SECONDS", 0.0)
    taken = polling(ordering="none", limit=4)
    taken.broken = Unavailable("Kafka is away")
    taken.take_early(b"waits", clock.now + 5_000)
    for number in range(6):
        taken.take_early(b"%d" % number, clock.now)
    while poll(taken) is not None:
        taken.loop.finish()
    taken.loop.finish()
    assert taken.written == []
    clock.now += 5_000
    assert [poll(taken).record.key] == [b"waits"]  # type: ignore[union-attr]


def test_giving_up_a_retry_topic_moves_what_others_are_done_behind(clock: Clock) -> None:
    taken = polling(ordering="none")
    waiting = taken.take_early(b"waits", clock.now + 3_600_000)
    taken.take_early(b"due", clock.now)
    assert offsets(taken) == [1]
    assert not taken.intake.wait_settled([RETRIES], 0)
    taken.loop.finish()
    assert taken.intake.wait_settled([RETRIES], 0)
    assert taken.written == [("put back", waiting)]
    assert taken.intake.committable() == {RETRIES: 2}


def test_retries_of_another_group_are_passed_over(clock: Clock) -> None:
    taken = polling(ordering="none")
    taken.take_early(b"other", clock.now, group="shipping")
    taken.take_early(b"the service's own", clock.now, group=None)
    assert poll(taken) is None
    assert taken.intake.committable() == {RETRIES: 2}


def test_what_was_put_back_for_another_group_is_passed_over() -> None:
    taken = polling()
    taken.take(b"a", envelope=Envelope(replay_id="r1", group="shipping"))
    taken.take(b"b", envelope=Envelope(replay_id="r1", group=GROUP))
    taken.take(b"c", envelope=Envelope(replay_id="r1"))
    taken.take(b"d", envelope=Envelope(group="shipping"))  # somebody's own header, on a first delivery
    assert offsets(taken) == [1, 2, 3]


def test_parked_retries_are_written_and_hold_nothing() -> None:
    taken = polling(ordering="none")
    for _ in range(2):
        taken.take(b"a")
    held(taken).fail(ValueError("no"))
    assert offsets(taken) == [1]
    assert taken.intake.committable() == {}
    taken.loop.finish()
    assert taken.kinds == ["RetryLater"]
    assert taken.intake.committable() == {HERE: 2}


# ── when the mesh can't go on ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("broken", "raised"), [(Unavailable("fenced"), Unavailable), (KeyError("bug"), InternalError)]
)
def test_an_outcome_that_can_never_be_made_durable_is_told_to_who_polls(
    broken: Exception, raised: type[Exception]
) -> None:
    taken = polling()
    taken.broken = broken
    taken.take(b"a")
    held(taken).dead_letter("bad")
    taken.loop.finish()
    assert taken.intake.next_in() == 0.0
    for _ in range(2):
        with pytest.raises(raised):
            poll(taken)
    assert taken.intake.committable() == {}


def test_an_interrupt_that_comes_while_a_layer_runs_is_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = polling()
    taken.take(b"a")
    delivery = poll(taken)
    assert delivery is not None

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Polling, "_settle", interrupted)
    taken.intake._work._steps = taken._steps(Retry(), 0.0)
    taken.take(b"b")
    second = taken.intake.next()
    assert second is not None
    with pytest.raises(KeyboardInterrupt):
        second.done()


def test_the_adapter_is_woken_for_what_other_threads_bring_and_not_by_its_own_polling() -> None:
    wakes: list[int] = []
    taken = polling(woken=lambda: wakes.append(1))
    for key, value in ((b"a", b"v"), (b"a", b"v"), (b"b", AWAY), (b"c", b"v")):
        taken.take(key, value)
    first = held(taken)
    assert poll(taken) is not None
    assert poll(taken) is None
    assert wakes == []
    assert taken.intake.next_in() is None, "who is woken need not look again"
    taken.loop.finish()
    assert len(wakes) == 1
    first.retry()
    assert len(wakes) == 2


def test_what_is_never_concluded_is_collected_without_a_word() -> None:
    taken = polling()
    taken.take(b"a")
    taken.take(b"b", AWAY)
    held(taken)
    assert poll(taken) is None
    del taken
    gc.collect()  # warnings are errors
