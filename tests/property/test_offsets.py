"""The offset tracker against a naive model: whatever the order of work, no commit passes an unsettled record."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker_mesh.kafka.offsets import OffsetTracker


class TrackerMachine(RuleBasedStateMachine):
    """The model keeps every offset ever taken and settled, and computes the position anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.start = 0
        self.taken: list[int] = []
        self.settled: set[int] = set()
        self.committed = 0
        self.skipped_to = 0
        self.tracker = OffsetTracker(0)

    @initialize(start=st.integers(0, 5))
    def begin(self, start: int) -> None:
        self.start = self.committed = start
        self.tracker = OffsetTracker(start)

    @property
    def unsettled(self) -> list[int]:
        return [offset for offset in self.taken if offset not in self.settled]

    @rule(gap=st.integers(0, 3))
    def take_the_next_record_perhaps_after_a_gap(self, gap: int) -> None:
        offset = self.expected_next() + gap
        self.tracker.take(offset)
        self.taken.append(offset)

    @rule(further=st.integers(-3, 3))
    def skip_markers_that_are_no_records(self, further: int) -> None:
        offset = self.expected_next() + further
        before = self.expected_position()
        moved = self.tracker.skip_to(offset)
        self.skipped_to = max(self.skipped_to, offset)
        assert moved == (self.expected_position() != before)

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def settle_a_pending_record(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(self.unsettled))
        before = self.expected_position()
        moved = self.tracker.done(offset)
        self.settled.add(offset)
        assert moved == (self.expected_position() != before)

    @rule(offset=st.integers(-1, 40))
    def settle_what_is_not_pending(self, offset: int) -> None:
        if offset not in self.unsettled:
            with pytest.raises(ValueError, match="not pending"):
                self.tracker.done(offset)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def take_a_record_again(self, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, self.taken[-1]))
        with pytest.raises(ValueError, match="taken already"):
            self.tracker.take(offset)

    def expected_next(self) -> int:
        """What may be taken next: what follows the last record, and what was skipped."""
        return max(self.taken[-1] + 1 if self.taken else self.start, self.skipped_to)

    def expected_position(self) -> int:
        """The first record that is not settled; with none open, what may be taken next."""
        return self.unsettled[0] if self.unsettled else self.expected_next()

    @invariant()
    def the_position_is_the_first_unsettled_record(self) -> None:
        assert self.tracker.position == self.expected_position()

    @invariant()
    def no_record_before_the_position_is_unsettled(self) -> None:
        assert all(offset >= self.tracker.position for offset in self.unsettled)

    @invariant()
    def the_position_never_goes_back(self) -> None:
        assert self.tracker.position >= self.committed
        self.committed = self.tracker.position

    @invariant()
    def what_keeps_done_records_beyond_the_position_is_known(self) -> None:
        beyond = sorted(offset for offset in self.settled if offset > self.tracker.position)
        assert self.tracker.beyond == len(beyond)
        for count in (0, 1, len(beyond) // 2, len(beyond), len(beyond) + 1):
            last = beyond[min(count, len(beyond)) - 1] if count and beyond else -1
            expected = [offset for offset in self.unsettled if offset < last or count > len(beyond)]
            assert self.tracker.open_before(count) == expected

    @invariant()
    def as_many_are_pending_as_are_unsettled(self) -> None:
        assert self.tracker.pending == len(self.unsettled)


TestTracker = TrackerMachine.TestCase
TestTracker.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_record_that_is_done_out_of_order_waits_for_those_before_it() -> None:
    tracker = OffsetTracker(0)
    for offset in (0, 1, 2):
        tracker.take(offset)
    assert not tracker.done(1)
    assert not tracker.done(2)
    assert tracker.position == 0
    assert tracker.done(0)
    assert (tracker.position, tracker.pending) == (3, 0)


def test_offsets_that_never_arrive_are_passed_over() -> None:
    tracker = OffsetTracker(10)
    tracker.take(13)
    assert tracker.position == 13
    tracker.take(17)
    with pytest.raises(ValueError, match="offset 15 is not pending"):
        tracker.done(15)
    assert tracker.done(13)
    assert tracker.position == 17
