"""Parking: which keys stand in the retry topic, so that nothing of theirs may pass them.

On the way of a message: asked before its first attempt, and when a failed one would have to wait for long. The first
record of a key that is parked waits in the retry topic for its next attempt; from then on every later one is written
behind it, until the last of the key that stands there is settled. Pure: `parked.py` reads what stands there when a
partition is taken over, `sidings.py` joins both.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple, TypeAlias, TypeVar

from broker_mesh.headers import Place
from broker_mesh.message import Message

MAX_KEYS = 100_000
"""How many keys may be parked in one process before nothing more is parked but what stands behind them."""

_LONGEST_KEY = 64

K = TypeVar("K")

Copied: TypeAlias = tuple[Place, str | None, str]
"""What a record and its copies have in common: where the first of them stands; of a replay also that and its id."""


class _Stand:
    """How far back a key stands in its retry partition."""

    __slots__ = ("highest", "settled", "writing")

    def __init__(self) -> None:
        self.highest = -1  # its last record there
        self.settled = -1  # the last that is settled: its records are handled in their order
        self.writing = 0  # records on their way there, whose offset nobody knows yet

    @property
    def is_over(self) -> bool:
        return not self.writing and self.settled >= self.highest


class Parking:
    """The keys that stand in one retry partition. Keys go in as `name_of` gives them."""

    def __init__(self) -> None:
        self._stands: dict[bytes, _Stand] = {}

    def __len__(self) -> int:
        return len(self._stands)

    def holds(self, key: bytes) -> bool:
        """Tell whether a key stands there, or is on its way there."""
        return key in self._stands

    def writing(self, key: bytes) -> None:
        """Note that a record of a key is about to be written there: its key is held until the end of that is known."""
        self._stand(key).writing += 1

    def written(self, key: bytes, offset: int) -> None:
        """Note where a record stands that was being written."""
        stand = self._stands[key]
        stand.writing -= 1
        stand.highest = max(stand.highest, offset)
        self._let_go(key, stand)

    def not_written(self, key: bytes) -> None:
        """Note that a record which was being written is not there, or is another member's business."""
        stand = self._stands[key]
        stand.writing -= 1
        self._let_go(key, stand)

    def taken(self, key: bytes, offset: int) -> None:
        """Note that a record was read there; also one that another has written: a replay, an owner who came late."""
        stand = self._stand(key)
        stand.highest = max(stand.highest, offset)

    def settled(self, key: bytes, offset: int) -> None:
        """Note that a record there is settled; with the last one its key is free."""
        stand = self._stands.get(key)
        if stand is not None:
            stand.settled = max(stand.settled, offset)
            self._let_go(key, stand)

    def found(self, last: Mapping[bytes, int], end: int, settled: Settled) -> None:
        """Take over what a reader has found there.

        Args:
            last: the highest offset of each key.
            end: the offset behind the last that it looked at. What is said here of keys before it no longer holds
                where it has not found them: they were settled elsewhere.
            settled: what has been settled meanwhile.
        """
        for key in [key for key, stand in self._stands.items() if stand.highest < end and key not in last]:
            stand = self._stands[key]
            stand.settled = max(stand.settled, stand.highest)
            self._let_go(key, stand)
        for key, offset in last.items():
            if not settled.includes(offset):
                self.taken(key, offset)

    def passed(self, position: int) -> None:
        """Note that everything before an offset is settled, or gone."""
        for key in [key for key, stand in self._stands.items() if stand.highest < position]:
            self.settled(key, position - 1)

    def _stand(self, key: bytes) -> _Stand:
        stand = self._stands.get(key)
        if stand is None:
            stand = self._stands[key] = _Stand()
        return stand

    def _let_go(self, key: bytes, stand: _Stand) -> None:
        if stand.is_over:
            del self._stands[key]


class Settled(NamedTuple):
    """Which offsets of a partition are settled.

    Args:
        position: all before this one.
        beyond: and these ranges, ascending, each with its end behind the last.
    """

    position: int
    beyond: tuple[tuple[int, int], ...] = ()

    def includes(self, offset: int) -> bool:
        """Tell whether an offset is settled."""
        if offset < self.position:
            return True
        before = bisect_right(self.beyond, offset, key=lambda each: each[0])
        return before > 0 and offset < self.beyond[before - 1][1]


def name_of(key: bytes) -> bytes:
    """Give what a key is known by here: itself, or its digest where it is long, so that many of them stay small."""
    # A digest behind a key's own first bytes is longer than any key that stands for itself.
    return key if len(key) <= _LONGEST_KEY else key[:_LONGEST_KEY] + blake2b(key, digest_size=16).digest()


def origin_of(message: Message) -> Place:
    """Tell what a copy of a message in a retry topic names as its origin.

    Of a record of the operation's or event's own topic its own place, whatever its headers say; what was put back from
    a dead letter, and what comes from a retry topic, keeps the origin that it has.
    """
    record, envelope = message.record, message.envelope
    assert record is not None  # only received messages are parked
    is_first = message.topic == message.operation and envelope.replay_id is None
    if envelope.origin is None or is_first:
        return Place(record.topic, record.partition, record.offset)
    return envelope.origin


def identity(message: Message) -> Copied:
    """Tell what a message has in common with its copies in the retry topic, and with nothing else."""
    replay = message.envelope.replay_id
    return origin_of(message), replay, message.envelope.id if replay is not None else ""


def too_many(waiting: Mapping[K, int], in_flight: int) -> list[K]:
    """Decide which lanes give up waiting in place, because the window fills with what waits.

    Args:
        waiting: how many records each lane holds that waits for its next attempt.
        in_flight: how many records of the topic are in flight, near as many as may be.

    Returns:
        The fullest ones: none as long as less than a quarter of the window waits, else as many as it takes to bring
        that down to an eighth.
    """
    held = sum(waiting.values())
    chosen: list[K] = []
    if 4 * held >= in_flight:
        for lane, size in sorted(waiting.items(), key=lambda item: item[1], reverse=True):
            if 8 * held <= in_flight:
                break
            chosen.append(lane)
            held -= size
    return chosen


def total(parkings: Iterable[Parking]) -> int:
    """Count the keys that are parked in all of them."""
    return sum(map(len, parkings))
