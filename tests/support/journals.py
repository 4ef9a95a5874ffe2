"""What several handlers have done with one topic, by the journals that each of them kept, and what must hold of it.

A journal is of one process, from its start to its end or SIGKILL. Times are CLOCK_MONOTONIC's, one for all processes
of the machine. The rules, for a group of handlers that may be killed at any moment:

1. Nothing is lost: each offset below the end was handled at least once.
2. Nothing is passed over: the position from which a handler begins a partition is one below which everything has been
   handled; and what it handles lies at that position or after it.
3. Order by key: when an offset of a key is handled for the first time, all earlier offsets of that key have been. And
   within one assignment of a partition to one process a key only goes forward: what is handled a second time was begun
   anew, from a committed position.
4. A key is on one partition, and its flights stand there in the order in which they were sent.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


def time_ns() -> int:
    """Give the time of the machine that all its processes share, ns."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Joined(NamedTuple):
    """A handler was assigned a partition, where `position` was committed."""

    at: int
    partition: int
    position: int

    def line(self) -> bytes:
        return f"joined {self.at} {self.partition} {self.position}\n".encode()


class Handled(NamedTuple):
    """A handler has done its work on a message, and not settled it yet; the key is empty for none."""

    at: int
    partition: int
    offset: int
    number: int
    attempt: int
    key: str
    trace_id: str
    traceparent: str

    def line(self) -> bytes:
        return f"handled {' '.join(str(part) or '-' for part in self)}\n".encode()


class Journal(NamedTuple):
    """What one process wrote."""

    name: str
    entries: list[Joined | Handled]

    @property
    def handled(self) -> list[Handled]:
        return [entry for entry in self.entries if isinstance(entry, Handled)]


def read_journal(path: Path) -> Journal:
    entries: list[Joined | Handled] = []
    for line in path.read_text().splitlines():
        what, *parts = line.split(" ")
        if what == "joined":
            entries.append(Joined(*map(int, parts)))
        else:
            *numbers, key, trace_id, traceparent = parts
            entries.append(Handled(*map(int, numbers), "" if key == "-" else key, trace_id, traceparent))  # type: ignore[call-arg, arg-type]
    return Journal(path.name, entries)


def check_none_lost(journals: Iterable[Journal], ends: dict[int, int]) -> None:
    handled = {(each.partition, each.offset) for journal in journals for each in journal.handled}
    lost = {(number, offset) for number, end in ends.items() for offset in range(end)} - handled
    assert not lost, f"{len(lost)} were never handled, as {sorted(lost)[:5]}"


def check_nothing_passed_over(journals: Iterable[Journal]) -> None:
    merged = sorted((entry.at, journal.name, entry) for journal in journals for entry in journal.entries)
    handled: dict[int, set[int]] = defaultdict(set)
    done: dict[int, int] = defaultdict(int)  # by partition: everything below has been handled
    begun: dict[tuple[str, int], int] = {}
    for _, name, entry in merged:
        number = entry.partition
        if isinstance(entry, Joined):
            assert entry.position <= done[number], (
                f"{name}: offset {entry.position} of partition {number} was committed, and {done[number]} not handled"
            )
            begun[name, number] = entry.position
            continue
        assert entry.offset >= begun[name, number], f"{name}: {entry} lies before what it was to begin with"
        handled[number].add(entry.offset)
        while done[number] in handled[number]:
            handled[number].discard(done[number])
            done[number] += 1


def check_order_by_key(journals: Iterable[Journal]) -> None:
    journals = list(journals)
    for journal in journals:
        latest: dict[str, int] = {}
        for entry in journal.entries:
            if isinstance(entry, Joined):
                latest.clear()  # a little more lenient than it must be: of this partition's keys alone
            elif entry.key:
                before = latest.get(entry.key, -1)
                assert entry.offset > before, f"{journal.name}: {entry} came after offset {before}"
                latest[entry.key] = entry.offset
    offsets: dict[str, set[int]] = defaultdict(set)
    for journal in journals:
        for each in journal.handled:
            offsets[each.key].add(each.offset)
    due = {key: iter(sorted(found)) for key, found in offsets.items()}
    seen: set[tuple[int, int]] = set()
    for each in sorted(each for journal in journals for each in journal.handled):
        if each.key and (each.partition, each.offset) not in seen:
            seen.add((each.partition, each.offset))
            first = next(due[each.key])
            assert each.offset == first, f"{each} was handled before offset {first} of its key"


def check_sent_in_order(journals: Iterable[Journal]) -> None:
    by_place = {(each.partition, each.offset): each for journal in journals for each in journal.handled}
    latest: dict[str, Handled] = {}
    for _, each in sorted(by_place.items()):
        if each.key:
            before = latest.get(each.key)
            assert before is None or (before.partition == each.partition and before.number < each.number)
            latest[each.key] = each
