"""The offset tracker and what is written beside a commit, against a naive model, over any number of owners.

The log has gaps (compaction, transaction markers) and loses its head (retention); owners end between any two steps, and
the next one starts from what Kafka has: the last commit that was acknowledged.
"""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker_mesh.kafka.offsets import OffsetTracker
from broker_mesh.progress import MAX_LENGTH, Attempts, Progress, Ranges


class OwnersMachine(RuleBasedStateMachine):
    """The model keeps every record that was ever settled, and what was so when the last commit was written."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[int] = []
        self.kept_from = 0
        self.settled: set[int] = set()
        self.known: set[int] = set()  # of those, what the owner knows of
        self.settled_when_committed: set[int] = set()
        self.committed = (0, "")
        self.tracker = OffsetTracker(0)
        self.delivered: list[int] = []
        self.open: set[int] = set()
        self.position = 0

    @rule(gaps=st.lists(st.integers(0, 3), min_size=1, max_size=8))
    def append(self, gaps: list[int]) -> None:
        for gap in gaps:
            self.log.append((self.log[-1] + 1 if self.log else 0) + gap)

    @property
    def to_come(self) -> list[int]:
        behind = self.delivered[-1] if self.delivered else self.committed[0] - 1
        return [offset for offset in self.log if offset > behind and offset >= self.kept_from]

    @precondition(lambda self: self.to_come)
    @rule(count=st.integers(1, 6))
    def deliver(self, count: int) -> None:
        for offset in self.to_come[:count]:
            self.delivered.append(offset)
            if self.tracker.take(offset):
                self.open.add(offset)
                assert offset not in self.settled_when_committed, "runs again though it was committed as done"
            else:
                assert offset in self.settled, "lost: it was never settled"

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.open)))
        self.tracker.done(offset)
        self.open.discard(offset)
        self.settled.add(offset)
        self.known.add(offset)

    @rule()
    def commit(self) -> None:
        position = self.tracker.position
        text = Progress(done=self.tracker.done_beyond, running=True).write(position)
        assert len(text) <= MAX_LENGTH
        self.committed = position, text
        self.settled_when_committed = set(self.known)

    @rule()
    def end(self) -> None:
        """The owner ends, and another one takes over what Kafka has."""
        position, text = self.committed
        self.tracker = OffsetTracker(position, Progress.read(text, position).done)
        self.delivered, self.open, self.position = [], set(), position
        self.known = set(self.settled_when_committed)

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def lose_the_head_of_the_log(self, data: st.DataObject) -> None:
        self.kept_from = data.draw(st.integers(self.kept_from, self.log[-1] + 1))

    @invariant()
    def the_position_never_goes_back_and_passes_nothing_open(self) -> None:
        assert self.tracker.position >= self.position
        self.position = self.tracker.position
        assert all(offset >= self.position for offset in self.open)
        gone = {offset for offset in self.log if offset < self.kept_from}
        passed = {offset for offset in self.log if offset < self.position}
        assert passed <= self.settled | gone

    @invariant()
    def what_is_done_beyond_is_known_exactly(self) -> None:
        ranges = self.tracker.done_beyond
        assert all(start < end for start, end in ranges)
        assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
        beyond = {offset for offset in self.log if any(start <= offset < end for start, end in ranges)}
        gone = {offset for offset in self.log if offset < self.kept_from}
        assert beyond <= self.settled | gone
        assert {offset for offset in self.known if offset >= self.position} <= beyond


TestOwners = OwnersMachine.TestCase
TestOwners.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@st.composite
def ranges(draw: st.DrawFn) -> Ranges:
    lengths = draw(st.lists(st.tuples(st.integers(1, 5_000), st.integers(1, 5_000)), max_size=60))
    found, offset = [], draw(st.integers(0, 2**40))
    for opened, done in lengths * draw(st.integers(1, 60)):
        found.append((offset + opened, offset + opened + done))
        offset += opened + done
    return tuple(found)


@settings(deadline=None, max_examples=60)
@given(
    done=ranges(),
    attempts=st.dictionaries(
        st.integers(0, 2**41),
        st.builds(Attempts, st.integers(1, 10**6), st.none() | st.integers(1, 2**42), st.booleans()),
        max_size=300,
    ),
    position=st.integers(0, 2**40),
)
def test_whatever_is_written_fits_and_says_nothing_that_is_not_so(
    done: Ranges, attempts: dict[int, Attempts], position: int
) -> None:
    text = Progress(done, attempts).write(position)
    assert text.isascii()
    assert len(text) <= MAX_LENGTH
    kept = Progress.read(text, position)
    clipped = [(max(start, position), end) for start, end in done if end > position]
    assert list(kept.done) == clipped[: len(kept.done)]
    in_order = sorted(offset for offset in attempts if offset >= position)
    assert dict(kept.attempts) == {offset: attempts[offset] for offset in in_order[: len(kept.attempts)]}
    assert kept.done or not clipped
