"""A wrapped consumer under everything a program can do, in any order: no order is broken, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker_mesh.delivery import Delivery, State
from broker_mesh.errors import Aborted, FailedPrecondition
from broker_mesh.layers.retry import Retry
from broker_mesh.message import Record
from tests.support.polling import AWAY, OUTAGE, REFUSED, REQUEST, RETRY_TOPIC, TOPIC, Polling

PARTITIONS = [(TOPIC, 0), (TOPIC, 1), (RETRY_TOPIC, 0)]
KEYS = st.sampled_from([b"a", b"b", b"c"])
VALUES = st.sampled_from([b"v", b"v", b"v", AWAY, REFUSED, OUTAGE, REQUEST])
WHICH = st.integers(0, 30)
START = 1_000_000_000

Place = tuple[str, int]


class Program(RuleBasedStateMachine):
    """A program that polls, and a model of what Kafka and the program know."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self._patches = [
            patch(f"{module}.now_ms", lambda: self.now)
            for module in (
                "broker_mesh.attempts",
                "broker_mesh.delivery",
                "broker_mesh.early",
                "broker_mesh.intake",
                "broker_mesh.lanes",
                "tests.support.polling",
            )
        ]
        for each in self._patches:
            each.start()

    def teardown(self) -> None:
        for each in self._patches:
            each.stop()

    @initialize(ordering=st.sampled_from(["key", "none"]))
    def begin(self, ordering: str) -> None:
        self.ordering = ordering
        self.world = Polling(ordering=ordering, retry=Retry(attempts=3, backoff=1.0), draw=0.5, limit=50)
        self.intake = self.world.intake
        self.committed: dict[Place, int] = {}
        self.logs: dict[Place, list[Record]] = {place: [] for place in PARTITIONS}
        self.read: dict[Place, int] = {}  # where the client stands; assigned ones only
        self.began: dict[Place, int] = {}  # where the assignment began
        self.paused: set[Place] = set()
        self.program: list[Delivery] = []  # what the program has in its hands, current or not
        self.attempts: dict[tuple[Place, int], int] = {}  # in this assignment
        self.given: list[tuple[Place, int]] = []  # in this assignment
        for place in PARTITIONS:
            self.assign(place)

    # ── Kafka ─────────────────────────────────────────────────────────────────────────────────────────────

    def assign(self, place: Place) -> None:
        start = self.committed.get(place, 0)
        self.intake.assigned([place])
        self.read[place] = self.began[place] = start
        self._forget(place)

    def _forget(self, place: Place) -> None:
        self.attempts = {key: number for key, number in self.attempts.items() if key[0] != place}
        self.given = [key for key in self.given if key[0] != place]

    @rule(place=st.sampled_from(PARTITIONS[:2]), key=KEYS, value=VALUES)
    def deliver(self, place: Place, key: bytes, value: bytes) -> None:
        if place in self.read and place not in self.intake.full:
            self._take(place, lambda offset: self.world.take(key, value, partition=place[1], offset=offset))

    @rule(key=KEYS, delay=st.sampled_from([0, 100, 5_000]))
    def deliver_retry(self, key: bytes, delay: int) -> None:
        place = PARTITIONS[2]
        if place in self.read and place not in self.intake.full:
            self._take(place, lambda offset: self.world.take_early(key, self.now + delay, offset=offset))

    def _take(self, place: Place, make: Any) -> None:
        """Read on: what stands there already, or something new."""
        offset = self.read[place]
        log = self.logs[place]
        if offset < len(log):
            self.intake.take(log[offset], log[offset])
        else:
            log.append(make(offset))
        self.read[place] = offset + 1

    @rule(place=st.sampled_from(PARTITIONS))
    def revoke(self, place: Place) -> None:
        if place in self.read:
            self._commit()
            self.intake.ended([place])
            del self.read[place], self.began[place]
            self.paused.discard(place)
            self._forget(place)

    @rule(place=st.sampled_from(PARTITIONS))
    def assign_again(self, place: Place) -> None:
        if place not in self.read:
            self.assign(place)

    @rule(place=st.sampled_from(PARTITIONS))
    def seek_back(self, place: Place) -> None:
        if place in self.read:
            self._commit()
            self.assign(place)

    @rule()
    def commit(self) -> None:
        self._commit()

    def _commit(self) -> None:
        for place, offset in self.intake.committable().items():
            self._check_commit(place, offset)
            self.committed[place] = max(offset, self.committed.get(place, 0))

    def _check_commit(self, place: Place, offset: int) -> None:
        unsettled = [
            each.record.offset
            for each in self.program
            if each.state in (State.HANDED, State.HELD)
            and (each.record.topic, each.record.partition) == place
        ]
        assert all(offset <= other for other in unsettled), f"{place}: {offset} passes {unsettled}"

    # ── the mesh's loop and time ──────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.world.loop.begun)
    @rule(which=WHICH)
    def loop_goes_on(self, which: int) -> None:
        self.world.loop.go_on(which % len(self.world.loop.begun))

    @rule(ms=st.sampled_from([1, 200, 1_000, 10_000]))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    # ── the program ───────────────────────────────────────────────────────────────────────────────────────

    @rule()
    def poll(self) -> None:
        self.intake.conclude()
        self._got(self.intake.next())

    @rule(most=st.integers(1, 5))
    def consume(self, most: int) -> None:
        self.intake.conclude()
        lanes: set[Any] = set()
        for _ in range(most):
            delivery = self.intake.next(lanes)
            if delivery is None:
                break
            assert delivery.lane is None or delivery.lane not in lanes
            lanes.add(delivery.lane)
            self._got(delivery)

    def _got(self, delivery: Delivery | None) -> None:
        if delivery is None:
            return
        record = delivery.record
        place = (record.topic, record.partition)
        assert place in self.read, "given of a partition that is not ours"
        assert place not in self.paused, "given while it is paused"
        key = (place, record.offset)
        assert record.value != REFUSED
        assert delivery.attempt == self.attempts.get(key, delivery.attempt - 1) + 1, "attempts rise by one"
        self.attempts[key] = delivery.attempt
        if self.ordering == "key":
            self._check_order(delivery, place)
        self.given.append(key)
        self.program.append(delivery)

    def _check_order(self, delivery: Delivery, place: Place) -> None:
        record = delivery.record
        later = [
            offset
            for other, offset in self.given
            if other == place
            and offset > record.offset
            and self.logs[place][offset].key == record.key
            and place[0] == TOPIC  # those of a retry topic come by their times
        ]
        assert later == [], f"{record.offset} comes after {later} of its key"
        blocking = [
            each
            for each in self.program
            if each.lane == delivery.lane
            and each is not delivery
            and each.state in (State.HANDED, State.HELD)
        ]
        assert blocking == [], f"{delivery!r} is given while {blocking} is with the program"

    def _mine(self, which: int) -> Delivery | None:
        return self.program[which % len(self.program)] if self.program else None

    @contextmanager
    def _perhaps_refused(self, delivery: Delivery) -> Iterator[None]:
        before = delivery.state
        try:
            yield
        except Aborted:
            assert before is State.GONE
        except FailedPrecondition:
            assert before in (State.SETTLING, State.SETTLED) or delivery.message.expects_reply
        else:
            assert before in (State.HANDED, State.HELD), f"settled from {before}"

    @rule(
        which=WHICH,
        how=st.sampled_from(["done", "fail", "retry", "later", "dead", "reply", "block", "raise"]),
    )
    def settle(self, which: int, how: str) -> None:
        delivery = self._mine(which)
        if delivery is None:
            return
        with self._perhaps_refused(delivery):
            match how:
                case "done":
                    delivery.done()
                case "fail":
                    delivery.fail(ValueError("no"))
                case "retry":
                    delivery.retry()
                case "later":
                    delivery.retry(after=3)
                case "dead":
                    delivery.dead_letter("bad")
                case "reply":
                    if delivery.message.expects_reply:
                        delivery.reply(b"answer")
                    else:
                        delivery.done()
                case "block":
                    with delivery.settling():
                        pass
                case "raise":
                    with delivery.settling():
                        raise ValueError("no")

    @rule(which=WHICH)
    def interrupt(self, which: int) -> None:
        delivery = self._mine(which)
        if delivery is not None and delivery.state in (State.HANDED, State.HELD):
            place = (delivery.record.topic, delivery.record.partition)
            with pytest.raises(KeyboardInterrupt), delivery.settling():
                raise KeyboardInterrupt
            self.attempts[place, delivery.record.offset] = delivery.attempt - 1  # this one does not count

    @rule(which=WHICH)
    def hold(self, which: int) -> None:
        delivery = self._mine(which)
        if delivery is not None and delivery.state is State.HANDED:
            delivery.hold()

    @rule(place=st.sampled_from(PARTITIONS), behind=st.integers(0, 3))
    def commit_offset(self, place: Place, behind: int) -> None:
        given = self.intake.positions().get(place)
        if given is None:
            return
        try:
            allowed = self.intake.settle_up_to({place: max(0, given - behind)})
        except FailedPrecondition:
            assert any(each.state is State.HELD for each in self.program)
            return
        self._check_commit(place, allowed[place])
        assert allowed[place] <= given - behind or given - behind < 0

    @rule(place=st.sampled_from(PARTITIONS))
    def pause(self, place: Place) -> None:
        if place in self.read:
            self.intake.pause([place])
            self.paused.add(place)

    @rule(place=st.sampled_from(PARTITIONS))
    def resume(self, place: Place) -> None:
        self.intake.resume([place])
        self.paused.discard(place)

    # ── what always holds ─────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def counters_are_right(self) -> None:
        work = self.intake._work
        holdings = work.holdings.values()
        assert work.pending == sum(each.tracker.pending for each in holdings)
        for holding in holdings:
            settling = sum(
                attempt.delivery is not None and attempt.delivery.state is State.SETTLING
                for attempt in holding.open.values()
            )
            assert holding.settling == settling
        assert work.checking >= 0
        self.program = [
            each for each in self.program if each.state is not State.GONE or each is self.program[-1]
        ]

    def finish(self) -> None:
        """Settle all: then nothing is left, and everything was settled or given."""
        self.intake.resume(PARTITIONS)
        self.paused.clear()
        for _ in range(10_000):
            self.world.loop.finish()
            for delivery in self.program:
                if delivery.state is State.HELD:
                    with delivery.settling():
                        if delivery.message.expects_reply:
                            delivery.reply(b"answer")
            self.now += 1_000
            self.poll()
            self.world.loop.finish()
            if self.intake._work.pending == 0:
                break
        else:
            raise AssertionError(f"{self.intake._work.pending} records are never settled")
        self._commit()
        assert self.intake._work.checking == 0
        assert self.intake.full == set()
        assert not self.intake._work.queue
        for place, position in self.read.items():
            if position > self.began[place]:
                assert self.committed[place] == position, f"{place}: committed {self.committed[place]}"


class FinishingProgram(Program):
    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.finish()
        finally:
            super().teardown()


TestProgram = FinishingProgram.TestCase
TestProgram.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
