"""Parking: a key is held from the first of its records that goes to the retry topic to the last that is settled."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker_mesh.headers import Envelope, Place
from broker_mesh.message import Message, Record
from broker_mesh.parking import Parking, Settled, identity, name_of, too_many

KEYS = [b"a", b"b"]


class ParkedKeys(RuleBasedStateMachine):
    """One retry partition: written by this owner and by others, read in order, settled in order by key."""

    def __init__(self) -> None:
        super().__init__()
        self.parking = Parking()
        self.log: list[bytes] = []  # keys, by offset
        self.pending: list[
            tuple[bytes, int | None]
        ] = []  # writes of this owner; with the offset, once on the log
        self.known: set[int] = set()  # offsets that this owner has written or taken
        self.position = 0
        self.settled: set[int] = set()

    @rule(key=st.sampled_from(KEYS))
    def begin(self, key: bytes) -> None:
        self.parking.writing(key)
        self.pending.append((key, None))

    @precondition(lambda self: any(offset is None for _, offset in self.pending))
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        waiting = [number for number, (_, offset) in enumerate(self.pending) if offset is None]
        number = data.draw(st.sampled_from(waiting))
        key = self.pending[number][0]
        self.pending[number] = key, len(self.log)
        self.log.append(key)

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        key, offset = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        if offset is None:
            self.parking.not_written(key)
        else:
            self.known.add(offset)
            self.parking.written(key, offset)

    @rule(key=st.sampled_from(KEYS))
    def another_writes(self, key: bytes) -> None:
        self.log.append(key)

    @precondition(lambda self: self.position < len(self.log))
    @rule()
    def take(self) -> None:
        self.known.add(self.position)
        self.parking.taken(self.log[self.position], self.position)
        self.position += 1

    @rule(key=st.sampled_from(KEYS))
    def settle_next(self, key: bytes) -> None:
        for offset in range(self.position):
            if self.log[offset] == key and offset not in self.settled:
                self.settled.add(offset)
                self.parking.settled(key, offset)
                return

    @rule()
    def read_anew(self) -> None:
        last = {key: offset for offset, key in enumerate(self.log) if offset not in self.settled}
        self.known |= set(range(len(self.log)))
        self.parking.found(last, len(self.log), self._settled())

    def _settled(self) -> Settled:
        position = next(offset for offset in range(len(self.log) + 1) if offset not in self.settled)
        return Settled(position, tuple((each, each + 1) for each in sorted(self.settled) if each > position))

    @invariant()
    def a_key_is_held_as_long_as_something_of_it_stands_there(self) -> None:
        for key in KEYS:
            stands = any(self.log[each] == key and each not in self.settled for each in self.known)
            on_its_way = any(each == key for each, _ in self.pending)
            assert self.parking.holds(key) == (stands or on_its_way)
        assert len(self.parking) == sum(map(self.parking.holds, KEYS))


TestParkedKeys = ParkedKeys.TestCase
TestParkedKeys.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_what_was_settled_while_the_topic_was_read_is_not_parked_again() -> None:
    parking = Parking()
    parking.found({b"a": 4, b"b": 7, b"c": 9}, 10, Settled(5, ((9, 10),)))
    assert [parking.holds(key) for key in (b"a", b"b", b"c")] == [False, True, False]


def test_what_another_owner_has_settled_is_free_after_reading() -> None:
    parking = Parking()
    for key, offset in ((b"gone", 3), (b"stands", 4), (b"newer", 12)):
        parking.writing(key)
        parking.written(key, offset)
    parking.writing(b"on its way")
    parking.found({b"stands": 4}, 10, Settled(4))
    held = [parking.holds(key) for key in (b"gone", b"stands", b"newer", b"on its way")]
    assert held == [False, True, True, True]


def test_what_is_gone_by_retention_holds_no_key() -> None:
    parking = Parking()
    parking.taken(b"a", 3)
    parking.taken(b"b", 8)
    parking.passed(8)
    assert (parking.holds(b"a"), parking.holds(b"b")) == (False, True)


def test_long_keys_take_little_and_stay_apart() -> None:
    one, other = name_of(b"x" * 10_000 + b"1"), name_of(b"x" * 10_000 + b"2")
    assert one != other
    assert len(one) < 100
    assert name_of(b"short") == b"short"
    assert name_of(name_of(b"x" * 100)) != name_of(b"x" * 100)


def _message(topic: str, offset: int, **envelope: object) -> Message:
    record = Record(topic, 1, offset, 0, b"k", b"", [])
    named = Envelope(id="id", **envelope)  # type: ignore[arg-type]
    return Message(topic=topic, operation="s.v1.x", envelope=named, record=record, partition=1)


def test_a_copy_has_the_identity_of_its_original_and_of_nothing_else() -> None:
    first, other = Place("s.v1.x", 1, 5), Place("elsewhere.v1.y", 0, 5)
    assert identity(_message("s.v1.x", 5)) == identity(_message("s.v1.x.retry", 9, origin=first))
    # What a sender has copied out of the headers of some other message is no reason to skip its record.
    assert identity(_message("s.v1.x", 5, origin=other)) == identity(_message("s.v1.x", 5))
    replay = _message("s.v1.x", 7, origin=first, replay_id="r1")
    assert identity(replay) == identity(_message("s.v1.x.retry", 11, origin=first, replay_id="r1"))
    assert identity(replay) != identity(_message("s.v1.x", 8, origin=first, replay_id="r2"))
    assert identity(replay) != identity(_message("s.v1.x", 5))


def test_lanes_leave_when_what_waits_fills_a_quarter_of_the_window() -> None:
    assert too_many({"a": 20, "b": 4}, 100) == []
    assert too_many({"a": 20, "b": 4, "c": 1}, 100) == ["a"]
    assert too_many({"a": 9, "b": 9, "c": 9}, 100) == ["a", "b"]
    assert too_many({"a": 1}, 4) == ["a"]
    assert too_many({}, 0) == []
